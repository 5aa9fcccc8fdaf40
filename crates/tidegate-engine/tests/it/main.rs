//! Groups as their users see them: on the memory engine, in virtual time, waiting on notices.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails, helpers included")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for one notice among all")]

mod bounds;
mod control;
mod desk;
mod duplicates;
mod faults;
mod faulty;
mod modules;
mod order;
mod path;
mod publish;
mod pull;
mod results;
mod scene;
mod sides;
mod stages;
mod steer;
mod stop;
mod threads;
mod time;

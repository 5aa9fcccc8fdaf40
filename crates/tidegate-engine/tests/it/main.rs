//! Groups as their users see them: on the memory engine, in virtual time, waiting on notices.

mod control;
mod duplicates;
mod faults;
mod faulty;
mod order;
mod path;
mod publish;
mod pull;
mod scene;
mod stop;
mod time;

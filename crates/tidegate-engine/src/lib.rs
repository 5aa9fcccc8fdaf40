//! Runs groups: claims deliveries, tries them, settles them; and everything else that runs in a node.
//!
//! **Invariant:** this crate knows no engine, no module and no HTTP: it sees a store, handlers and guards.

pub mod publisher;
pub mod supervisor;
pub mod task;

pub use self::{
    publisher::Publisher,
    supervisor::{Progress, Pulse, ServiceView, Supervisor},
    task::{Nudge, Task, TaskRunner, TaskView, Upkeep},
};

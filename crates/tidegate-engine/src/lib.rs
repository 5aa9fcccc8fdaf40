//! Runs groups: claims deliveries, tries them, settles them; and everything else that runs in a node.
//!
//! **Invariant:** this crate knows no engine, no module and no HTTP: it sees a store, handlers and guards.

mod desk;
mod group;
mod groups;
mod keeper;
mod modules;
mod node;
mod peers;
mod publisher;
mod sides;
mod supervisor;
mod task;
mod watermark;

pub use self::{
    desk::{Became, DESK_NAMES, Desk, JobAsk, JobProgress, JobState, JobVerb, JobView, Patch, dead_scope},
    group::{
        Drain, Glance, GroupPolicy, GroupState, GroupView, Keeper, Pace, Pause, PullStatus, Running, SeekAsk,
        UnblockAsk,
    },
    groups::Groups,
    keeper::GuardKeepers,
    modules::{Direction, Entrance, ModuleState, ModuleView, Modules},
    node::{Drained, Node},
    peers::{Heed, Peers, Round, States},
    publisher::{OnFull, Publisher},
    sides::{SideAsk, SideView, Sides},
    supervisor::{Progress, Pulse, ServiceView, Supervisor},
    task::{Nudge, Task, TaskRunner, TaskView, Upkeep},
    watermark::{WATERMARKS, Watermarks, backlog_percent},
};

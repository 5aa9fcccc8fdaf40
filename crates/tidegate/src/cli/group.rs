//! `tidegate group`: groups, and what can be done with them by hand.

use clap::Subcommand;
use serde_json::json;

use super::{
    Agreed, Asking, Because,
    blocked::{Blocked, Unblock},
    instant,
    replay::Replay,
    steer::{Drain, Seek},
};
use crate::{
    exit::Failed,
    ui::{Column, column, wide},
};

pub(super) const COLUMNS: &[Column] = &[
    column("group", "/name"),
    column("stream", "/stream"),
    column("state", "/state"),
    column("workers", "/workers"),
    column("waiting", "/waiting"),
    column("scheduled", "/scheduled"),
    column("in flight", "/in_flight"),
    column("done", "/done"),
    column("dead", "/dead"),
    wide("duplicates", "/duplicates"),
    wide("skipped", "/skipped"),
    wide("blocked", "/blocked"),
    wide("blocked keys", "/blocked_keys"),
    wide("replays", "/side/of"),
    column("oldest s", "/oldest_waiting_age_seconds"),
];

/// Groups.
#[derive(Debug, Subcommand)]
pub(super) enum Group {
    /// List all groups.
    List,
    /// Show one group.
    Show {
        /// Group.
        name: String,
    },
    /// Take no new work; what is held is finished.
    Pause {
        /// Group.
        name: String,
        #[command(flatten)]
        because: Because,
        /// When it resumes by itself: an instant, or a duration such as 30m.
        #[arg(long, value_parser = instant)]
        until: Option<String>,
    },
    /// Take work again.
    Resume {
        /// Group.
        name: String,
        #[command(flatten)]
        because: Because,
    },
    /// Wait until nothing of it waits or runs; exit code 1 when that takes too long.
    WaitDrained(super::drained::WaitDrained),
    /// Change the number of workers.
    Scale {
        /// Group.
        name: String,
        /// Workers.
        workers: u32,
        #[command(flatten)]
        because: Because,
    },
    /// Move a group to another place in its stream, or say what that would mean.
    Seek {
        /// Group.
        name: String,
        #[command(flatten)]
        seek: Seek,
    },
    /// List what waits for other events to be done, and for which.
    Blocked {
        /// Group.
        name: String,
        #[command(flatten)]
        which: Blocked,
    },
    /// Let an event go that waits for others, or reject it to the dead letters.
    Unblock {
        /// Group.
        name: String,
        #[command(flatten)]
        unblock: Unblock,
    },
    /// Handle a range of the stream of a group once more, in a side group with a ledger of its own; or say what that
    /// would mean.
    Replay {
        /// Group.
        name: String,
        #[command(flatten)]
        replay: Replay,
    },
    /// End a side group, or forget a group that the configuration no longer names; it holds back retention until then.
    Remove {
        /// Group.
        name: String,
        #[command(flatten)]
        because: Because,
        #[command(flatten)]
        agreed: Agreed,
    },
    /// Finish what is there, then take no new work; exit code 1 when the time is over before that.
    Drain {
        /// Group.
        name: String,
        #[command(flatten)]
        drain: Drain,
    },
}

impl Group {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let (name, verb, document) = match self {
            Self::List => {
                let answer = cx.node.get(&["v1", "groups"], &[]).await?;
                cx.ui.list(&answer, super::rows(&answer, "groups"), COLUMNS);
                return Ok(());
            }
            Self::Show { name } => {
                cx.ui.record(&cx.node.get(&["v1", "groups", &name], &[]).await?);
                return Ok(());
            }
            Self::WaitDrained(drained) => return drained.run(cx).await,
            Self::Pause { name, because, until } => {
                let mut document = json!({ "reason": because.reason });
                if let Some(until) = until {
                    document["until"] = until.into();
                }
                (name, "pause", document)
            }
            Self::Remove { name, because, agreed } => {
                cx.ui.confirm(agreed.yes, &format!("forget group {name}, its progress and its ledger"))?;
                (name, "remove", json!({ "reason": because.reason }))
            }
            Self::Blocked { name, which } => return which.run(cx, &name).await,
            Self::Unblock { name, unblock } => return unblock.run(cx, &name).await,
            Self::Seek { name, seek } => return seek.run(cx, &name).await,
            Self::Replay { name, replay } => return replay.run(cx, &name).await,
            Self::Drain { name, drain } => return drain.run(cx, &name).await,
            Self::Resume { name, because } => (name, "resume", json!({ "reason": because.reason })),
            Self::Scale { name, workers, because } => {
                (name, "scale", json!({ "workers": workers, "reason": because.reason }))
            }
        };
        let answer = cx.node.post(&["v1", "groups", &name, verb], &document).await?;
        match answer.get("group") {
            Some(group) => cx.ui.list(&answer, std::slice::from_ref(group), COLUMNS),
            None => cx.ui.record(&answer),
        }
        Ok(())
    }
}

//! Upkeep: retention, dead letters that nobody wants, ledgers and windows that ran out. Every step is small, and doing it
//! twice, or on two nodes at once, does no harm.

use std::sync::Arc;

use tidegate_core::{clock::Timestamp, fault::Result, names::StreamName};

use super::{
    PostgresStore,
    link::{Lane, Values},
    registry::time,
    row::{count, get},
};
use crate::served::declared::StreamHead;

/// Most events that one step looks at.
const STEP: i64 = 1_000;
/// Most steps of one pass over one stream; the next pass goes on.
const STEPS_MAX: u64 = 2_000;

impl PostgresStore {
    pub(crate) async fn tend(&self) -> Result<()> {
        self.load_registry().await?;
        let now = self.options.clock.now();
        let (streams, groups): (Vec<_>, Vec<_>) = {
            let registry = self.registry.read();
            (registry.streams.values().map(Arc::clone).collect(), registry.groups.values().map(Arc::clone).collect())
        };
        for stream in &streams {
            let id = stream.id.cast_signed();
            if stream.spec.name.is_dead_letters() {
                self.tend_letters(stream, now).await?;
            } else {
                self.trim(stream, now).await?;
                let values: Values<'_> = &[&id, &now.as_millis(), &STEP];
                self.repeat("clean a dedupe window", "SELECT tg_clean_marks($1, $2, $3) AS gone", values).await?;
            }
        }
        self.repeat("forget ledgers of groups that are gone", "SELECT tg_sweep($1) AS gone", &[&STEP]).await?;
        for group in groups {
            if let Some(keep) = group.spec.ledger {
                self.clean_before(&group, now.minus(keep)).await?;
            }
        }
        for status in self.group_statuses().await? {
            let id = self.registry.read().groups.get(&status.name).map(|head| head.id);
            let settled = status.done + status.dead + status.expired + status.dropped;
            if let Some(id) = id {
                self.told.lock().drain.entry(id).or_default().sample(settled, now);
            }
        }
        self.look_at_server().await
    }

    /// Repeats a step while it finds as much as it may.
    async fn repeat(&self, what: &str, statement: &'static str, values: Values<'_>) -> Result<()> {
        for _ in 0..STEPS_MAX {
            if get::<i64>(&self.ask_one(Lane::Look, what, statement, values).await?, "gone")? < STEP {
                return Ok(());
            }
            self.show_progress();
        }
        Ok(())
    }

    /// Drops what the policy of a stream wants gone although it is not settled, then removes what may go.
    async fn trim(&self, stream: &StreamHead, now: Timestamp) -> Result<()> {
        let retain = stream.spec.retain;
        let horizon = retain.age.map(|age| now.minus(age).as_millis());
        let bound = |most: Option<u64>| most.map(|most| i64::try_from(most).unwrap_or(i64::MAX));
        let (id, kept, bytes) = (stream.id.cast_signed(), bound(retain.count), bound(retain.bytes));
        if horizon.is_none() && kept.is_none() && bytes.is_none() {
            return Ok(());
        }
        let bounds: Values<'_> = &[&id, &kept, &horizon, &bytes, &STEP];
        for _ in 0..STEPS_MAX {
            if retain.drop_unsettled {
                let statement = "SELECT tg_overdue($1, $2, $3, $4, $5) AS stop";
                let stop: Option<i64> =
                    get(&self.ask_one(Lane::Look, "look for what is overdue", statement, bounds).await?, "stop")?;
                let readers = self.registry.read().readers(stream.id);
                for group in readers {
                    let values: Values<'_> = &[&group.cast_signed(), &STEP, &stop];
                    self.repeat("drop what is overdue", "SELECT tg_drop($1, $2, $3) AS gone", values).await?;
                }
            }
            let statement = "SELECT tg_trim($1, $2, $3, $4, $5) AS more";
            if !get::<bool>(&self.ask_one(Lane::Look, "remove what is not kept", statement, bounds).await?, "more")? {
                return Ok(());
            }
            self.show_progress();
        }
        Ok(())
    }

    /// Shows that the upkeep is alive: with much to do it takes long.
    pub(crate) fn show_progress(&self) {
        self.told.lock().status.progress_at = Some(self.options.clock.now());
    }

    /// Makes room in a full backlog by dropping what has waited longest.
    pub(crate) async fn make_room(&self, name: &StreamName, room: u64) -> Result<u64> {
        let head = self.stream_head(name).await?;
        let Some(most) = head.spec.max_backlog else { return Ok(0) };
        let mut all = 0;
        let readers = self.registry.read().readers(head.id);
        for group in readers {
            // One that has an end fills no backlog, and loses nothing to it.
            let is_bound = self.registry.read().group_by_id(group).is_none_or(|group| group.spec.end.is_some());
            if is_bound {
                continue;
            }
            let id = group.cast_signed();
            loop {
                let statement = "SELECT tg_backlog(g, s.acc) AS backlog FROM groups g JOIN streams s ON s.id = g.sid WHERE g.id = $1";
                let rows = self.ask(Lane::Look, "count a backlog", statement, &[&id]).await?;
                let Some(row) = rows.first() else { break };
                let over = (count(get(row, "backlog")?) + room).saturating_sub(most);
                let over = i64::try_from(over).unwrap_or(i64::MAX).min(STEP);
                let none = None::<i64>;
                let mut dropped = 0;
                if over > 0 {
                    let statement = "SELECT tg_drop($1, $2, $3) AS gone";
                    dropped = count(get(
                        &self.ask_one(Lane::Look, "make room", statement, &[&id, &over, &none]).await?,
                        "gone",
                    )?);
                }
                all += dropped;
                if dropped == 0 {
                    break;
                }
            }
        }
        Ok(all)
    }

    async fn tend_letters(&self, stream: &StreamHead, now: Timestamp) -> Result<()> {
        let keep = stream.spec.dead;
        let parked = keep.parked.map(|keep| now.as_millis().saturating_sub(time(keep)));
        let (id, settled) = (stream.id.cast_signed(), now.minus(keep.settled).as_millis());
        let most = i32::try_from(STEP).unwrap_or(i32::MAX);
        let values: Values<'_> = &[&id, &now.as_millis(), &parked, &settled, &most];
        self.repeat("give up dead letters", "SELECT tg_tend_letters($1, $2, $3, $4, $5) AS gone", values).await
    }
}

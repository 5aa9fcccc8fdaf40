//! Upkeep: retention, dead letters that nobody wants, ledgers and windows that ran out. Every step is small, and doing it
//! twice, or on two nodes at once, does no harm.

use std::sync::Arc;

use tidegate_core::{clock::Timestamp, fault::Result, names::StreamName};

use super::{
    RedisStore,
    registry::{StreamHead, millis},
    script::{Ask, SCRIPTS},
};

/// Most events that one step looks at.
const STEP: u64 = 500;
/// Most steps of one pass over one stream; the next pass goes on.
const STEPS_MAX: u64 = 2_000;

impl RedisStore {
    pub(crate) async fn tend(&self) -> Result<()> {
        self.load_registry().await?;
        let now = self.options.clock.now();
        let (streams, groups): (Vec<_>, Vec<_>) = {
            let registry = self.registry.read();
            (registry.streams.values().map(Arc::clone).collect(), registry.groups.values().map(Arc::clone).collect())
        };
        for stream in &streams {
            if stream.spec.name.is_dead_letters() {
                self.tend_letters(stream, now).await?;
            } else {
                self.trim(stream, now).await?;
                self.repeat("clean a dedupe window", || {
                    let mut ask = self.ask(&SCRIPTS.clean_window);
                    ask.number(stream.id).number(now.as_millis()).number(STEP);
                    ask
                })
                .await?;
            }
        }
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
    async fn repeat(&self, what: &str, step: impl Fn() -> Ask) -> Result<()> {
        for _ in 0..STEPS_MAX {
            if self.run(step(), what).await?.number::<u64>()? < STEP {
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
        for _ in 0..STEPS_MAX {
            let keep_from = self.keep_from(stream).await?;
            if retain.drop_unsettled {
                self.drop_overdue(stream, keep_from, horizon).await?;
            }
            let mut ask = self.ask(&SCRIPTS.trim);
            ask.number(stream.id).number(keep_from).maybe(horizon).maybe(retain.bytes).number(STEP);
            ask.number(u8::from(retain.drop_unsettled));
            let mut answer = self.run(ask, "remove what is not kept").await?;
            let (_, more): (u64, bool) = (answer.number()?, answer.flag()?);
            if !more {
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

    /// Returns the number of the first event that the bound on count keeps.
    async fn keep_from(&self, stream: &StreamHead) -> Result<u64> {
        let Some(count) = stream.spec.retain.count else { return Ok(0) };
        let all = self.stream_statuses().await?;
        let accepted = all.iter().find(|status| status.name == stream.spec.name).map_or(0, |status| status.accepted);
        Ok((accepted + 1).saturating_sub(count))
    }

    async fn drop_overdue(&self, stream: &StreamHead, keep_from: u64, horizon: Option<i64>) -> Result<()> {
        let mut ask = self.ask(&SCRIPTS.overdue);
        ask.number(stream.id).number(keep_from).maybe(horizon).maybe(stream.spec.retain.bytes).number(STEP);
        let stop: u64 = self.run(ask, "look for what is overdue").await?.number()?;
        let readers = self.registry.read().readers(stream.id);
        for group in readers {
            self.repeat("drop what is overdue", || self.dropping(group, STEP, Some(stop))).await?;
        }
        Ok(())
    }

    /// Drops the oldest unsettled events of a group, at most so many, or up to a number.
    fn dropping(&self, group: u32, most: u64, stop: Option<u64>) -> Ask {
        let mut ask = self.ask(&SCRIPTS.drop);
        ask.number(group).number(self.options.clock.now().as_millis()).number(most).maybe(stop);
        ask
    }

    /// Makes room in a full backlog by dropping what has waited longest.
    pub(crate) async fn make_room(&self, name: &StreamName, room: u64) -> Result<u64> {
        let head = self.stream_head(name).await?;
        let Some(most) = head.spec.max_backlog else { return Ok(0) };
        let mut count = 0;
        let has_end = |group: &u32| self.group_by_id(*group).is_some_and(|group| group.spec.end.is_some());
        let mut readers = self.registry.read().readers(head.id);
        // One that has an end fills no backlog, and loses nothing to it.
        readers.retain(|group| !has_end(group));
        for group in readers {
            loop {
                let mut ask = self.ask(&SCRIPTS.backlog);
                ask.number(group);
                let backlog: u64 = self.run(ask, "count a backlog").await?.number()?;
                let over = (backlog + room).saturating_sub(most);
                let mut dropped = 0;
                if over > 0 {
                    let ask = self.dropping(group, over.min(STEP), None);
                    dropped = self.run(ask, "make room").await?.number()?;
                }
                count += dropped;
                if dropped == 0 {
                    break;
                }
            }
        }
        Ok(count)
    }

    async fn tend_letters(&self, stream: &StreamHead, now: Timestamp) -> Result<()> {
        let keep = stream.spec.dead;
        let parked = keep.parked.map(|keep| now.as_millis() - i64::try_from(millis(keep)).unwrap_or(i64::MAX));
        let settled = now.minus(keep.settled).as_millis();
        self.repeat("give up dead letters", || {
            let mut ask = self.ask(&SCRIPTS.dead_upkeep);
            ask.number(stream.id).number(now.as_millis()).maybe(parked).number(settled).number(STEP);
            ask
        })
        .await
    }
}

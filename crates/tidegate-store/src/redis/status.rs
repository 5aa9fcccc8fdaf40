//! Counts of streams and groups, from one script, so that they are of one moment and add up.

use std::sync::Arc;

use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    fault::{Fault, Result},
    names::GroupName,
    store::{GroupStatus, StreamStatus},
};

use super::{
    RedisStore,
    entry::accepted_at,
    registry::{GroupHead, StreamHead},
    reply::Reply,
    script::SCRIPTS,
};

impl RedisStore {
    async fn counts(&self, streams: &[Arc<StreamHead>], groups: &[Arc<GroupHead>]) -> Result<(Reply, Reply)> {
        let mut ask = self.ask(&SCRIPTS.status);
        ask.number(self.options.clock.now().as_millis()).number(streams.len());
        for stream in streams {
            ask.number(stream.id);
        }
        ask.number(groups.len());
        for group in groups {
            ask.number(group.id);
        }
        let mut answer = self.run(ask, "count").await?;
        Ok((answer.list()?, answer.list()?))
    }

    pub(crate) async fn stream_statuses(&self) -> Result<Vec<StreamStatus>> {
        let heads: Vec<_> = self.registry.read().streams.values().map(Arc::clone).collect();
        let (mut counts, _) = self.counts(&heads, &[]).await?;
        let mut all = Vec::with_capacity(heads.len());
        while !counts.is_empty() {
            let mut one = counts.list()?;
            let id: u32 = one.number()?;
            let Some(head) = heads.iter().find(|head| head.id == id) else { continue };
            all.push(self.stream_status(head, &mut one)?);
        }
        Ok(all)
    }

    fn stream_status(&self, head: &StreamHead, one: &mut Reply) -> Result<StreamStatus> {
        let (first, last) = (one.maybe_position()?, one.position()?);
        let (count, bytes, accepted): (u64, i64, u64) = (one.number()?, one.number()?, one.number()?);
        let backlog = one.number::<i64>()?.max(0).unsigned_abs();
        let slowest = one.text()?;
        let overdue = one.number()?;
        let groups = one.list()?.each(|name| GroupName::new(&name.text()?))?;
        Ok(StreamStatus {
            name: head.spec.name.clone(),
            first,
            last: (accepted > 0).then_some(last),
            count,
            bytes: bytes.max(0).unsigned_abs(),
            accepted,
            duplicates: self.told.lock().duplicates.get(&head.id).copied().unwrap_or(0),
            quarantined: 0,
            backlog,
            max_backlog: head.spec.max_backlog,
            overdue,
            slowest: if slowest.is_empty() { None } else { Some(GroupName::new(&slowest)?) },
            groups,
        })
    }

    pub(crate) async fn group_statuses(&self) -> Result<Vec<GroupStatus>> {
        let heads: Vec<_> = self.registry.read().groups.values().map(Arc::clone).collect();
        self.statuses_of(&heads).await
    }

    pub(crate) async fn group_status_of(&self, head: &GroupHead) -> Result<GroupStatus> {
        let all = self.statuses_of(&[Arc::new(head.clone())]).await?;
        let missing = || Fault::missing(format!("there is no group {:?}", head.spec.name.as_str()));
        all.into_iter().next().ok_or_else(missing)
    }

    async fn statuses_of(&self, heads: &[Arc<GroupHead>]) -> Result<Vec<GroupStatus>> {
        let now = self.options.clock.now();
        let (_, mut counts) = self.counts(&[], heads).await?;
        let mut all = Vec::with_capacity(heads.len());
        while !counts.is_empty() {
            let mut one = counts.list()?;
            let id: u32 = one.number()?;
            let Some(head) = heads.iter().find(|head| head.id == id) else { continue };
            all.push(self.group_status(head, &mut one, now)?);
        }
        Ok(all)
    }

    fn group_status(&self, head: &GroupHead, one: &mut Reply, now: Timestamp) -> Result<GroupStatus> {
        let age = |position: Option<Position>| position.map(|position| now.since(accepted_at(position)));
        let mut status = GroupStatus {
            name: head.spec.name.clone(),
            stream: head.spec.stream.clone(),
            next: one.position()?,
            accepted: one.number()?,
            done: one.number()?,
            duplicates: one.number()?,
            skipped: one.number()?,
            waiting: one.number()?,
            blocked: 0,
            unseen: one.number()?,
            scheduled: one.number()?,
            in_flight: one.number()?,
            dead: one.number()?,
            parked: one.number()?,
            expired: one.number()?,
            dropped: one.number()?,
            oldest_waiting: age(one.maybe_position()?),
            oldest_blocked: None,
            blocked_keys: one.number()?,
            leases_lost: self.told.lock().leases_lost.get(&head.id).copied().unwrap_or(0),
        };
        status.blocked = one.number()?;
        status.oldest_blocked = age(one.maybe_position()?);
        Ok(status)
    }
}

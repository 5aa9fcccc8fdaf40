//! Counts of streams and groups, each from one statement, so that they are of one moment and add up.

use std::time::Duration;

use tidegate_core::{
    clock::Timestamp,
    fault::{Fault, Result},
    names::GroupName,
    store::{GroupStatus, StreamStatus},
};
use tokio_postgres::Row;

use super::{
    PostgresStore,
    link::Lane,
    row::{count, get, position, time},
};
use crate::served::declared::{GroupHead, StreamHead};

impl PostgresStore {
    pub(crate) async fn stream_statuses(&self) -> Result<Vec<StreamStatus>> {
        let rows = self.ask(Lane::Look, "count", "SELECT * FROM tg_streams()", &[]).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = get::<i32>(row, "id")?.cast_unsigned();
            let head = self.registry.read().streams.values().find(|head| head.id == id).cloned();
            if let Some(head) = head {
                all.push(self.stream_status(&head, row)?);
            }
        }
        Ok(all)
    }

    fn stream_status(&self, head: &StreamHead, row: &Row) -> Result<StreamStatus> {
        let last: i64 = get(row, "last")?;
        let slowest: Option<&str> = get(row, "slowest")?;
        Ok(StreamStatus {
            name: head.spec.name.clone(),
            first: get::<Option<i64>>(row, "first")?.map(position),
            last: (last > 0).then(|| position(last)),
            count: count(get(row, "count")?),
            bytes: count(get(row, "bytes")?),
            accepted: count(last),
            duplicates: self.told.lock().duplicates.get(&head.id).copied().unwrap_or(0),
            quarantined: 0,
            backlog: count(get(row, "backlog")?),
            max_backlog: head.spec.max_backlog,
            overdue: count(get(row, "overdue")?),
            slowest: slowest.map(GroupName::new).transpose()?,
            groups: get::<Vec<&str>>(row, "readers")?.into_iter().map(GroupName::new).collect::<Result<_>>()?,
        })
    }

    pub(crate) async fn group_statuses(&self) -> Result<Vec<GroupStatus>> {
        self.statuses_of(None).await
    }

    pub(crate) async fn group_status_of(&self, head: &GroupHead) -> Result<GroupStatus> {
        let all = self.statuses_of(Some(head.id.cast_signed())).await?;
        let missing = || Fault::missing(format!("there is no group {:?}", head.spec.name.as_str()));
        all.into_iter().next().ok_or_else(missing)
    }

    async fn statuses_of(&self, group: Option<i32>) -> Result<Vec<GroupStatus>> {
        let now = self.options.clock.now();
        let values: super::Values<'_> = &[&group, &now.as_millis()];
        let rows = self.ask(Lane::Look, "count", "SELECT * FROM tg_groups($1, $2)", values).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in &rows {
            let head = self.registry.read().group_by_id(get::<i32>(row, "id")?.cast_unsigned());
            if let Some(head) = head {
                all.push(self.group_status(&head, row, now)?);
            }
        }
        Ok(all)
    }

    fn group_status(&self, head: &GroupHead, row: &Row, now: Timestamp) -> Result<GroupStatus> {
        let number = |name| Ok::<u64, Fault>(count(get(row, name)?));
        let age = |name| Ok::<Option<Duration>, Fault>(time(row, name)?.map(|at| now.since(at)));
        Ok(GroupStatus {
            name: head.spec.name.clone(),
            stream: head.spec.stream.clone(),
            next: position(get(row, "next")?),
            accepted: number("accepted")?,
            done: number("done")?,
            duplicates: number("dup")?,
            skipped: number("skip")?,
            waiting: number("waiting")?,
            blocked: number("blocked")?,
            unseen: number("unseen")?,
            scheduled: number("scheduled")?,
            in_flight: number("in_flight")?,
            dead: number("dead")?,
            parked: number("parked")?,
            expired: number("exp")?,
            dropped: number("dropped")?,
            oldest_waiting: age("oldest")?,
            oldest_blocked: age("oldest_blocked")?,
            blocked_keys: number("blocked_keys")?,
            leases_lost: self.told.lock().leases_lost.get(&head.id).copied().unwrap_or(0),
        })
    }
}

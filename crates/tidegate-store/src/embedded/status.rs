//! What is told of streams and groups, and what a group's ledger remembers.

use std::sync::{Arc, atomic::Ordering};

use async_trait::async_trait;
use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    fault::Result,
    names::GroupName,
    store::{GroupStatus, Ledger, LedgerEntry, LedgerStatus, StreamStatus},
};

use super::{Embedded, body, claim::stored, frame::Kind, group::Group, seen::Mark, stream::Stream};

impl Embedded {
    /// Finds a group by its number.
    pub(crate) fn group_by_id(&self, id: u32) -> Option<Arc<Group>> {
        self.state.registry.read().groups.get(&id).map(Arc::clone)
    }

    pub(crate) fn stream_status(&self, stream: &Stream) -> StreamStatus {
        let groups: Vec<Arc<Group>> = stream.groups.read().iter().map(Arc::clone).collect();
        let inner = stream.inner.lock();
        let (first, last) = (stream.first(), stream.last());
        let (kept, from) = match &inner.dead {
            Some(dead) => (dead.entries.len() as u64, dead.entries.first_key_value().map_or(last + 1, |(seq, _)| *seq)),
            None => ((last + 1).saturating_sub(first), first),
        };
        let mut bytes = 0;
        for number in inner.segments.values() {
            let Some(segment) = self.state.reader.segment(*number) else { continue };
            let span = |footer: &super::segment::Footer| {
                footer.find(stream.id).filter(|span| span.last >= from).map(|span| span.bytes)
            };
            let open = self.state.open.0.read();
            bytes +=
                if open.0 == *number { span(&open.1.lock()) } else { segment.footer.get().and_then(span) }.unwrap_or(0);
        }
        StreamStatus {
            name: stream.name.clone(),
            first: (kept > 0).then_some(Position::number(from)),
            last: (last > 0).then_some(Position::number(last)),
            count: kept,
            bytes,
            accepted: last,
            duplicates: stream.duplicates.load(Ordering::Relaxed),
            quarantined: inner.quarantined,
            backlog: groups.iter().map(|group| group.backlog(last)).max().unwrap_or(0),
            max_backlog: stream.spec.read().max_backlog,
            overdue: stream.overdue.load(Ordering::Relaxed),
            slowest: groups.iter().max_by_key(|group| group.backlog(last)).map(|group| group.name.clone()),
            groups: groups.iter().map(|group| group.name.clone()).collect(),
        }
    }

    pub(crate) fn group_status(&self, group: &Group) -> Result<GroupStatus> {
        let now = self.state.clock.now();
        let inner = group.inner.lock();
        let last = group.stream.last();
        let unseen = inner.unseen(last);
        let due = inner.due.range(..=(now, u64::MAX)).count() as u64;
        // Nobody has worked on them for the time of a lease; whoever claims next gets them.
        let run_out = inner.leases.count_run_out(now) as u64;
        let oldest_ready = inner.first_ready(now).and_then(|seq| Some((seq, inner.entries.get(seq)?.at)));
        let oldest = oldest_ready.or((unseen > 0).then_some((inner.cursor, super::segment::Lsn::default())));
        let status = GroupStatus {
            name: group.name.clone(),
            stream: group.stream.name.clone(),
            next: Position::number(inner.cursor),
            accepted: inner.accepted(last),
            done: inner.counts.done,
            duplicates: inner.counts.duplicates,
            unseen,
            skipped: inner.counts.skipped,
            waiting: unseen
                + (inner.ready.len() + inner.ranked.len() + inner.blocked + inner.waits.len()) as u64
                + due
                + run_out,
            blocked: inner.waits.len() as u64,
            scheduled: inner.due.len() as u64 - due,
            in_flight: inner.in_flight - run_out,
            dead: inner.counts.dead,
            parked: 0,
            expired: inner.counts.expired,
            dropped: inner.counts.dropped,
            oldest_waiting: None,
            oldest_blocked: inner.waits.oldest().map(|at| now.since(at)),
            blocked_keys: inner.keys.values().filter(|key| !key.queue.is_empty()).count() as u64,
            leases_lost: inner.leases_lost,
        };
        drop(inner);
        let parked = self.state.dead_stream(&group.stream.name).ok().and_then(|dead| {
            let inner = dead.inner.lock();
            inner.dead.as_ref().and_then(|dead| dead.parked.get(&group.id).copied())
        });
        let accepted_at = oldest.and_then(|(seq, at)| {
            let found = group.stream.read_one(seq, at, &self.state.reader, &self.state.open).ok()?;
            stored(&found).ok().map(|(at, _)| at)
        });
        Ok(GroupStatus { parked: parked.unwrap_or(0), oldest_waiting: accepted_at.map(|at| now.since(at)), ..status })
    }
}

#[async_trait]
impl Ledger for Embedded {
    async fn done(&self, group: &GroupName, events: &[(ByteString, ByteString)]) -> Result<Vec<bool>> {
        let group = self.state.group(group)?;
        let inner = group.inner.lock();
        let now = self.state.clock.now();
        let known = |(source, id): &(ByteString, ByteString)| match &inner.ledger {
            None => Ok(false),
            Some(seen) => Ok(seen.get(self.state.key.of(source, id), now)?.is_some_and(|mark| mark.is_done())),
        };
        events.iter().map(known).collect()
    }

    async fn forget(&self, group: &GroupName, source: &str, id: &str) -> Result<bool> {
        let known = self.done(group, &[(source.into(), id.into())]).await?;
        if known != [true] {
            return Ok(false);
        }
        let group = self.state.group(group)?;
        let mut body = Vec::new();
        body::put_forget(&mut body, group.id, self.state.key.of(source, id), self.state.clock.now());
        self.commit(self.raw(Kind::Forget, body)).await.map(|_| true)
    }

    async fn ledger_entry(&self, group: &GroupName, source: &str, id: &str) -> Result<Option<LedgerEntry>> {
        let group = self.state.group(group)?;
        let inner = group.inner.lock();
        let Some(seen) = &inner.ledger else { return Ok(None) };
        let mark = seen.get(self.state.key.of(source, id), self.state.clock.now())?;
        Ok(mark
            .filter(Mark::is_done)
            .map(|mark| LedgerEntry { position: Position::number(mark.number), at: Timestamp::from_millis(mark.at) }))
    }

    async fn clean_ledger(&self, group: &GroupName, before: Timestamp) -> Result<u64> {
        let group = self.state.group(group)?;
        let remembered = || group.inner.lock().ledger.as_ref().map_or(0, super::seen::Seen::len);
        let known = remembered();
        let mut body = Vec::new();
        body::put_numbers(&mut body, group.id, &[before.as_millis().max(0).unsigned_abs()]);
        self.commit(self.raw(Kind::Clean, body)).await?;
        Ok(known.saturating_sub(remembered()))
    }

    async fn ledger_status(&self, group: &GroupName) -> Result<LedgerStatus> {
        let group = self.state.group(group)?;
        let inner = group.inner.lock();
        Ok(inner.ledger.as_ref().map_or_else(LedgerStatus::default, |seen| LedgerStatus {
            entries: seen.len(),
            disk_bytes: seen.disk_bytes(),
            memory_bytes: seen.memory_bytes(),
        }))
    }
}

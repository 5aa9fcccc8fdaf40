//! Settling: checks leases and prepares what is written for each settlement.

use std::{collections::BTreeMap, sync::Arc};

use bytestring::ByteString;
use parking_lot::MutexGuard;
use tidegate_core::{
    clock::Timestamp,
    delivery::{Attempt, Settled, Settlement},
    event::Event,
    fault::{Failure, Fault, FaultKind, Origin, Result, Retry},
    limits,
    names::StreamName,
    store::GroupSpec,
};

use super::{
    Embedded,
    body::{self, DeadHead, How, Settle},
    claim::event_bytes,
    commit::{Item, Step},
    frame::Kind,
    group::{Entry, Group, GroupInner, State as EntryState},
    stream::Stream,
};

/// Streams by name, looked up before a group is locked: the registry is never locked under a group.
pub(crate) type Streams = BTreeMap<StreamName, Arc<Stream>>;

/// A group whose deliveries are being settled, under its lock.
pub(crate) struct Staging<'a> {
    pub(crate) group: &'a Arc<Group>,
    pub(crate) inner: MutexGuard<'a, GroupInner>,
    pub(crate) mark_claims: bool,
    /// Whether others may wait for what is skipped.
    pub(crate) after: bool,
    pub(crate) now: Timestamp,
    /// Where its dead letters go; looked up before the group is locked, and only when there are any.
    pub(crate) dead: Option<Arc<Stream>>,
}

impl Embedded {
    /// Locks a group for settling. `buries`: whether any of it goes to the dead letters.
    pub(crate) fn staging<'a>(&self, group: &'a Arc<Group>, buries: bool) -> Staging<'a> {
        let dead = buries.then(|| self.state.dead_stream(&group.stream.name).ok()).flatten();
        let GroupSpec { mark_claims, after, .. } = *group.spec.read();
        let now = self.state.clock.now();
        Staging { group, inner: group.inner.lock(), mark_claims, after, now, dead }
    }

    /// Finds the streams of all outputs and checks the events, before anything is staged.
    pub(crate) fn check_outputs(&self, settled: &[Settled]) -> Result<Streams> {
        let mut streams = BTreeMap::new();
        for one in settled {
            let Settlement::Done(outputs) = &one.settlement else { continue };
            let mut bytes = 0;
            for (name, event) in outputs {
                event.check()?;
                bytes += event.size() + 64;
                if !streams.contains_key(name) {
                    streams.insert(name.clone(), self.state.stream(name)?);
                }
            }
            if bytes > limits::STEP_BYTES_MAX - limits::COMMIT_BYTES_MAX {
                let note = format!("outputs of one delivery take {bytes} bytes, more than one commit holds");
                return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
            }
        }
        Ok(streams)
    }

    /// Checks the lease of one settlement and prepares what is written for it. False when the lease is lost.
    pub(crate) fn stage(
        &self,
        staging: &mut Staging<'_>,
        settled: &Settled,
        outputs: &Streams,
        step: &mut Step,
    ) -> Result<bool> {
        let Staging { group, inner, mark_claims, after, now, dead } = staging;
        let (group, now) = (*group, *now);
        let seq = settled.token.position.low;
        let epoch = settled.token.epoch;
        let held = |entry: &&Entry| matches!(entry.state, EntryState::Leased { epoch: of, .. } if of == epoch);
        let Some(entry) = inner.entries.get(seq).filter(held).filter(|_| settled.token.owner == self.state.owner)
        else {
            inner.leases_lost += 1;
            return Ok(false);
        };
        let before = entry.state;
        let retry = |at, attempts, crashes, attempt| How::Retry { at, attempts, crashes, key: entry.key, attempt };
        let item = match &settled.settlement {
            Settlement::Done(events) => {
                for (name, event) in events {
                    if let Some(stream) = outputs.get(name) {
                        let dedupe = stream.dedupe_key();
                        let fingerprint = dedupe.map_or(0, |key| key.fingerprint(&self.state.key, event));
                        push_event(step, stream, event, fingerprint);
                    }
                }
                let ledger = inner.ledger.is_some().then_some(entry.fingerprint);
                Item::Settle(Settle { group: group.id, seq, how: How::Done { at: now, ledger } })
            }
            Settlement::Skip => {
                let told = (*after && inner.ledger.is_some()).then_some((now, entry.fingerprint));
                Item::Settle(Settle { group: group.id, seq, how: How::Skipped { told } })
            }
            Settlement::Release if *mark_claims => {
                let how = retry(now, entry.attempts, entry.crashes, None);
                Item::Settle(Settle { group: group.id, seq, how })
            }
            // It needs no record: it is carried out when the rest of its batch is durable.
            Settlement::Release => return Ok(true),
            Settlement::RetryAt { at, attempts, crashes } => {
                let how = retry(*at, *attempts, *crashes, settled.attempt.clone());
                Item::Settle(Settle { group: group.id, seq, how })
            }
            Settlement::Bury { failure, config } => {
                let attempt = settled.attempt.clone();
                match self.dead_item(group, entry, seq, (failure, config), attempt, dead.clone()) {
                    Ok(item) => item,
                    Err(fault) if fault.kind == FaultKind::Corrupt => {
                        self.state.report_damage(&format!("stream {}", group.stream.name), fault.note());
                        let mut body = Vec::new();
                        body::put_numbers(&mut body, group.id, &[seq, seq + 1]);
                        Item::Raw(Kind::Drop, body)
                    }
                    Err(fault) => return Err(fault),
                }
            }
        };
        inner.change(seq, EntryState::Settling);
        step.items.push(item);
        step.staged.push((Arc::clone(group), seq, before));
        Ok(true)
    }

    pub(crate) fn dead_item(
        &self,
        group: &Group,
        entry: &Entry,
        seq: u64,
        (failure, config): (&Failure, &ByteString),
        attempt: Option<Attempt>,
        dead: Option<Arc<Stream>>,
    ) -> Result<Item> {
        let stream = dead.ok_or_else(|| Fault::bug("a burial without a dead-letter stream"))?;
        let found = group.stream.read_one(seq, entry.at, &self.state.reader, &self.state.open)?;
        let mut attempts = entry.attempts_made();
        attempts.extend(attempt);
        if attempts.len() > limits::HISTORY_MAX {
            attempts.drain(..attempts.len() - limits::HISTORY_MAX);
        }
        let head = DeadHead {
            stream: stream.id,
            seq: 0,
            failed_at: self.state.clock.now(),
            group: group.id,
            origin: group.stream.id,
            origin_seq: seq,
            class: failure.class,
            message: failure.message.as_str().into(),
            config: config.clone(),
            attempts,
            imported: None,
        };
        Ok(Item::Dead { stream, head: Box::new(head), event: event_bytes(&found)? })
    }
}

pub(crate) fn push_event(step: &mut Step, stream: &Arc<Stream>, event: &Event, fingerprint: u128) {
    let start = step.arena.len() as u32;
    event.encode(&mut step.arena);
    let end = step.arena.len() as u32;
    step.items.push(Item::Append { stream: Arc::clone(stream), start, end, fingerprint, redriven: None });
}

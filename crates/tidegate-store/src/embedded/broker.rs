//! The seam, carried out by the embedded engine.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::{LeaseToken, Position, SettleStatus, Settled, Settlement},
    event::Event,
    fault::{Fault, FaultKind, Result},
    limits,
    names::{GroupName, StreamName},
    store::{
        Appended, Broker, Claim, Claimed, DeadAction, DeadLetter, DeadQuery, DeadReport, DeadState, DeadStep,
        DeadStepStatus, Durability, GroupSpec, GroupStatus, Ledger, LedgerStatus, Page, Promises, Start, StoreStatus,
        Stored, StreamSpec, StreamStatus,
    },
};
use tokio::sync::oneshot;

use super::{
    Embedded,
    body::{self, AppendHead, DeadHead, DeadMove, How, Settle},
    claim::{Aside, Claiming, event_bytes, stored},
    commit::{Item, Step},
    frame::Kind,
    group::{Group, GroupDecl, State as EntryState},
    stream::{Stream, StreamDecl},
    upkeep::{closed, sizes},
};

/// How long resolved, discarded and reprocessed dead letters stay readable.
const DEAD_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

impl Embedded {
    /// Hands a step to the committer and waits until it is durable.
    async fn commit(&self, mut step: Step) -> Result<Vec<Appended>> {
        let (answer, wait) = oneshot::channel();
        step.answer = Some(answer);
        self.queue.push(step)?;
        self.pump();
        wait.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Hands a step to the committer and goes on.
    fn commit_later(&self, step: Step) -> Result<()> {
        self.queue.push(step)?;
        self.pump();
        Ok(())
    }

    fn pump(&self) {
        if !self.threaded {
            super::pump(&self.committer, &self.queue);
        }
    }

    fn raw(&self, kind: Kind, body: Vec<u8>) -> Step {
        let mut step = Step::new(Durability::Sync);
        step.items.push(Item::Raw(kind, body));
        step
    }

    async fn declare_one_stream(&self, spec: &StreamSpec) -> Result<()> {
        let id = {
            let mut registry = self.state.registry.write();
            match registry.stream_names.get(&spec.name) {
                Some(stream) if *stream.spec.read() == *spec => return Ok(()),
                Some(stream) => stream.id,
                None => {
                    let id = registry.next_id;
                    registry.next_id += 1;
                    id
                }
            }
        };
        let body = postcard::to_stdvec(&StreamDecl::new(id, spec))
            .map_err(|error| Fault::bug(format!("declare stream {}: {error}", spec.name)))?;
        self.commit(self.raw(Kind::Stream, body)).await.map(drop)
    }

    fn refuse_backlog(&self, stream: &Stream, count: usize) -> Result<()> {
        let Some(most) = stream.spec.read().max_backlog else { return Ok(()) };
        for group in stream.groups.read().iter() {
            let backlog = {
                let inner = group.inner.lock();
                (stream.last() + 1).saturating_sub(inner.cursor) + inner.entries.len() as u64
            };
            if backlog + count as u64 > most {
                let rate = group.drain.lock().per_second.max(0.1);
                let seconds = (((backlog + count as u64 - most) as f64) / rate).clamp(1.0, 60.0);
                let note = format!(
                    "stream {:?} holds {backlog} events that group {:?} has not settled; its max_backlog is {most}",
                    stream.name.as_str(),
                    group.name.as_str()
                );
                return Err(Fault::limited(note, Duration::from_secs_f64(seconds.ceil())));
            }
        }
        Ok(())
    }

    fn write_aside(&self, group: &Group, aside: Aside) -> Option<Step> {
        if aside.is_empty() {
            return None;
        }
        let mut step = Step::new(group.stream.spec.read().durability);
        step.items.extend(aside.settles.into_iter().map(Item::Settle));
        for (from, to) in aside.lost {
            let place = format!("stream {} group {}", group.stream.name, group.name);
            self.state
                .report_damage(&place, &format!("events {from} to {} do not read back: counted as dropped", to - 1));
            let mut body = Vec::new();
            body::put_numbers(&mut body, group.id, &[from, to]);
            step.items.push(Item::Raw(Kind::Drop, body));
        }
        if !aside.marks.is_empty() {
            let mut body = Vec::new();
            body::put_numbers(&mut body, group.id, &aside.marks);
            step.items.push(Item::Raw(Kind::Mark, body));
        }
        Some(step)
    }

    /// Checks the lease of one settlement and prepares what is written for it. None when the lease is lost.
    fn stage(&self, group: &Group, settled: &Settled, step: &mut Step) -> Result<bool> {
        let seq = settled.token.position.low;
        let mark_claims = group.spec.read().mark_claims;
        let mut inner = group.inner.lock();
        let leased = inner.entries.get(&seq).is_some_and(
            |entry| matches!(entry.state, EntryState::Leased { epoch, .. } if epoch == settled.token.epoch),
        );
        if !leased || settled.token.owner != self.state.owner {
            inner.leases_lost += 1;
            return Ok(false);
        }
        let now = self.state.clock.now();
        let Some(entry) = inner.entries.get(&seq) else { return Ok(false) };
        let how = match &settled.settlement {
            Settlement::Done(outputs) => {
                for (name, event) in outputs {
                    event.check()?;
                    let stream = self.state.stream(name)?;
                    push_event(step, &stream, event, self.state.key.of(&event.source, &event.id));
                }
                let ledger = inner.ledger.is_some().then_some(entry.fingerprint);
                Some(How::Done { at: now, ledger })
            }
            Settlement::Release if mark_claims => {
                let (attempts, crashes, key) = (entry.attempts, entry.crashes, entry.key);
                Some(How::Retry { at: now, attempts, crashes, key, attempt: None })
            }
            Settlement::Release => None,
            Settlement::RetryAt { at, attempts, crashes } => Some(How::Retry {
                at: *at,
                attempts: *attempts,
                crashes: *crashes,
                key: entry.key,
                attempt: settled.attempt.clone(),
            }),
            Settlement::Bury { failure, config } => {
                let found = group.stream.read_one(seq, entry.at, &self.state.reader, &self.state.open)?;
                let mut attempts = entry.attempts_made();
                attempts.extend(settled.attempt.clone());
                if attempts.len() > limits::HISTORY_MAX {
                    attempts.drain(..attempts.len() - limits::HISTORY_MAX);
                }
                let head = DeadHead {
                    stream: 0,
                    seq: 0,
                    failed_at: now,
                    group: group.id,
                    origin: group.stream.id,
                    origin_seq: seq,
                    class: failure.class,
                    message: failure.message.as_str().into(),
                    config: config.clone(),
                    attempts,
                };
                let stream = self.state.dead_stream(&group.stream.name)?;
                step.items.push(Item::Dead { stream, head: Box::new(head), event: event_bytes(&found)? });
                inner.change(seq, EntryState::Settling);
                return Ok(true);
            }
        };
        match how {
            Some(how) => {
                inner.change(seq, EntryState::Settling);
                step.items.push(Item::Settle(Settle { group: group.id, seq, how }));
            }
            None => {
                let fingerprint = entry.fingerprint;
                if inner.busy.get(&fingerprint) == Some(&seq) {
                    inner.busy.remove(&fingerprint);
                }
                inner.change(seq, EntryState::Ready);
            }
        }
        Ok(true)
    }

    fn group_by_id(&self, id: u32) -> Option<Arc<Group>> {
        self.state.registry.read().groups.get(&id).map(Arc::clone)
    }

    fn load_dead(&self, stream: &Stream, seq: u64) -> Result<DeadLetter> {
        let missing = || Fault::missing(format!("there is no dead letter {seq} in {:?}", stream.name.as_str()));
        let entry = {
            let inner = stream.inner.lock();
            inner.dead.as_ref().and_then(|dead| dead.entries.get(&seq)).cloned().ok_or_else(missing)?
        };
        let found = stream.read_one(seq, entry.at, &self.state.reader, &self.state.open)?;
        let mut read = tidegate_core::event::Reader { bytes: found.body.clone() };
        let head = DeadHead::read(&mut read)?;
        let group = self.group_by_id(entry.group).map(|group| group.name.clone());
        Ok(DeadLetter {
            id: Position::number(seq),
            stream: self.state.stream_name(entry.origin).unwrap_or_else(|| stream.name.origin()),
            group: group.map_or_else(|| GroupName::new("removed"), Ok)?,
            position: Position::number(entry.origin_seq),
            state: entry.state,
            event: Event::decode(read.bytes)?,
            class: entry.class,
            message: head.message,
            signature: ByteString::from(&*entry.signature),
            attempts: head.attempts,
            failed_at: head.failed_at,
            config: head.config,
            changed: entry.changed.map(|changed| *changed),
        })
    }

    /// Marks entries as moving and returns what may be moved; the rest is told why not.
    fn stage_dead(&self, stream: &Stream, step: &DeadStep) -> Vec<Result<u64, DeadStepStatus>> {
        let mut inner = stream.inner.lock();
        let Some(dead) = &mut inner.dead else { return Vec::new() };
        let mut staged = Vec::with_capacity(step.ids.len());
        for id in &step.ids {
            let Some(entry) = dead.entries.get_mut(&id.low).filter(|_| id.high == 0) else {
                staged.push(Err(DeadStepStatus::Missing));
                continue;
            };
            let forced = matches!(step.action, DeadAction::Reprocess { force: true, .. });
            let allowed = match entry.state {
                DeadState::Parked => true,
                DeadState::Reprocessed | DeadState::Resolved | DeadState::Discarded | DeadState::Expired => forced,
            };
            if allowed && !entry.moving {
                entry.moving = true;
                staged.push(Ok(id.low));
            } else {
                staged.push(Err(DeadStepStatus::Refused(if entry.moving {
                    DeadState::Reprocessed
                } else {
                    entry.state
                })));
            }
        }
        staged
    }

    fn unstage_dead(&self, stream: &Stream, seqs: &[u64]) {
        let mut inner = stream.inner.lock();
        if let Some(dead) = &mut inner.dead {
            for seq in seqs {
                if let Some(entry) = dead.entries.get_mut(seq) {
                    entry.moving = false;
                }
            }
        }
    }

    /// Prepares the move of one staged dead letter.
    fn prepare_dead(&self, stream: &Stream, seq: u64, action: &DeadAction, step: &mut Step) -> Result<u64> {
        let DeadAction::Reprocess { edited, .. } = action else { return Ok(0) };
        let letter = self.load_dead(stream, seq)?;
        let origin = self.state.stream(&letter.stream)?;
        let group = self.state.group(&letter.group)?;
        let event = match edited {
            None => &letter.event,
            Some(edited) => {
                if edited.id != letter.event.id || edited.source != letter.event.source {
                    return Err(Fault::invalid("an edited event must keep its id and source"));
                }
                edited.check()?;
                edited
            }
        };
        let start = step.arena.len() as u32;
        event.encode(&mut step.arena);
        let head = AppendHead { for_group: Some(group.id), past: letter.attempts, ..AppendHead::default() };
        step.items.push(Item::Append {
            stream: origin,
            start,
            end: step.arena.len() as u32,
            fingerprint: 0,
            redriven: Some(Box::new(head)),
        });
        Ok(step.items.len() as u64)
    }
}

fn push_event(step: &mut Step, stream: &Arc<Stream>, event: &Event, fingerprint: u128) {
    let start = step.arena.len() as u32;
    event.encode(&mut step.arena);
    let end = step.arena.len() as u32;
    step.items.push(Item::Append { stream: Arc::clone(stream), start, end, fingerprint, redriven: None });
}

fn only_numbers(position: Position) -> Result<u64> {
    if position.high == 0 {
        Ok(position.low)
    } else {
        Err(Fault::invalid(format!("{position} is not a position of this engine")))
    }
}

#[async_trait]
impl Broker for Embedded {
    fn promises(&self) -> Promises {
        Promises {
            ordered_by_key: true,
            atomic_settle: true,
            shared: false,
            wakes: true,
            durable: true,
            loss_window:
                "none with durability sync; with interval, the interval; with os, what the system had not written"
                    .to_owned(),
            duplicate_window: "effects of deliveries that were in flight when the process died".to_owned(),
        }
    }

    async fn declare_stream(&self, spec: &StreamSpec) -> Result<()> {
        if spec.name.is_dead_letters() {
            return Err(Fault::invalid(format!(
                "stream {:?}: names that end in .dlq are made by the streams whose dead letters they keep",
                spec.name.as_str()
            )));
        }
        self.declare_one_stream(spec).await?;
        let dead = StreamSpec {
            name: spec.name.dead_letters(),
            durability: Durability::Sync,
            retain: tidegate_core::store::Retain { age: Some(DEAD_KEEP), ..Default::default() },
            max_backlog: None,
            dedupe: None,
        };
        self.declare_one_stream(&dead).await
    }

    async fn declare_group(&self, spec: &GroupSpec) -> Result<()> {
        let stream = self.state.stream(&spec.stream)?;
        let decl = {
            let mut registry = self.state.registry.write();
            match registry.group_names.get(&spec.name) {
                Some(group) if group.stream.name != spec.stream => {
                    return Err(Fault::conflict(format!(
                        "group {:?} reads stream {:?} and cannot change to {:?}: remove it first",
                        spec.name.as_str(),
                        group.stream.name.as_str(),
                        spec.stream.as_str()
                    )));
                }
                Some(group) => {
                    let known = group.decl(group.inner.lock().start);
                    let wanted = wanted_decl(&known, spec);
                    if known == wanted {
                        return Ok(());
                    }
                    wanted
                }
                None => {
                    let id = registry.next_id;
                    registry.next_id += 1;
                    let start = match spec.start {
                        Start::Earliest => stream.first(),
                        Start::Latest => stream.last() + 1,
                    };
                    Group::new(id, spec.clone(), Arc::clone(&stream), start).decl(start)
                }
            }
        };
        let body =
            postcard::to_stdvec(&decl).map_err(|error| Fault::bug(format!("declare group {}: {error}", spec.name)))?;
        self.commit(self.raw(Kind::Group, body)).await.map(drop)
    }

    async fn remove_group(&self, group: &GroupName) -> Result<()> {
        let group = self.state.group(group)?;
        let mut body = Vec::new();
        body::put_numbers(&mut body, group.id, &[]);
        self.commit(self.raw(Kind::Ungroup, body)).await.map(drop)
    }

    async fn append(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        let stream = self.state.stream(stream)?;
        if stream.name.is_dead_letters() {
            return Err(Fault::invalid(format!("stream {:?} takes only dead letters", stream.name.as_str())));
        }
        if events.is_empty() {
            return Ok(Vec::new());
        }
        if events.len() > limits::BATCH_EVENTS_MAX {
            let note =
                format!("{} events at once are more than the limit of {}", events.len(), limits::BATCH_EVENTS_MAX);
            return Err(Fault::new(
                FaultKind::Limited,
                tidegate_core::fault::Origin::Caller,
                tidegate_core::fault::Retry::Never,
                note,
            ));
        }
        self.state.check_failed()?;
        self.refuse_backlog(&stream, events.len())?;
        let mut step = Step::new(stream.spec.read().durability);
        step.admits = true;
        let deduped = stream.spec.read().dedupe.is_some();
        step.arena.reserve(events.iter().map(|event| event.size() + 48).sum());
        for event in &events {
            event.check()?;
            let fingerprint = if deduped { self.state.key.of(&event.source, &event.id) } else { 0 };
            push_event(&mut step, &stream, event, fingerprint);
        }
        self.commit(step).await
    }

    async fn read(&self, stream: &StreamName, from: Position, max: usize) -> Result<Page<Stored>> {
        let stream = self.state.stream(stream)?;
        let from = only_numbers(from)?.max(stream.first());
        let max = max.min(limits::PAGE_MAX);
        let reader = &self.state.reader;
        let found = stream.read(from, max, limits::CLAIM_BYTES_MAX, &mut None, reader, &self.state.open)?;
        let mut items = Vec::with_capacity(found.len());
        for found in &found {
            let (accepted_at, event) = stored(found)?;
            items.push(Stored { position: Position::number(found.seq), accepted_at, event });
        }
        let next = found.last().map(|found| found.seq + 1).filter(|next| *next <= stream.last());
        Ok(Page { items, next: next.map(Position::number) })
    }

    async fn claim(&self, ask: &Claim) -> Result<Claimed> {
        self.state.check_failed()?;
        let group = self.state.group(&ask.group)?;
        let spec = group.spec.read().clone();
        let (out, aside) = {
            let mut inner = group.inner.lock();
            let mut claiming = Claiming {
                group: &group,
                inner: &mut inner,
                spec: &spec,
                ask,
                now: self.state.clock.now(),
                owner: self.state.owner,
                key: &self.state.key,
                reader: &self.state.reader,
                open: &self.state.open,
                out: Claimed::default(),
                aside: Aside::default(),
                bytes: 0,
            };
            claiming.run()?;
            (claiming.out, claiming.aside)
        };
        let must_wait = !aside.marks.is_empty();
        if let Some(step) = self.write_aside(&group, aside) {
            if must_wait {
                // A handler may kill the process: that it got this delivery must be on record before it runs.
                self.commit(step).await?;
            } else {
                self.commit_later(step)?;
            }
        }
        Ok(out)
    }

    async fn extend(&self, tokens: &[LeaseToken], until: Timestamp) -> Result<Vec<bool>> {
        let mut extended = Vec::with_capacity(tokens.len());
        for token in tokens {
            let Some(group) = self.group_by_id(token.group) else {
                extended.push(false);
                continue;
            };
            let mut inner = group.inner.lock();
            let seq = token.position.low;
            let held = token.owner == self.state.owner
                && inner.entries.get(&seq).is_some_and(
                    |entry| matches!(entry.state, EntryState::Leased { epoch, .. } if epoch == token.epoch),
                );
            if held {
                inner.change(seq, EntryState::Leased { epoch: token.epoch, expires: until });
            }
            extended.push(held);
        }
        Ok(extended)
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<Vec<SettleStatus>> {
        self.state.check_failed()?;
        let mut statuses = Vec::with_capacity(settled.len());
        let mut step = Step::new(Durability::Os);
        let mut released: Vec<Arc<Group>> = Vec::new();
        let mut group: Option<Arc<Group>> = None;
        let mut waits = Vec::new();
        for one in &settled {
            if group.as_ref().is_none_or(|group| group.id != one.token.group) {
                group = self.group_by_id(one.token.group);
            }
            let Some(group) = &group else {
                statuses.push(SettleStatus::LeaseLost);
                continue;
            };
            if group.stream.spec.read().durability == Durability::Sync {
                step.durability = Durability::Sync;
            }
            let held = self.stage(group, one, &mut step)?;
            statuses.push(if held { SettleStatus::Settled } else { SettleStatus::LeaseLost });
            if held && one.settlement == Settlement::Release && !released.iter().any(|other| other.id == group.id) {
                released.push(Arc::clone(group));
            }
            if step.bytes() > limits::COMMIT_BYTES_MAX {
                let full = std::mem::replace(&mut step, Step::new(Durability::Sync));
                let (answer, wait) = oneshot::channel();
                self.queue.push(Step { answer: Some(answer), ..full })?;
                waits.push(wait);
            }
        }
        for group in released {
            group.wake.notify_waiters();
        }
        if !step.items.is_empty() {
            self.commit(step).await?;
        }
        self.pump();
        for wait in waits {
            wait.await.unwrap_or_else(|_| Err(closed()))?;
        }
        Ok(statuses)
    }

    async fn wait(&self, group: &GroupName, until: Timestamp) {
        let Ok(group) = self.state.group(group) else { return };
        let notified = group.wake.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        let now = self.state.clock.now();
        let wake_at = {
            let inner = group.inner.lock();
            let unseen = inner.cursor <= group.stream.last() && inner.blocked < limits::ORDER_LOOKAHEAD_MAX;
            if unseen || !inner.ready.is_empty() {
                return;
            }
            let timed = inner.due.first().into_iter().chain(inner.leases.first()).map(|(at, _)| *at).min();
            timed.map_or(until, |at| at.min(until))
        };
        if wake_at <= now {
            return;
        }
        tokio::select! {
            () = notified => {}
            () = self.state.clock.sleep_until(wake_at) => {}
        }
    }

    async fn streams(&self) -> Result<Vec<StreamStatus>> {
        let streams: Vec<Arc<Stream>> = self.state.registry.read().streams.values().map(Arc::clone).collect();
        Ok(streams.iter().map(|stream| self.stream_status(stream)).collect())
    }

    async fn groups(&self) -> Result<Vec<GroupStatus>> {
        let groups: Vec<Arc<Group>> = self.state.registry.read().groups.values().map(Arc::clone).collect();
        groups.iter().map(|group| self.group_status(group)).collect()
    }

    async fn group(&self, group: &GroupName) -> Result<GroupStatus> {
        self.group_status(&*self.state.group(group)?)
    }

    async fn dead_letters(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadLetter>> {
        let stream = self.state.dead_stream(stream)?;
        let group = match &query.group {
            None => None,
            Some(name) => Some(self.state.group(name)?.id),
        };
        let query = DeadQuery { limit: query.limit.clamp(1, limits::PAGE_MAX), ..query.clone() };
        let (seqs, more) = {
            let inner = stream.inner.lock();
            inner.dead.as_ref().map(|dead| dead.select(&query, group)).unwrap_or_default()
        };
        let mut items = Vec::with_capacity(seqs.len());
        for seq in &seqs {
            items.push(self.load_dead(&stream, *seq)?);
        }
        Ok(Page { items, next: seqs.last().filter(|_| more).map(|seq| Position::number(*seq)) })
    }

    async fn dead_letter(&self, stream: &StreamName, id: Position) -> Result<DeadLetter> {
        let stream = self.state.dead_stream(stream)?;
        self.load_dead(&stream, only_numbers(id)?)
    }

    async fn move_dead(&self, step: &DeadStep) -> Result<Vec<DeadStepStatus>> {
        if step.ids.len() > limits::DEAD_STEP_MAX {
            return Err(Fault::invalid(format!("more than {} dead letters in one step", limits::DEAD_STEP_MAX)));
        }
        let stream = self.state.dead_stream(&step.stream)?;
        let staged = self.stage_dead(&stream, step);
        let mut statuses = Vec::with_capacity(staged.len());
        let mut at = 0;
        while at < staged.len() {
            let (end, moved) = self.move_some(&stream, step, &staged, at).await.inspect_err(|_| {
                let rest: Vec<u64> = staged.iter().skip(at).filter_map(|one| one.as_ref().ok().copied()).collect();
                self.unstage_dead(&stream, &rest);
            })?;
            statuses.extend(moved);
            at = end;
        }
        Ok(statuses)
    }

    async fn dead_report(&self, stream: &StreamName, since: Timestamp) -> Result<DeadReport> {
        let stream = self.state.dead_stream(stream)?;
        let (mut report, groups, parked) = {
            let inner = stream.inner.lock();
            let Some(dead) = &inner.dead else { return Ok(DeadReport::default()) };
            let (report, groups) = dead.report(since);
            (report, groups, dead.parked.clone())
        };
        let named = |counts: BTreeMap<u32, u64>| {
            let name = |id: u32| self.group_by_id(id).map(|group| group.name.clone());
            counts.into_iter().filter_map(|(id, count)| Some((name(id)?, count))).collect()
        };
        report.groups = named(groups);
        report.parked = named(parked);
        Ok(report)
    }

    async fn put_state(&self, key: &str, value: Option<&[u8]>) -> Result<()> {
        let body = postcard::to_stdvec(&(key, value))
            .map_err(|error| Fault::bug(format!("keep control state {key:?}: {error}")))?;
        self.commit(self.raw(Kind::State, body)).await.map(drop)
    }

    async fn states(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let registry = self.state.registry.read();
        let of_prefix = registry.states.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(of_prefix.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn upkeep(&self) -> Result<()> {
        if !self.threaded {
            return self.upkeep.lock().pass(false);
        }
        // The store's own thread does the upkeep; asking only brings it forward.
        self.stop.changed.notify_all();
        Ok(())
    }

    fn status(&self) -> StoreStatus {
        let state = &self.state;
        let stats = &state.stats;
        let mut counters = stats.list();
        counters.push(("cold_reads", state.reader.cold_reads.load(Ordering::Relaxed)));
        StoreStatus {
            engine: "embedded",
            failed: state.failed.read().clone(),
            refusing: state.refusing.read().clone(),
            damage: state.damage.lock().clone(),
            bytes: sizes(state, &state.reader),
            syncs: stats.syncs.load(Ordering::Relaxed),
            sync_counts: stats.sync_counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sync_time: Duration::from_nanos(stats.sync_nanos.load(Ordering::Relaxed)),
            counters,
            progress_at: Some(Timestamp::from_millis(stats.progress_at.load(Ordering::Relaxed)))
                .filter(|at| *at > Timestamp::ZERO),
        }
    }

    async fn close(&self) -> Result<()> {
        self.shut()
    }
}

impl Embedded {
    /// Moves as many staged entries as fit one commit; returns where it stopped and what became of each.
    async fn move_some(
        &self,
        stream: &Arc<Stream>,
        step: &DeadStep,
        staged: &[Result<u64, DeadStepStatus>],
        from: usize,
    ) -> Result<(usize, Vec<DeadStepStatus>)> {
        let state = match step.action {
            DeadAction::Reprocess { .. } => DeadState::Reprocessed,
            DeadAction::Resolve => DeadState::Resolved,
            DeadAction::Discard => DeadState::Discarded,
        };
        let mut commit = Step::new(Durability::Sync);
        let mut entries = Vec::new();
        let mut end = from;
        for one in staged.iter().skip(from) {
            if let Ok(seq) = one {
                let went = self.prepare_dead(stream, *seq, &step.action, &mut commit)?;
                entries.push((*seq, went));
            }
            end += 1;
            if commit.bytes() > limits::COMMIT_BYTES_MAX {
                break;
            }
        }
        let mut appended = Vec::new();
        if !entries.is_empty() {
            commit.items.push(Item::DeadMove(Box::new(DeadMove {
                stream: stream.id,
                state,
                at: self.state.clock.now(),
                by: step.by.clone(),
                note: step.note.clone(),
                entries,
            })));
            appended = self.commit(commit).await?;
        }
        let mut appended = appended.into_iter().map(|appended| appended.position);
        let became = staged.iter().take(end).skip(from).map(|one| match one {
            Ok(_) => DeadStepStatus::Moved(appended.next()),
            Err(status) => *status,
        });
        Ok((end, became.collect()))
    }

    fn stream_status(&self, stream: &Stream) -> StreamStatus {
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
            groups: stream.groups.read().iter().map(|group| group.name.clone()).collect(),
        }
    }

    fn group_status(&self, group: &Group) -> Result<GroupStatus> {
        let now = self.state.clock.now();
        let inner = group.inner.lock();
        let last = group.stream.last();
        let unseen = (last + 1).saturating_sub(inner.cursor);
        let due = inner.due.range(..=(now, u64::MAX)).count() as u64;
        let oldest_ready = inner.ready.first().and_then(|seq| Some((*seq, inner.entries.get(seq)?.at)));
        let oldest = oldest_ready.or((unseen > 0).then_some((inner.cursor, super::segment::Lsn::default())));
        let status = GroupStatus {
            name: group.name.clone(),
            stream: group.stream.name.clone(),
            accepted: (last + 1).saturating_sub(inner.start),
            done: inner.counts.done,
            duplicates: inner.counts.duplicates,
            waiting: unseen + inner.ready.len() as u64 + inner.blocked as u64 + due,
            scheduled: inner.due.len() as u64 - due,
            in_flight: inner.in_flight,
            dead: inner.counts.dead,
            expired: inner.counts.expired,
            dropped: inner.counts.dropped,
            oldest_waiting: None,
            blocked_keys: inner.keys.values().filter(|key| !key.queue.is_empty()).count() as u64,
            leases_lost: inner.leases_lost,
        };
        drop(inner);
        let accepted_at = oldest.and_then(|(seq, at)| {
            let found = group.stream.read_one(seq, at, &self.state.reader, &self.state.open).ok()?;
            stored(&found).ok().map(|(at, _)| at)
        });
        Ok(GroupStatus { oldest_waiting: accepted_at.map(|at| now.since(at)), ..status })
    }
}

/// Returns the declaration of a known group with the settings of a new spec.
fn wanted_decl(known: &GroupDecl, spec: &GroupSpec) -> GroupDecl {
    GroupDecl {
        order_by: spec.order_by.as_ref().map(ToString::to_string),
        block: spec.on_failure == tidegate_core::store::OnFailure::Block,
        ledger: spec.ledger,
        mark_claims: spec.mark_claims,
        ..known.clone()
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
            Some(seen) => Ok(seen.get(self.state.key.of(source, id), now)?.is_some()),
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

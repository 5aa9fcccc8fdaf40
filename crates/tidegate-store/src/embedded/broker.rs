//! The seam, carried out by the embedded engine.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use tidegate_core::{
    clock::Timestamp,
    delivery::{LeaseToken, Position, SettleStatus, Settled, Settlement},
    event::Event,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
    names::{GroupName, StreamName},
    seek::{Rehearsal, SeekTo, Sought},
    store::{
        Appended, Blocked, Broker, Claim, Claimed, Durability, GroupSpec, GroupStatus, Page, Promises, Start,
        StoreStatus, Stored, StreamSpec, StreamStatus, Unblock,
    },
    whereabouts::{Find, Finding, Standing, Steps},
};
use tokio::sync::oneshot;

use super::{
    Embedded, body,
    claim::{Aside, Claiming, stored},
    commit::{Item, Step},
    frame::Kind,
    group::{Group, State as EntryState},
    settle::{Streams, push_event},
    stream::{Stream, StreamDecl},
    upkeep::{closed, sizes},
};

impl Embedded {
    /// Hands a step to the committer and waits until it is durable.
    pub(crate) async fn commit(&self, mut step: Step) -> Result<Vec<Appended>> {
        let (answer, wait) = oneshot::channel();
        step.answer = Some(answer);
        self.queue.push(step)?;
        self.pump();
        wait.await.unwrap_or_else(|_| Err(closed())).map(|reply| reply.appended.into_vec())
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

    pub(crate) fn raw(&self, kind: Kind, body: Vec<u8>) -> Step {
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
            let backlog = group.backlog(stream.last());
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

    /// Stages settlements of one group under one lock until the step is full; returns whether it is.
    fn stage_some(
        &self,
        group: &Arc<Group>,
        buries: bool,
        left: &mut std::slice::Iter<'_, Settled>,
        outputs: &Streams,
        step: &mut Step,
        statuses: &mut Vec<SettleStatus>,
    ) -> bool {
        let mut staging = self.staging(group, buries);
        let mut size = step.bytes() - step.arena.len();
        for one in left {
            let items = step.items.len();
            // What cannot be read now stays lent; its lease runs out and it is tried again.
            let held = self.stage(&mut staging, one, outputs, step).unwrap_or(false);
            statuses.push(if held { SettleStatus::Settled } else { SettleStatus::LeaseLost });
            size += step.items[items..].iter().map(Item::bytes).sum::<usize>();
            if size + step.arena.len() > limits::COMMIT_BYTES_MAX {
                return true;
            }
        }
        false
    }

    fn write_aside(&self, group: &Arc<Group>, aside: Aside) -> Option<Step> {
        if aside.is_empty() {
            return None;
        }
        let mut step = Step::new(group.stream.spec.read().durability);
        step.staged.extend(aside.settles.iter().map(|settle| (Arc::clone(group), settle.seq, EntryState::Ready)));
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
}

pub(crate) fn only_numbers(position: Position) -> Result<u64> {
    if position.high == 0 {
        Ok(position.low)
    } else {
        Err(Fault::invalid(format!("{position} is not a position of this engine")))
    }
}

/// How a change of control state is written.
pub(super) fn state_body(key: &str, value: Option<&[u8]>) -> Result<Vec<u8>> {
    postcard::to_stdvec(&(key, value)).map_err(|error| Fault::bug(format!("keep control state {key:?}: {error}")))
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
            dependencies: true,
            priorities: true,
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
            retain: tidegate_core::store::Retain::default(),
            max_backlog: None,
            dedupe: None,
            dead: spec.dead,
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
                    let known = group.decl(group.start);
                    if known.end != spec.end.map(|end| end.low) {
                        let note = format!("group {:?} cannot change its end: remove it first", spec.name.as_str());
                        return Err(Fault::conflict(note));
                    }
                    let wanted = known.with(spec);
                    if known == wanted {
                        return Ok(());
                    }
                    wanted
                }
                None => {
                    let start = start_of(spec, &stream)?;
                    let id = registry.next_id;
                    registry.next_id += 1;
                    Group::new(id, spec.clone(), Arc::clone(&stream), start).decl(start)
                }
            }
        };
        let is_new = self.group_by_id(decl.id).is_none();
        let body =
            postcard::to_stdvec(&decl).map_err(|error| Fault::bug(format!("declare group {}: {error}", spec.name)))?;
        self.commit(self.raw(Kind::Group, body)).await?;
        if is_new && matches!(spec.start, Start::At(_)) && stream.first() > decl.start {
            // Retention went on before the group was there to hold it back.
            self.remove_group(&spec.name).await?;
            return Err(not_kept(&stream, decl.start));
        }
        Ok(())
    }

    async fn remove_group(&self, group: &GroupName) -> Result<()> {
        let group = self.state.group(group)?;
        let mut body = Vec::new();
        body::put_numbers(&mut body, group.id, &[]);
        self.commit(self.raw(Kind::Ungroup, body)).await.map(drop)
    }

    async fn locate(&self, group: &GroupName, place: &SeekTo) -> Result<Position> {
        self.find_place(&*self.state.group(group)?, place).map(Position::number)
    }

    async fn seek(&self, group: &GroupName, to: Position, again: bool) -> Result<Sought> {
        self.move_group(self.state.group(group)?, only_numbers(to)?, again).await
    }

    async fn rehearse(&self, group: &GroupName, range: Range<Position>, max: usize) -> Result<Rehearsal> {
        let range = only_numbers(range.start)?..only_numbers(range.end)?;
        self.count_ahead(&*self.state.group(group)?, range, max)
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
            return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
        }
        self.state.check_failed()?;
        self.refuse_backlog(&stream, events.len())?;
        let mut step = Step::new(stream.spec.read().durability);
        step.admits = true;
        let dedupe = stream.dedupe_key();
        step.arena.reserve(events.iter().map(|event| event.size() + 48).sum());
        for event in &events {
            event.check()?;
            let fingerprint = dedupe.as_ref().map_or(0, |key| key.fingerprint(&self.state.key, event));
            push_event(&mut step, &stream, event, fingerprint);
        }
        self.commit(step).await
    }

    async fn shed(&self, stream: &StreamName, room: u64) -> Result<u64> {
        self.make_room(&*self.state.stream(stream)?, room).await
    }

    async fn read(&self, stream: &StreamName, from: Position, max: usize) -> Result<Page<Stored>> {
        let stream = self.state.stream(stream)?;
        let from = only_numbers(from)?.max(stream.first());
        let max = max.min(limits::PAGE_MAX);
        let reader = &self.state.reader;
        let found = stream.read(from, max, limits::CLAIM_BYTES_MAX, &mut None, reader, &self.state.open)?;
        let mut items = Vec::with_capacity(found.len());
        let mut expected = from;
        for found in &found {
            if found.seq > expected && !stream.name.is_dead_letters() {
                let what = format!("events {expected} to {} do not read back", found.seq - 1);
                self.state.report_damage(&format!("stream {}", stream.name), &what);
            }
            expected = found.seq + 1;
            let (accepted_at, event) = stored(found)?;
            items.push(Stored { position: Position::number(found.seq), accepted_at, event });
        }
        if found.is_empty() && expected <= stream.last() && !stream.name.is_dead_letters() {
            let what = format!("events {expected} to {} do not read back", stream.last());
            self.state.report_damage(&format!("stream {}", stream.name), &what);
        }
        let next = found.last().map(|found| found.seq + 1).filter(|next| *next <= stream.last());
        Ok(Page { items, next: next.map(Position::number) })
    }

    async fn claim(&self, ask: &Claim) -> Result<Claimed> {
        self.state.check_failed()?;
        let group = self.state.group(&ask.group)?;
        let (out, aside) = {
            let mut inner = group.inner.lock();
            // Under the lock: whoever changes the settings wakes what waits under it.
            let spec = group.spec.read().clone();
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
                end: ask.before.map_or(u64::MAX, |before| before.low),
                full: false,
                ranking: false,
            };
            claiming.run()?;
            (claiming.out, claiming.aside)
        };
        let must_wait = !aside.marks.is_empty();
        let Some(step) = self.write_aside(&group, aside) else { return Ok(out) };
        // A handler may kill the process: that it got this delivery must be on record before it runs.
        let written = if must_wait { self.commit(step).await.map(drop) } else { self.commit_later(step) };
        if let Err(fault) = written {
            let mut inner = group.inner.lock();
            for delivery in &out.deliveries {
                inner.give_back(&delivery.lease.token);
            }
            return Err(fault);
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
                && inner.entries.get(seq).is_some_and(
                    |entry| matches!(entry.state, EntryState::Leased { epoch, .. } if epoch == token.epoch),
                );
            if held {
                inner.change(seq, EntryState::Leased { epoch: token.epoch, expires: until });
            }
            extended.push(held);
        }
        Ok(extended)
    }

    async fn unsettled(&self, group: &GroupName, positions: &[Position]) -> Result<Vec<Option<u32>>> {
        let group = self.state.group(group)?;
        let inner = group.inner.lock();
        let unseen = inner.cursor..inner.end(group.stream.last());
        let spent = |position: &Position| match inner.entries.get(position.low) {
            Some(entry) => Some(entry.attempts),
            None => unseen.contains(&position.low).then_some(0),
        };
        Ok(positions.iter().map(spent).collect())
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<Vec<SettleStatus>> {
        self.state.check_failed()?;
        let outputs = self.check_outputs(&settled)?;
        let mut statuses = Vec::with_capacity(settled.len());
        let mut step = Step::new(Durability::Os);
        let mut released: Vec<(Arc<Group>, LeaseToken)> = Vec::new();
        let mut waits = Vec::new();
        for run in settled.chunk_by(|one, next| one.token.group == next.token.group) {
            let Some(group) = run.first().and_then(|one| self.group_by_id(one.token.group)) else {
                statuses.extend(run.iter().map(|_| SettleStatus::LeaseLost));
                continue;
            };
            if step.durability != Durability::Sync {
                step.durability = group.stream.spec.read().durability;
            }
            let buries = run.iter().any(|one| matches!(one.settlement, Settlement::Bury { .. }));
            let mut left = run.iter();
            while !left.as_slice().is_empty() {
                let full = self.stage_some(&group, buries, &mut left, &outputs, &mut step, &mut statuses);
                if full {
                    let (answer, wait) = oneshot::channel();
                    let next = Step::new(step.durability);
                    self.queue.push(Step { answer: Some(answer), ..std::mem::replace(&mut step, next) })?;
                    waits.push(wait);
                }
            }
            let held = statuses[statuses.len() - run.len()..].iter().map(|status| *status == SettleStatus::Settled);
            let back = run.iter().zip(held).filter(|(one, held)| *held && one.settlement == Settlement::Release);
            released.extend(back.map(|(one, _)| (Arc::clone(&group), one.token)));
        }
        if !step.items.is_empty() {
            self.commit(step).await?;
        }
        self.pump();
        for wait in waits {
            wait.await.unwrap_or_else(|_| Err(closed()))?;
        }
        for (group, token) in released {
            group.inner.lock().give_back(&token);
            group.wake.notify_waiters();
        }
        Ok(statuses)
    }

    async fn blocked(&self, group: &GroupName, from: Position, max: usize) -> Result<Page<Blocked>> {
        self.list_blocked(&*self.state.group(group)?, only_numbers(from)?, max)
    }

    async fn unblock(&self, ask: &Unblock) -> Result<Vec<bool>> {
        let positions: Vec<u64> = ask.positions.iter().map(|at| only_numbers(*at)).collect::<Result<_>>()?;
        self.unblock_some(self.state.group(&ask.group)?, &positions, ask).await
    }

    async fn wait(&self, group: &GroupName, until: Timestamp) {
        let Ok(group) = self.state.group(group) else { return };
        let notified = group.wake.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        let now = self.state.clock.now();
        let wake_at = {
            let inner = group.inner.lock();
            let unseen = inner.unseen(group.stream.last()) > 0 && inner.held_back() < limits::ORDER_LOOKAHEAD_MAX;
            if unseen || !inner.ready.is_empty() || !inner.ranked.is_empty() {
                return;
            }
            let timed = inner.due.first().map(|(at, _)| *at).into_iter().chain(inner.leases.next());
            let timed = timed.chain(inner.waits.next_expiry()).min();
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

    async fn find(&self, ask: &Find) -> Result<Finding> {
        self.find_event(ask).await
    }

    async fn standing(&self, group: &GroupName, position: Position) -> Result<Standing> {
        let group = self.state.group(group)?;
        self.standing_of(&group, only_numbers(position)?)
    }

    async fn steps(&self, stream: &StreamName, position: Position) -> Result<Steps> {
        let stream = self.state.stream(stream)?;
        self.steps_of(&stream, only_numbers(position)?)
    }

    async fn put_state(&self, key: &str, value: Option<&[u8]>) -> Result<()> {
        let _shared = self.swaps.read().await;
        self.commit(self.raw(Kind::State, state_body(key, value)?)).await.map(drop)
    }

    async fn swap_state(&self, key: &str, was: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool> {
        let _alone = self.swaps.write().await;
        if self.state.registry.read().states.get(key).map(Vec::as_slice) != was {
            return Ok(false);
        }
        self.commit(self.raw(Kind::State, state_body(key, value)?)).await?;
        Ok(true)
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

/// Finds where a new group starts.
fn start_of(spec: &GroupSpec, stream: &Stream) -> Result<u64> {
    let (first, behind) = (stream.first(), stream.last() + 1);
    let start = match spec.start {
        Start::Earliest => first,
        Start::Latest => behind,
        Start::At(position) => only_numbers(position)?,
    };
    let end = spec.end.map(only_numbers).transpose()?.unwrap_or(behind);
    if start < first {
        return Err(not_kept(stream, start));
    }
    if start > end || end > behind {
        let note = format!(
            "group {:?} cannot go from {start} to {end}: stream {:?} ends at {}",
            spec.name.as_str(),
            stream.name.as_str(),
            stream.last()
        );
        return Err(Fault::invalid(note));
    }
    Ok(start)
}

fn not_kept(stream: &Stream, position: u64) -> Fault {
    let note =
        format!("position {position} is not kept: stream {:?} begins at {}", stream.name.as_str(), stream.first());
    Fault::invalid(note)
}

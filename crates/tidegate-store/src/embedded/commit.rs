//! The committer: takes everything that waits, writes it as one frame, syncs once, applies it, answers.
//!
//! There is no timer: while one sync runs, the next group gathers.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    event::{Fingerprint, put_number},
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
    store::{Appended, Durability},
};
use tokio::sync::oneshot;

use super::{
    body::{self, AppendHead, DeadHead, DeadMove, Settle},
    frame::{self, FrameBuilder, Kind},
    group::{Group, State as EntryState},
    journal::{Journal, is_full},
    seen::{FastMap, Mark},
    segment::Lsn,
    state::{State, index_record},
    stats::Stats,
    stream::Stream,
};

/// One thing to be written.
#[derive(Debug)]
pub(crate) enum Item {
    /// An event; its stored form lies in the arena of the step.
    Append {
        stream: Arc<Stream>,
        start: u32,
        end: u32,
        fingerprint: Fingerprint,
        redriven: Option<Box<AppendHead>>,
    },
    /// A dead letter with the stored form of its event.
    Dead {
        stream: Arc<Stream>,
        head: Box<DeadHead>,
        event: Bytes,
    },
    Settle(Settle),
    /// Entries say which append of this step they became, counted from 1; 0 = none.
    DeadMove(Box<DeadMove>),
    Raw(Kind, Vec<u8>),
}

impl Item {
    /// Returns how many bytes it takes in the journal beside those in the arena, at most.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Append { redriven: None, .. } => 48,
            Self::Append { redriven: Some(head), .. } => 64 + attempts_bytes(&head.past),
            Self::Dead { head, event, .. } => {
                128 + event.len() + head.message.len() + head.config.len() + attempts_bytes(&head.attempts)
            }
            Self::Settle(Settle { how: body::How::Retry { attempt, .. }, .. }) => {
                96 + attempts_bytes(attempt.as_slice())
            }
            Self::Settle(_) => 64,
            Self::DeadMove(step) => 96 + step.by.len() + step.note.len() + step.entries.len() * 20,
            Self::Raw(_, bytes) => 16 + bytes.len(),
        }
    }
}

/// Items that are written all or none.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) items: Vec<Item>,
    pub(crate) arena: Vec<u8>,
    pub(crate) durability: Durability,
    /// Whether it brings new events from outside: refused while the disk is full.
    pub(crate) admits: bool,
    pub(crate) answer: Option<oneshot::Sender<Result<Vec<Appended>>>>,
    /// Deliveries that are being settled by it: group, sequence number, and the state to go back to.
    pub(crate) staged: Vec<(Arc<Group>, u64, EntryState)>,
    /// Bytes in the journal, at most; counted once when it is queued.
    pub(crate) size: usize,
}

impl Step {
    pub(crate) fn new(durability: Durability) -> Self {
        Self {
            items: Vec::new(),
            arena: Vec::new(),
            durability,
            admits: false,
            answer: None,
            staged: Vec::new(),
            size: 0,
        }
    }

    /// Returns how many bytes it takes in the journal, at most.
    pub(crate) fn bytes(&self) -> usize {
        self.arena.len() + self.items.iter().map(Item::bytes).sum::<usize>()
    }

    /// Gives back deliveries whose settlement could not be written.
    fn unstage(&self) {
        for (group, seq, before) in &self.staged {
            let mut inner = group.inner.lock();
            if inner.entries.get(seq).is_some_and(|entry| entry.state == EntryState::Settling) {
                inner.change(*seq, *before);
            }
        }
    }
}

fn attempts_bytes(attempts: &[tidegate_core::delivery::Attempt]) -> usize {
    attempts.iter().map(|attempt| 32 + attempt.message.len()).sum()
}

#[derive(Debug, Default)]
struct Waiting {
    steps: Vec<Step>,
    bytes: usize,
    closed: bool,
}

/// Steps that wait for the next commit.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

/// Most bytes that may wait for a commit.
const QUEUE_BYTES_MAX: usize = 64 * limits::COMMIT_BYTES_MAX;

impl Queue {
    pub(crate) fn push(&self, mut step: Step) -> Result<()> {
        let bytes = step.bytes();
        if bytes > limits::STEP_BYTES_MAX {
            let note = format!("a step of {bytes} bytes is larger than the limit of {} bytes", limits::STEP_BYTES_MAX);
            step.unstage();
            return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
        }
        step.size = bytes;
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(Fault::unavailable(Origin::Store, "the store is closed"));
        }
        if step.admits && (waiting.steps.len() >= limits::COMMIT_QUEUE_MAX || waiting.bytes > QUEUE_BYTES_MAX) {
            return Err(Fault::limited("too many publishes wait for the disk", Duration::from_secs(1)));
        }
        waiting.bytes += bytes;
        waiting.steps.push(step);
        if waiting.steps.len() == 1 {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Takes the next group; waits for it at most `wait` when there is none. None when closed and empty.
    fn take(&self, wait: Option<Duration>) -> Option<Vec<Step>> {
        let mut waiting = self.waiting.lock();
        while waiting.steps.is_empty() {
            if waiting.closed {
                return None;
            }
            match wait {
                None => self.filled.wait(&mut waiting),
                Some(wait) => {
                    if self.filled.wait_for(&mut waiting, wait).timed_out() {
                        break;
                    }
                }
            }
        }
        Some(cut_group(&mut waiting))
    }

    pub(crate) fn try_take(&self) -> Vec<Step> {
        cut_group(&mut self.waiting.lock())
    }

    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.filled.notify_all();
    }
}

/// Takes steps from the front until the group is full.
fn cut_group(waiting: &mut Waiting) -> Vec<Step> {
    let mut bytes = 0;
    let mut count = 0;
    for step in &waiting.steps {
        bytes += step.size;
        if count > 0 && bytes > limits::COMMIT_BYTES_MAX {
            break;
        }
        count += 1;
    }
    if count == waiting.steps.len() {
        waiting.bytes = 0;
        return std::mem::take(&mut waiting.steps);
    }
    let taken: Vec<Step> = waiting.steps.drain(..count).collect();
    waiting.bytes = waiting.bytes.saturating_sub(taken.iter().map(|step| step.size).sum());
    taken
}

/// Writes steps into the journal.
#[derive(Debug)]
pub(crate) struct Committer {
    pub(crate) state: Arc<State>,
    pub(crate) journal: Journal,
    pub(crate) queue: Arc<Queue>,
    buffer: Vec<u8>,
    /// Since when there is something written and not synced, and how long that may last.
    dirty: Option<(Timestamp, Duration)>,
}

/// What a frame being built knows of its own events.
#[derive(Default)]
struct Draft {
    /// Newest sequence number given out, by stream.
    assigned: FastMap<u64, u64>,
    /// Events of this very frame, for dedupe.
    fresh: FastMap<Fingerprint, u64>,
    appends: Vec<(Arc<Stream>, Fingerprint, u64)>,
    /// Groups whose deliveries are settled here.
    groups: Vec<u32>,
    answers: Vec<Vec<Appended>>,
}

impl Draft {
    fn touch(&mut self, group: u32) {
        if self.groups.last() != Some(&group) && !self.groups.contains(&group) {
            self.groups.push(group);
        }
    }
}

impl Committer {
    pub(crate) fn new(state: Arc<State>, journal: Journal, queue: Arc<Queue>) -> Self {
        Self { state, journal, queue, buffer: Vec::new(), dirty: None }
    }

    /// Commits until the queue is closed.
    pub(crate) fn run(&mut self) {
        loop {
            let wait = self.dirty.map(|(since, every)| every.saturating_sub(self.state.clock.now().since(since)));
            let Some(steps) = self.queue.take(wait) else { break };
            if !steps.is_empty() {
                self.commit(steps);
            }
            self.sync_if_due();
        }
        self.sync_dirty();
    }

    fn sync_if_due(&mut self) {
        if self.dirty.is_some_and(|(since, every)| self.state.clock.now().since(since) >= every) {
            self.sync_dirty();
        }
    }

    pub(crate) fn sync_dirty(&mut self) {
        if self.dirty.take().is_some()
            && self.state.failed.read().is_none()
            && let Err(fault) = self.sync()
        {
            self.state.fail(fault.note());
        }
    }

    /// Commits a group of steps.
    pub(crate) fn commit(&mut self, steps: Vec<Step>) {
        if let Err(fault) = self.state.check_failed() {
            answer_all(steps, &fault);
            return;
        }
        let mut steps = self.turn_away(steps);
        let mut reserve = false;
        loop {
            if steps.is_empty() {
                return;
            }
            match self.try_commit(&steps, reserve) {
                Ok((answers, wake)) => {
                    for (step, answer) in steps.into_iter().zip(answers) {
                        if let Some(reply) = step.answer {
                            // The caller may have gone; the step is durable all the same.
                            drop(reply.send(Ok(answer)));
                        }
                    }
                    wake.into_iter().for_each(|group| group.wake.notify_waiters());
                    self.state.stats.progress_at.store(self.state.clock.now().as_millis(), Ordering::Relaxed);
                    return;
                }
                Err(fault) if fault.kind == FaultKind::Limited && !reserve => {
                    // The disk is full: publishes are refused, settling goes on in the reserve.
                    self.state.refuse(Some(fault.note().to_owned()));
                    steps = self.turn_away(steps);
                    reserve = true;
                }
                Err(fault) => {
                    if fault.kind != FaultKind::Limited {
                        self.state.fail(fault.note());
                    }
                    answer_all(steps, &fault);
                    return;
                }
            }
        }
    }

    /// Refuses publishes while the disk is full.
    fn turn_away(&self, steps: Vec<Step>) -> Vec<Step> {
        if !self.state.is_refusing.load(Ordering::Acquire) {
            return steps;
        }
        let reason = self.state.refusing.read().clone().unwrap_or_default();
        let (admits, rest) = steps.into_iter().partition(|step| step.admits);
        answer_all(
            admits,
            &Fault::new(FaultKind::Unavailable, Origin::Store, Retry::After(Duration::from_secs(5)), reason),
        );
        rest
    }

    #[expect(clippy::type_complexity, reason = "answers in the order of the steps, and the groups to wake")]
    fn try_commit(&mut self, steps: &[Step], reserve: bool) -> Result<(Vec<Vec<Appended>>, Vec<Arc<Group>>)> {
        let need = steps.iter().map(|step| step.size).sum::<usize>() + frame::START_LEN + frame::END_LEN;
        let watch = self.state.clock.stopwatch();
        if !self.journal.fits(need) {
            self.roll(reserve)?;
        }
        let now = self.state.clock.now();
        let mut frame = self.journal.frame(std::mem::take(&mut self.buffer));
        let mut draft = Draft::default();
        for step in steps {
            self.encode(step, &mut frame, &mut draft, now);
        }
        let encoded = watch.elapsed();
        Stats::add(&self.state.stats.encode_nanos, encoded);
        if frame.records() == 0 {
            // Nothing but duplicates of durable events.
            return Ok((draft.answers, Vec::new()));
        }
        let records = u64::from(frame.records());
        let (at, bytes) = self.journal.write(frame, now.as_millis()).map_err(|error| {
            let kind = if is_full(&error) { FaultKind::Limited } else { FaultKind::Unavailable };
            Fault::new(kind, Origin::Store, Retry::Later, format!("write to the journal failed: {error}"))
        })?;
        let written = watch.elapsed();
        Stats::add(&self.state.stats.write_nanos, written - encoded);
        self.make_durable(steps, now)?;
        let synced = watch.elapsed();
        self.journal.publish(at, bytes.clone());
        let wake = self.apply(at, &bytes, &draft, now);
        Stats::add(&self.state.stats.apply_nanos, watch.elapsed() - synced);
        Stats::count(&self.state.stats.frames, 1);
        Stats::count(&self.state.stats.records, records);
        Stats::count(&self.state.stats.bytes, bytes.len() as u64);
        Ok((draft.answers, wake))
    }

    fn make_durable(&mut self, steps: &[Step], now: Timestamp) -> Result<()> {
        if steps.iter().any(|step| step.durability == Durability::Sync) {
            self.dirty = None;
            return self.sync();
        }
        for step in steps {
            let every = match step.durability {
                Durability::Interval(every) => every,
                // The system decides; we only make sure that it does not take for ever.
                Durability::Os | Durability::Sync => Duration::from_secs(30),
            };
            let (since, least) = self.dirty.unwrap_or((now, every));
            self.dirty = Some((since, least.min(every)));
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        let watch = self.state.clock.stopwatch();
        // A failed sync is never tried again: what it did not write may be gone from memory too.
        self.journal.sync().map_err(|error| {
            Fault::unavailable(Origin::Store, format!("sync of the journal failed: {error}; start the node again"))
        })?;
        self.state.stats.synced(watch.elapsed());
        Ok(())
    }

    fn roll(&mut self, reserve: bool) -> Result<()> {
        if self.journal.tip.synced_frame + 1 < self.journal.tip.next_frame {
            self.dirty = None;
            self.sync()?;
        }
        let spare = !self.journal.spares.lock().ready.is_empty();
        self.journal.roll(reserve)?;
        Stats::count(&self.state.stats.rolls, 1);
        if !spare {
            Stats::count(&self.state.stats.rolls_without_spare, 1);
        }
        *self.state.open.0.write() = (self.journal.open.number, Arc::clone(&self.journal.footer));
        Ok(())
    }

    fn encode(&self, step: &Step, frame: &mut FrameBuilder, draft: &mut Draft, now: Timestamp) {
        let mut answers = Vec::new();
        for item in &step.items {
            match item {
                Item::Append { stream, start, end, fingerprint, redriven } => {
                    let event = &step.arena[*start as usize..*end as usize];
                    let redriven = redriven.as_deref();
                    answers.push(self.encode_append(stream, event, *fingerprint, redriven, frame, draft, now));
                }
                Item::Dead { stream, head, event } => {
                    draft.touch(head.group);
                    let seq = next_seq(stream, draft);
                    let head = DeadHead { stream: stream.id, seq, failed_at: now, ..(**head).clone() };
                    frame.push(Kind::Dead, |out| {
                        head.encode(out);
                        out.extend_from_slice(event);
                    });
                }
                Item::Settle(settle) => {
                    draft.touch(settle.group);
                    frame.push(Kind::Settle, |out| settle.encode(out));
                }
                Item::DeadMove(step) => {
                    let mut step = (**step).clone();
                    step.at = now;
                    for (_, went) in &mut step.entries {
                        let index = usize::try_from(*went).unwrap_or(0).checked_sub(1);
                        *went = index
                            .and_then(|index| answers.get(index))
                            .map_or(0, |answer: &Appended| answer.position.low);
                    }
                    frame.push(Kind::DeadMove, |out| step.encode(out));
                }
                Item::Raw(kind, body) => {
                    if matches!(kind, Kind::Drop | Kind::Mark | Kind::Forget)
                        && let Some((group, _)) = body::peek_seq(body)
                    {
                        draft.touch(group);
                    }
                    frame.push(*kind, |out| out.extend_from_slice(body));
                }
            }
        }
        draft.answers.push(answers);
    }

    #[expect(clippy::too_many_arguments, reason = "one call site; a struct would only name the same things twice")]
    fn encode_append(
        &self,
        stream: &Arc<Stream>,
        event: &[u8],
        fingerprint: Fingerprint,
        redriven: Option<&AppendHead>,
        frame: &mut FrameBuilder,
        draft: &mut Draft,
        now: Timestamp,
    ) -> Appended {
        if redriven.is_none()
            && let Some(seq) = known(stream, fingerprint, draft, now)
        {
            stream.duplicates.fetch_add(1, Ordering::Relaxed);
            return Appended { position: Position::number(seq), duplicate: true };
        }
        let seq = next_seq(stream, draft);
        frame.push(Kind::Append, |out| match redriven {
            Some(head) => {
                AppendHead { stream: stream.id, seq, accepted_at: now, ..head.clone() }.encode(out);
                out.extend_from_slice(event);
            }
            None => {
                put_number(out, u64::from(stream.id));
                put_number(out, seq);
                put_number(out, now.as_millis().max(0).unsigned_abs());
                out.push(0);
                out.extend_from_slice(event);
            }
        });
        if redriven.is_none() {
            draft.fresh.insert(fresh_key(stream, fingerprint), seq);
            draft.appends.push((Arc::clone(stream), fingerprint, seq));
        }
        Appended { position: Position::number(seq), duplicate: false }
    }

    /// Applies the records of a durable frame; returns the groups that may have work now.
    fn apply(&mut self, at: Lsn, bytes: &Bytes, draft: &Draft, now: Timestamp) -> Vec<Arc<Group>> {
        let salt = self.journal.open.salt;
        let mut offset = frame::START_LEN;
        {
            let mut footer = self.journal.footer.lock();
            while offset + frame::END_LEN < bytes.len() {
                let Ok(record) = frame::read_record(bytes, offset, salt) else { break };
                index_record(&mut footer, Lsn(at.0 + offset as u64), &record);
                offset += record.len;
            }
        }
        for (stream, fingerprint, seq) in &draft.appends {
            if let Some(seen) = &mut stream.inner.lock().dedupe {
                seen.insert(*fingerprint, Mark { number: *seq, at: now.as_millis() });
            }
        }
        offset = frame::START_LEN;
        while offset + frame::END_LEN < bytes.len() {
            let Ok(record) = frame::read_record(bytes, offset, salt) else { break };
            let place = Lsn(at.0 + offset as u64);
            if let Err(fault) = self.state.apply(place, &record, false) {
                self.state.report_damage("journal in memory", fault.note());
            }
            offset += record.len;
        }
        self.state.applied.store(at.0 + bytes.len() as u64, Ordering::Release);
        self.woken(draft)
    }

    fn woken(&self, draft: &Draft) -> Vec<Arc<Group>> {
        let registry = self.state.registry.read();
        let mut wake: Vec<Arc<Group>> =
            draft.groups.iter().filter_map(|id| registry.groups.get(id)).map(Arc::clone).collect();
        for id in draft.assigned.keys() {
            if let Some(stream) = u32::try_from(*id).ok().and_then(|id| registry.streams.get(&id)) {
                wake.extend(stream.groups.read().iter().map(Arc::clone));
            }
        }
        wake
    }
}

fn next_seq(stream: &Stream, draft: &mut Draft) -> u64 {
    let seq = draft.assigned.entry(u64::from(stream.id)).or_insert_with(|| stream.last());
    *seq += 1;
    *seq
}

/// One frame may bring one event to several streams.
fn fresh_key(stream: &Stream, fingerprint: Fingerprint) -> u128 {
    fingerprint.wrapping_add(u128::from(stream.id) << 96)
}

/// Returns the position under which an event was accepted before, inside the dedupe window.
fn known(stream: &Stream, fingerprint: Fingerprint, draft: &Draft, now: Timestamp) -> Option<u64> {
    let inner = stream.inner.lock();
    let seen = inner.dedupe.as_ref()?;
    if let Some(seq) = draft.fresh.get(&fresh_key(stream, fingerprint)) {
        return Some(*seq);
    }
    // A window that cannot be read lets the repeat in: the ledger of each group still catches it.
    seen.get(fingerprint, now).ok().flatten().map(|mark| mark.number)
}

fn answer_all(steps: Vec<Step>, fault: &Fault) {
    for step in steps {
        step.unstage();
        if let Some(reply) = step.answer {
            drop(reply.send(Err(fault.clone())));
        }
    }
}

//! The committer: takes everything that waits, writes it as one frame, syncs once, applies it, answers.
//!
//! There is no timer: while one sync runs, the next group gathers.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;
use tidegate_core::{
    clock::Timestamp,
    event::Fingerprint,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
    store::{Appended, Durability},
};
use tokio::sync::oneshot;

use super::{
    Bell,
    body::{self, AppendHead, DeadHead, DeadMove, Settle},
    draft::Draft,
    frame::{self, Kind},
    group::{Group, State as EntryState},
    journal::{Journal, is_full},
    state::State,
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
            Self::DeadMove(step) => 96 + step.by.len() + step.note.len() + step.job.len() + step.entries.len() * 20,
            Self::Raw(_, bytes) => 16 + bytes.len(),
        }
    }
}

/// The items of a step: one publish is mostly one event.
pub(crate) type Items = SmallVec<[Item; 1]>;

/// What became of each event of a step.
pub(crate) type Answers = SmallVec<[Appended; 1]>;

/// What a durable step is answered with.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) appended: Answers,
    /// What the step was made of: the caller frees what the caller made, off the commit path.
    _spent: (Items, Vec<u8>),
    /// The answers to all others of the frame.
    _others: Others,
}

/// Answers that the first caller of a frame hands on.
///
/// Waking a task from outside its runtime costs a system call more often than not; from inside it is a push to a
/// queue. So the committer wakes one caller, which wakes the others. Dropping hands on too: a caller that has gone
/// takes nobody's answer with it.
#[derive(Debug, Default)]
struct Others(Vec<(oneshot::Sender<Result<Reply>>, Reply)>);

impl Drop for Others {
    fn drop(&mut self) {
        for (answer, reply) in self.0.drain(..) {
            // The caller may have gone; its step is durable all the same.
            drop(answer.send(Ok(reply)));
        }
    }
}

/// Items that are written all or none.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) items: Items,
    pub(crate) arena: Vec<u8>,
    pub(crate) durability: Durability,
    /// Whether it brings new events from outside: refused while the disk is full.
    pub(crate) admits: bool,
    pub(crate) answer: Option<oneshot::Sender<Result<Reply>>>,
    /// Deliveries that are being settled by it: group, sequence number, and the state to go back to.
    pub(crate) staged: Vec<(Arc<Group>, u64, EntryState)>,
    /// A group that is being moved by it.
    pub(crate) seeking: Option<Arc<Group>>,
    /// Bytes in the journal, at most; counted once when it is queued.
    pub(crate) size: usize,
}

impl Step {
    pub(crate) fn new(durability: Durability) -> Self {
        Self {
            items: Items::new(),
            arena: Vec::new(),
            durability,
            admits: false,
            answer: None,
            staged: Vec::new(),
            seeking: None,
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
            if inner.entries.get(*seq).is_some_and(|entry| entry.state == EntryState::Settling) {
                inner.change(*seq, *before);
            }
        }
        if let Some(group) = &self.seeking {
            group.inner.lock().seeking = None;
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
    upkeep: Arc<Bell>,
    draft: Draft,
    /// Since when there is something written and not synced, and how long that may last.
    dirty: Option<(Timestamp, Duration)>,
}

impl Committer {
    pub(crate) fn new(state: Arc<State>, journal: Journal, queue: Arc<Queue>, upkeep: Arc<Bell>) -> Self {
        Self { state, journal, queue, upkeep, draft: Draft::default(), dirty: None }
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
                    answer_durable(steps, answers);
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

    fn try_commit(&mut self, steps: &[Step], reserve: bool) -> Result<(Vec<Answers>, Vec<Arc<Group>>)> {
        let need = steps.iter().map(|step| step.size).sum::<usize>() + frame::START_LEN + frame::END_LEN;
        let watch = self.state.clock.stopwatch();
        if !self.journal.fits(need) {
            self.roll(reserve)?;
        }
        let now = self.state.clock.now();
        let mut frame = self.journal.frame(need);
        self.draft.start(now);
        for step in steps {
            self.draft.encode(step, &mut frame, &self.state);
        }
        let encoded = watch.elapsed();
        Stats::add(&self.state.stats.encode_nanos, encoded);
        if frame.records() == 0 {
            // Nothing but duplicates of durable events.
            return Ok((self.draft.take_answers(), Vec::new()));
        }
        let records = u64::from(frame.records());
        let sync = steps.iter().any(|step| step.durability == Durability::Sync);
        let (at, bytes) = match self.journal.write(frame, now.as_millis(), sync) {
            Ok(written) => written,
            Err(error) => return Err(self.write_failed(&error, need)),
        };
        let written = watch.elapsed();
        Stats::add(&self.state.stats.write_nanos, written - encoded);
        if sync {
            self.dirty = None;
            self.sync()?;
        } else {
            self.promise_sync(steps, now);
        }
        let synced = watch.elapsed();
        self.journal.publish(at, bytes.clone());
        self.draft.index(&mut self.journal.footer.lock(), at, &bytes, self.journal.open.salt);
        let wake = self.draft.apply(steps, &self.state, at, &bytes, self.journal.open.salt);
        self.state.applied.store(at.0 + bytes.len() as u64, Ordering::Release);
        Stats::add(&self.state.stats.apply_nanos, watch.elapsed() - synced);
        Stats::count(&self.state.stats.frames, 1);
        Stats::count(&self.state.stats.records, records);
        Stats::count(&self.state.stats.bytes, bytes.len() as u64);
        Ok((self.draft.take_answers(), wake))
    }

    /// A full disk refuses the frame, and it is as if it had never been; any other failure ends all writing.
    fn write_failed(&mut self, error: &std::io::Error, bytes: usize) -> Fault {
        let failed = |what: &str, error: &std::io::Error| {
            Fault::unavailable(Origin::Store, format!("{what} the journal failed: {error}; start the node again"))
        };
        if !is_full(error) {
            return failed("write to", error);
        }
        if let Err(second) = self.journal.retract(bytes) {
            return failed("taking back a refused write to", &second);
        }
        Fault::new(FaultKind::Limited, Origin::Store, Retry::Later, format!("write to the journal failed: {error}"))
    }

    /// Notes by when what was written has to be synced.
    fn promise_sync(&mut self, steps: &[Step], now: Timestamp) {
        for step in steps {
            let every = match step.durability {
                Durability::Interval(every) => every,
                // The system decides; we only make sure that it does not take for ever.
                Durability::Os | Durability::Sync => Duration::from_secs(30),
            };
            let (since, least) = self.dirty.unwrap_or((now, every));
            self.dirty = Some((since, least.min(every)));
        }
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
        // A spare was used up: under load the next is needed before upkeep would look by itself.
        self.upkeep.changed.notify_all();
        Ok(())
    }
}

fn answer_durable(steps: Vec<Step>, answers: Vec<Answers>) {
    let mut replies = Vec::with_capacity(steps.len());
    for (step, appended) in steps.into_iter().zip(answers) {
        let Step { items, arena, answer, .. } = step;
        if let Some(answer) = answer {
            replies.push((answer, Reply { appended, _spent: (items, arena), _others: Others::default() }));
        }
    }
    if let Some((answer, reply)) = replies.pop() {
        drop(answer.send(Ok(Reply { _others: Others(replies), ..reply })));
    }
}

fn answer_all(steps: Vec<Step>, fault: &Fault) {
    for step in steps {
        step.unstage();
        if let Some(reply) = step.answer {
            drop(reply.send(Err(fault.clone())));
        }
    }
}

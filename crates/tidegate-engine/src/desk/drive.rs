//! Driving one job: find the next entries, move them in steps, keep to the pace, end when there is reason to.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    event::Event,
    fault::{FaultKind, Result},
    limits,
    names::GroupName,
    notice::Notice,
    store::{DeadAction, DeadLetter, DeadProgress, DeadQuery, DeadState, DeadStep, DeadStepStatus, Store},
};

use super::{
    Cancel, Inner,
    filter::dead_scope,
    job::{Became, Followed, JobAsk, JobProgress, JobState, JobVerb, progress_key, read, write},
};

/// Entries that are read with their events at a time.
const READ_STEP: usize = 64;
/// Pages that are looked through before a job looks up.
const FINDS: usize = 8;
/// Time in which a job with a rate makes one step, so that its pace is even.
const PACE: Duration = Duration::from_millis(100);

/// What was counted since the entry before; it becomes true with the step that moves the entry.
#[derive(Debug, Clone, Copy, Default)]
struct Ahead {
    looked: u64,
    matched: u64,
    refused: u64,
    missing: u64,
    unfit: u64,
}

impl Ahead {
    fn add_to(self, job: &mut JobProgress) {
        job.looked += self.looked;
        job.matched += self.matched;
        job.refused += self.refused;
        job.missing += self.missing;
        job.unfit += self.unfit;
    }
}

/// An entry that is moved next.
struct Next {
    id: Position,
    /// So many of the named ones were looked at with it.
    named: usize,
    group: GroupName,
    edited: Option<Event>,
    ahead: Ahead,
}

/// One job on its way.
pub(super) struct Drive<'a> {
    pub(super) inner: &'a Inner,
    pub(super) id: &'a str,
    pub(super) ask: &'a JobAsk,
    pub(super) job: JobProgress,
    /// How far it came, as it is kept: whoever changed that drives the job now.
    stored: Vec<u8>,
    pending: VecDeque<Next>,
    /// Everything up to here was looked at, and what of it is meant is pending or moved.
    scanned: Position,
    /// So many of the named ones were looked at.
    named: usize,
    exhausted: bool,
    ahead: Ahead,
    next_at: Timestamp,
    became: Vec<Became>,
}

impl Inner {
    /// Returns how a job begins: what it may touch, and how much there is.
    pub(super) async fn first_progress(&self, ask: &JobAsk) -> Result<JobProgress> {
        let newest = DeadQuery { limit: 1, ..DeadQuery::default() };
        let newest = self.store.dead_entries(&ask.stream, &newest).await?.items.first().map(|entry| entry.id);
        let deaths = newest.unwrap_or(Position::START);
        let mut job = JobProgress {
            created_at: self.cx.clock.now(),
            upto: Position { low: deaths.low.saturating_add(1), ..deaths },
            deaths,
            ..JobProgress::default()
        };
        match &ask.ids {
            Some(ids) => job.total = ids.len() as u64,
            None => {
                let mut query = candidates(ask, &job, Position::START);
                loop {
                    let page = self.store.dead_entries(&ask.stream, &query).await?;
                    job.total += page.items.len() as u64;
                    let Some(next) = page.next else { break };
                    query.after = Some(next);
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(job)
    }
}

/// Asks for the entries behind a place that a job may be meant for, oldest first.
fn candidates(ask: &JobAsk, job: &JobProgress, after: Position) -> DeadQuery {
    DeadQuery {
        state: ask.state,
        group: ask.group.clone(),
        before: Some(job.upto),
        after: Some(after),
        since: None,
        until: ask.until,
        limit: limits::PAGE_MAX,
    }
}

impl<'a> Drive<'a> {
    /// Takes a job up where its last step left it.
    pub(super) async fn take_up(inner: &'a Inner, id: &'a str, ask: &'a JobAsk) -> Result<Self> {
        let known = inner.jobs.lock().get(id).map(|live| live.progress.clone()).unwrap_or_default();
        let kept = if ask.dry_run { Vec::new() } else { inner.store.states(&progress_key(id)).await? };
        let kept = kept.into_iter().find(|(key, _)| *key == progress_key(id));
        let stored = kept.map(|(_, value)| value).unwrap_or_default();
        let mut job = match stored.as_slice() {
            [] => JobProgress { looked: 0, matched: 0, ..known },
            value => read(id, value)?,
        };
        let stored = inner.own_it(id, ask, stored, &mut job).await?;
        job.state = JobState::Running;
        let mut drive = Self {
            inner,
            id,
            ask,
            scanned: job.cursor,
            named: job.next,
            job,
            stored,
            pending: VecDeque::new(),
            exhausted: false,
            ahead: Ahead::default(),
            next_at: inner.cx.clock.now(),
            became: Vec::new(),
        };
        drive.reconcile().await?;
        Ok(drive)
    }

    /// Learns what became of the last step: its commit says that it was made, not how it ended.
    async fn reconcile(&mut self) -> Result<()> {
        for id in std::mem::take(&mut self.job.step) {
            let status = match self.inner.store.dead_letter(&self.ask.stream, id).await {
                Ok(letter) => {
                    let mine = letter.changed.filter(|changed| changed.job == self.id);
                    match mine {
                        Some(changed) => (DeadStepStatus::Moved(changed.position), Some(letter.group)),
                        None => (DeadStepStatus::Refused(letter.state), Some(letter.group)),
                    }
                }
                Err(fault) if fault.kind == FaultKind::Missing && self.ask.verb == JobVerb::Purge => {
                    (DeadStepStatus::Moved(None), None)
                }
                Err(fault) if fault.kind == FaultKind::Missing => (DeadStepStatus::Missing, None),
                Err(fault) => return Err(fault),
            };
            self.count((id, 0), status.1, status.0);
        }
        Ok(())
    }

    /// Goes on until the job has ended.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut ended = self.inner.ended.subscribe();
        loop {
            ended.mark_unchanged();
            if let Some(cancel) = self.inner.cancelled(self.id) {
                return self.cancel(cancel).await;
            }
            if let Some(why) = self.look_after().await? {
                return self.end(JobState::Stopped, Some(why)).await;
            }
            let room = self.room();
            for _ in 0..FINDS {
                if !self.exhausted && self.pending.len() < room {
                    self.find(room).await?;
                }
            }
            let is_over = self.exhausted && self.pending.is_empty();
            if is_over {
                let before = self.outcomes();
                std::mem::take(&mut self.ahead).add_to(&mut self.job);
                self.tell_outcomes(before);
            }
            if is_over && self.job.following.is_empty() {
                let state = if self.ask.dry_run { JobState::DryRun } else { JobState::Done };
                return self.end(state, None).await;
            }
            if is_over || room == 0 {
                let _follows = self.inner.follow();
                tokio::select! {
                    _ = ended.changed() => {}
                    () = self.inner.cx.clock.sleep(super::AGAIN) => {}
                }
            } else if self.inner.cx.clock.now() < self.next_at {
                tokio::select! {
                    () = self.inner.cx.clock.sleep_until(self.next_at) => {}
                    _ = ended.changed() => {}
                }
            } else if !self.pending.is_empty() {
                self.step(room).await?;
            }
            self.inner.pulse.beat();
        }
    }

    /// Tells whether the outcome of what is moved next is waited for.
    fn follows(&self) -> bool {
        self.ask.verb == JobVerb::Reprocess && (self.ask.follows_all() || self.job.moved < self.ask.canary)
    }

    /// Returns how many may be moved now.
    fn room(&self) -> usize {
        if self.ask.dry_run {
            return READ_STEP;
        }
        let mut room = limits::DEAD_STEP_MAX;
        if let Some(rate) = &self.ask.rate {
            let per_step = f64::from(rate.count) * PACE.as_secs_f64() / rate.per.as_secs_f64().max(0.001);
            room = room.min((per_step as usize).max(1));
        }
        if self.ask.canary > 0 && self.ask.verb == JobVerb::Reprocess {
            let left = self.ask.canary.saturating_sub(self.job.moved);
            if left > 0 {
                room = room.min(usize::try_from(left).unwrap_or(usize::MAX));
            } else if self.job.settled < self.ask.canary && !self.job.following.is_empty() {
                // The canaries are out; the others wait for them.
                return 0;
            }
        }
        if self.ask.follows_all() {
            room = room.min(super::follow::WINDOW.saturating_sub(self.job.following.len()));
        }
        room
    }

    /// Looks for entries that the job is meant for.
    async fn find(&mut self, wanted: usize) -> Result<()> {
        tokio::task::yield_now().await;
        if let Some(ids) = &self.ask.ids {
            return self.find_named(ids, wanted).await;
        }
        let mut query = candidates(self.ask, &self.job, self.scanned);
        if self.ask.filter.is_none() && self.ask.patch.is_none() {
            query.limit = limits::DEAD_STEP_MAX;
            let page = self.inner.store.dead_entries(&self.ask.stream, &query).await?;
            self.exhausted = page.next.is_none();
            for entry in page.items {
                self.scanned = entry.id;
                self.ahead.looked += 1;
                if self.allows(entry.state) {
                    self.take(entry.id, entry.group, None);
                }
            }
        } else {
            query.limit = READ_STEP;
            let page = self.inner.store.dead_letters(&self.ask.stream, &query).await?;
            self.exhausted = page.next.is_none();
            for letter in page.items {
                self.scanned = letter.id;
                self.ahead.looked += 1;
                self.consider(letter)?;
            }
        }
        self.show();
        Ok(())
    }

    /// Tells whether a verb is for entries in a state; those that it is not for were not asked for.
    fn allows(&self, state: DeadState) -> bool {
        match self.ask.verb {
            JobVerb::Reprocess => state == DeadState::Parked || self.ask.force,
            JobVerb::Resolve | JobVerb::Discard => state == DeadState::Parked,
            JobVerb::Purge => state != DeadState::Parked,
        }
    }

    fn take(&mut self, id: Position, group: GroupName, edited: Option<Event>) {
        self.ahead.matched += 1;
        if !self.ask.dry_run {
            let ahead = std::mem::take(&mut self.ahead);
            self.pending.push_back(Next { id, named: self.named, group, edited, ahead });
        }
    }

    fn consider(&mut self, letter: DeadLetter) -> Result<()> {
        if !self.allows(letter.state) {
            return Ok(());
        }
        if let Some(filter) = &self.ask.filter {
            let fits = filter.test(&dead_scope(&letter));
            if !fits.map_err(|fault| fault.within(format!("where, at dead letter {}", letter.id)))? {
                return Ok(());
            }
        }
        let edited = match &self.ask.patch {
            None => None,
            Some(patch) => match patch.apply(&letter.event) {
                Ok(edited) => Some(edited),
                Err(fault) => {
                    self.ahead.matched += 1;
                    self.unfit(letter.id, fault.note());
                    return Ok(());
                }
            },
        };
        self.take(letter.id, letter.group, edited);
        Ok(())
    }

    fn unfit(&mut self, id: Position, why: &str) {
        self.ahead.unfit += 1;
        self.job.why.get_or_insert_with(|| format!("patch of dead letter {id}: {why}"));
        self.tell(Became { named: self.named, id, status: "unfit", state: None, position: None });
    }

    fn tell(&mut self, became: Became) {
        if self.ask.ids.is_some() {
            self.became.push(became);
        }
    }

    async fn find_named(&mut self, ids: &[Position], wanted: usize) -> Result<()> {
        let to = ids.len().min(self.named + wanted);
        for id in ids.get(self.named..to).unwrap_or_default() {
            self.named += 1;
            self.ahead.looked += 1;
            let letter = match self.inner.store.dead_letter(&self.ask.stream, *id).await {
                Ok(letter) => letter,
                Err(fault) if fault.kind == FaultKind::Missing => {
                    self.ahead.missing += 1;
                    self.tell(Became { named: self.named, id: *id, status: "missing", state: None, position: None });
                    continue;
                }
                Err(fault) => return Err(fault),
            };
            if !self.allows(letter.state) {
                self.ahead.matched += 1;
                self.ahead.refused += 1;
                let state = Some(letter.state);
                self.tell(Became { named: self.named, id: *id, status: "refused", state, position: None });
                continue;
            }
            if self.ask.dry_run {
                self.tell(Became { named: self.named, id: *id, status: "matched", state: None, position: None });
            }
            self.consider(letter)?;
        }
        self.exhausted = to == ids.len();
        self.show();
        Ok(())
    }

    /// Moves the next entries, at most so many, together with the progress that this makes.
    async fn step(&mut self, most: usize) -> Result<()> {
        let mut size = most.min(self.pending.len());
        loop {
            let ids: Vec<Position> = self.pending.iter().take(size).map(|next| next.id).collect();
            let edited = self.pending.iter().take(size).filter_map(|next| next.edited.clone()).collect();
            let mut job = self.job.clone();
            job.cursor = ids.last().copied().unwrap_or(job.cursor);
            job.next = self.pending.get(size - 1).map_or(job.next, |next| next.named);
            job.step.clone_from(&ids);
            self.pending.iter().take(size).for_each(|next| next.ahead.add_to(&mut job));
            let value = write(&job)?;
            let step = DeadStep {
                stream: self.ask.stream.clone(),
                ids,
                action: self.action(edited),
                by: self.ask.by.as_str().into(),
                note: self.ask.reason.as_str().into(),
                job: self.id.into(),
                progress: Some(DeadProgress {
                    key: progress_key(self.id),
                    was: Some(self.stored.clone()),
                    value: value.clone(),
                }),
            };
            match self.inner.store.move_dead(&step).await {
                Ok(statuses) => {
                    job.step.clear();
                    self.stored = value;
                    let before = self.outcomes();
                    self.job = job;
                    self.stepped(statuses, before);
                    return Ok(());
                }
                // Events that are large together do not fit one commit; fewer do.
                Err(fault) if fault.kind == FaultKind::Limited && size > 1 => size /= 2,
                Err(fault) => return Err(fault),
            }
        }
    }

    fn action(&self, edited: Vec<Event>) -> DeadAction {
        match self.ask.verb {
            JobVerb::Reprocess => DeadAction::Reprocess { force: self.ask.force, edited },
            JobVerb::Resolve => DeadAction::Resolve,
            JobVerb::Discard => DeadAction::Discard,
            JobVerb::Purge => DeadAction::Purge,
        }
    }

    /// Returns what became of entries so far.
    fn outcomes(&self) -> [(&'static str, u64); 4] {
        let now = &self.job;
        [("reprocessed", now.moved), ("refused", now.refused), ("missing", now.missing), ("unfit", now.unfit)]
    }

    /// Tells what became of entries since.
    fn tell_outcomes(&self, before: [(&'static str, u64); 4]) {
        if self.ask.verb == JobVerb::Reprocess && !self.ask.dry_run {
            let mut now = self.outcomes();
            now.iter_mut().zip(before).for_each(|(now, before)| now.1 -= before.1);
            self.inner.reprocessed(&self.ask.stream, &now);
        }
    }

    fn stepped(&mut self, statuses: Vec<DeadStepStatus>, before: [(&'static str, u64); 4]) {
        let many = statuses.len();
        let moved = before[0].1;
        for status in statuses {
            let Some(next) = self.pending.pop_front() else { break };
            self.count((next.id, next.named), Some(next.group), status);
        }
        if let Some(rate) = &self.ask.rate {
            let spent = rate.per.mul_f64(many as f64 / f64::from(rate.count.max(1)));
            self.next_at = self.next_at.max(self.inner.cx.clock.now()).plus(spent);
        }
        self.tell_outcomes(before);
        let (stream, now) = (&self.ask.stream, &self.job);
        if now.moved > moved {
            self.inner.cx.notices.emit(&Notice::DeadMoved {
                stream: stream.clone(),
                action: self.ask.verb.as_str(),
                count: now.moved - moved,
                by: self.ask.by.clone(),
                reason: self.ask.reason.clone(),
            });
        }
        self.show();
    }

    /// Counts what became of one entry.
    fn count(&mut self, (id, named): (Position, usize), group: Option<GroupName>, status: DeadStepStatus) {
        let (word, state, position) = match status {
            DeadStepStatus::Moved(position) => {
                if let (Some(group), Some(to), true) = (group, position, self.follows()) {
                    self.job.following.push(Followed { id, group, to });
                }
                self.job.moved += 1;
                ("moved", None, position)
            }
            DeadStepStatus::Missing => {
                self.job.missing += 1;
                ("missing", None, None)
            }
            DeadStepStatus::Refused(state) => {
                self.job.refused += 1;
                ("refused", Some(state), None)
            }
        };
        self.tell(Became { named, id, status: word, state, position });
    }

    pub(super) fn show(&mut self) {
        let mut job = self.job.clone();
        self.ahead.add_to(&mut job);
        self.inner.show(self.id, &job, &mut self.became);
    }

    async fn cancel(&mut self, cancel: Cancel) -> Result<()> {
        if cancel.undo && self.ask.verb == JobVerb::Reprocess && !self.ask.dry_run {
            self.undo().await?;
        }
        self.end(JobState::Cancelled, None).await
    }

    /// Parks again what this job moved and no handler has seen.
    async fn undo(&mut self) -> Result<()> {
        let mut after = Position::START;
        loop {
            let query = DeadQuery {
                state: Some(DeadState::Reprocessed),
                before: Some(self.job.upto),
                after: Some(after),
                limit: READ_STEP,
                ..DeadQuery::default()
            };
            let page = self.inner.store.dead_letters(&self.ask.stream, &query).await?;
            let mine = page
                .items
                .iter()
                .filter(|letter| letter.changed.as_ref().is_some_and(|changed| changed.job == self.id));
            let ids: Vec<Position> = mine.map(|letter| letter.id).collect();
            if !ids.is_empty() {
                let step = DeadStep {
                    stream: self.ask.stream.clone(),
                    ids,
                    action: DeadAction::Recall,
                    by: self.ask.by.as_str().into(),
                    note: "taken back".into(),
                    job: self.id.into(),
                    progress: None,
                };
                let statuses = self.inner.store.move_dead(&step).await?;
                let back = statuses.iter().filter(|status| matches!(status, DeadStepStatus::Moved(_))).count() as u64;
                self.job.recalled += back;
                self.inner.reprocessed(&self.ask.stream, &[("recalled", back)]);
                self.show();
            }
            let Some(next) = page.next else { return Ok(()) };
            after = next;
            tokio::task::yield_now().await;
        }
    }

    async fn end(&mut self, state: JobState, why: Option<String>) -> Result<()> {
        self.job.end(state, why, self.inner.cx.clock.now());
        let mut became = std::mem::take(&mut self.became);
        if let Some(live) = self.inner.jobs.lock().get_mut(self.id) {
            live.became.append(&mut became);
        }
        let mut ask: Arc<JobAsk> = match self.inner.jobs.lock().get(self.id) {
            Some(live) => Arc::clone(&live.ask),
            None => return Ok(()),
        };
        if self.ask.ids.as_ref().is_some_and(|ids| ids.len() > READ_STEP) && !self.ask.dry_run {
            // Nobody asks for the ids of an ended job, and they would be kept with it.
            ask = Arc::new(JobAsk { ids: Some(Vec::new()), ..self.ask.clone() });
            self.inner.keep_ask(self.id, &ask).await?;
        }
        self.inner.ended(self.id, &ask, &self.job, Some(&self.stored)).await
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.inner.store
    }
}

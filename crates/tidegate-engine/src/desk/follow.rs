//! Looking after what a job reprocessed: has it been done, or has it failed again?

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use tidegate_core::{
    delivery::Position,
    fault::Result,
    limits,
    names::{GroupName, StreamName},
    notice::Notice,
    store::DeadQuery,
    whereabouts::Place,
};

use super::{
    Inner,
    drive::Drive,
    job::{Followed, JobVerb},
};

/// Last outcomes that the rate of failures is taken over, and most that are waited for at a time.
pub(super) const WINDOW: usize = 100;
/// Fewest outcomes that say anything about the rate of failures.
const LEAST: usize = 10;

const _: () = assert!(WINDOW <= limits::DEAD_FOLLOWED_MAX);

/// Counts a job among those that wait for outcomes, as long as it lives.
pub(super) struct Follows<'a>(&'a AtomicUsize);

impl Drop for Follows<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    pub(super) fn follow(&self) -> Follows<'_> {
        self.following.fetch_add(1, Ordering::Relaxed);
        Follows(&self.following)
    }

    /// Tells what became of dead letters that were reprocessed.
    pub(super) fn reprocessed(&self, stream: &StreamName, told: &[(&'static str, u64)]) {
        for (result, count) in told.iter().filter(|(_, count)| *count > 0) {
            let (stream, count) = (stream.clone(), *count);
            self.cx.notices.emit(&Notice::DeadReprocessed { stream, result, count });
        }
    }
}

impl Drive<'_> {
    /// Looks at what is waited for; returns why the job must stop, when it must.
    pub(super) async fn look_after(&mut self) -> Result<Option<String>> {
        if self.job.following.is_empty() || self.ask.verb != JobVerb::Reprocess {
            return Ok(self.verdict());
        }
        // What is settled is looked for before what died: nothing is settled and has not died yet.
        let mut open = self.unsettled().await?;
        let dead = self.new_deaths().await?;
        let (mut done, mut failed) = (0, Vec::new());
        let mut following = Vec::with_capacity(self.job.following.len());
        for one in std::mem::take(&mut self.job.following) {
            let spent = open.remove(&(one.group.clone(), one.to));
            if spent.is_some_and(|attempts| attempts > 0) || dead.contains(&(one.group.clone(), one.to)) {
                failed.push(one);
            } else if spent.is_some() {
                following.push(one);
            } else {
                done += 1;
            }
        }
        self.job.following = following;
        if done + failed.len() as u64 == 0 {
            return Ok(None);
        }
        let was_canary = self.job.settled + self.job.failed_again < self.ask.canary;
        self.job.settled += done;
        self.job.failed_again += failed.len() as u64;
        let outcomes = std::iter::repeat_n(false, usize::try_from(done).unwrap_or(0));
        self.job.recent.extend(outcomes.chain(failed.iter().map(|_| true)));
        let more = self.job.recent.len().saturating_sub(WINDOW);
        self.job.recent.drain(..more);
        self.inner.reprocessed(&self.ask.stream, &[("done", done), ("failed_again", failed.len() as u64)]);
        self.show();
        match failed.first() {
            Some(first) if was_canary => Ok(Some(self.canary_failed(first).await?)),
            Some(_) | None => Ok(self.verdict()),
        }
    }

    async fn canary_failed(&self, canary: &Followed) -> Result<String> {
        let standing = self.store().standing(&canary.group, canary.to).await?;
        let message = match (&standing.place, standing.history.last()) {
            (Place::Dead { id, .. }, _) => {
                self.store().dead_letter(&self.ask.stream, *id).await.map(|letter| letter.message.to_string())?
            }
            (_, Some(attempt)) => attempt.message.clone(),
            (_, None) => "no message".to_owned(),
        };
        Ok(format!("canary {} failed again: {message}", canary.id))
    }

    /// Says whether too many failed again.
    fn verdict(&self) -> Option<String> {
        let most = self.ask.stop_on_fail_rate?;
        let recent = &self.job.recent;
        let all = self.job.following.is_empty() && self.job.settled + self.job.failed_again >= self.job.moved;
        if recent.is_empty() || recent.len() < LEAST && !all {
            return None;
        }
        let failed = recent.iter().filter(|failed| **failed).count();
        (failed as f64 > most * recent.len() as f64)
            .then(|| format!("{failed} of the last {} failed again", recent.len()))
    }

    /// Returns the attempts of those that are not settled.
    async fn unsettled(&self) -> Result<BTreeMap<(GroupName, Position), u32>> {
        let mut by_group: BTreeMap<&GroupName, Vec<Position>> = BTreeMap::new();
        for one in &self.job.following {
            by_group.entry(&one.group).or_default().push(one.to);
        }
        let mut open = BTreeMap::new();
        for (group, positions) in by_group {
            let spent = self.store().unsettled(group, &positions).await?;
            let known = positions.into_iter().zip(spent).filter_map(|(position, spent)| Some((position, spent?)));
            open.extend(known.map(|(position, spent)| ((group.clone(), position), spent)));
        }
        Ok(open)
    }

    /// Returns the origins of what died since the last look.
    async fn new_deaths(&mut self) -> Result<BTreeSet<(GroupName, Position)>> {
        let mut dead = BTreeSet::new();
        // What died is parked, and may be touched by others before this look.
        let mut query = DeadQuery { after: Some(self.job.deaths), limit: limits::PAGE_MAX, ..DeadQuery::default() };
        loop {
            let page = self.store().dead_entries(&self.ask.stream, &query).await?;
            if let Some(last) = page.items.last() {
                self.job.deaths = last.id;
            }
            dead.extend(page.items.into_iter().map(|entry| (entry.group, entry.position)));
            let Some(next) = page.next else { return Ok(dead) };
            query.after = Some(next);
        }
    }
}

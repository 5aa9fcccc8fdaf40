//! Metrics: what notices count as they pass, and what is looked up when somebody asks.
//!
//! Whatever the engine or the store already counts is read from there at the time of the request; only what nobody
//! keeps is counted here, so that the path of a message pays for nothing twice.

pub(crate) mod alias;
pub(crate) mod catalogue;
pub(crate) mod counts;
mod meter;
pub(crate) mod process;
pub(crate) mod scrape;
pub(crate) mod text;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytestring::ByteString;
use tidegate_core::{
    delivery::Position,
    fault::FaultClass,
    names::{GroupName, ModuleName, StreamName, TargetName},
    notice::{Listener, Notice, Notices},
};

pub use self::catalogue::{MetricKind, MetricSpec};
use self::{
    counts::Counts,
    meter::{Counter, Histogram, Slowest, Table},
    text::Page,
};
use crate::observe::{hours::Slow, sample::Counted};

/// What becomes of deliveries: settled by a worker, or on the way to one.
const OUTCOMES: [&str; 6] = ["done", "retry", "release", "dead", "duplicate", "expired"];

/// Counts what passes as notices.
#[derive(Debug, Default)]
pub struct Metrics {
    groups: Table<GroupName, GroupMeters>,
    targets: Table<TargetName, TargetMeters>,
    buried: Table<(StreamName, GroupName), [Counter; FaultClass::ALL.len()]>,
    refused: Table<StreamName, Counter>,
    reprocessed: Table<(StreamName, ByteString), Counter>,
    rejected: Table<ModuleName, Counter>,
    replies: Table<(ModuleName, ByteString), Histogram>,
}

#[derive(Debug, Default)]
struct GroupMeters {
    queue_latency: Histogram,
    handler_duration: Histogram,
    done: Counter,
    failed: [Counter; FaultClass::ALL.len()],
    interrupted: Counter,
    slowest: Slowest<(ByteString, Position, u32)>,
    settled: Table<&'static str, Counter>,
}

#[derive(Debug, Default)]
struct TargetMeters {
    wait: Histogram,
    results: Table<&'static str, Counter>,
}

impl Metrics {
    /// Makes the meters and lets them listen to `notices` from now on.
    pub fn listening(notices: &Notices) -> Arc<Self> {
        let metrics = Arc::new(Self::default());
        notices.listen(Arc::<Self>::clone(&metrics));
        metrics
    }

    /// Returns every metric of the product, for the generated page.
    pub fn catalogue() -> &'static [MetricSpec] {
        catalogue::ALL
    }

    /// Makes the meters of a group before anything is counted: whoever watches a counter grow must see it at 0 first.
    fn know(&self, stream: &StreamName, group: &GroupName) {
        self.groups.with(group, |meters| {
            for outcome in OUTCOMES {
                meters.settled.with(&outcome, |_| {});
            }
        });
        self.buried.with(&(stream.clone(), group.clone()), |_| {});
    }

    /// Counts a request that was to be answered with a result.
    pub(crate) fn replied(&self, source: &ModuleName, outcome: &'static str, took: Duration) {
        let key = (source.clone(), ByteString::from_static(outcome));
        self.replies.with(&key, |histogram| histogram.observe(took));
    }

    /// Returns what was counted of groups, and of waits before targets.
    pub(crate) fn counted(&self) -> (BTreeMap<GroupName, Counted>, BTreeMap<TargetName, Counts>) {
        let (mut groups, mut targets) = (BTreeMap::new(), BTreeMap::new());
        self.groups.each(|group, meters| {
            let (latency, duration) = (meters.queue_latency.counts(), meters.handler_duration.counts());
            groups.insert(group.clone(), Counted { latency, duration, done: meters.done.get() });
        });
        self.targets.each(|target, meters| drop(targets.insert(target.clone(), meters.wait.counts())));
        (groups, targets)
    }

    /// Returns how many deliveries were buried since the start, and how many publishes were refused, by stream.
    pub(crate) fn misfortunes(&self) -> (BTreeMap<StreamName, u64>, BTreeMap<StreamName, u64>) {
        let (mut buried, mut refused) = (BTreeMap::<_, u64>::new(), BTreeMap::<_, u64>::new());
        self.buried.each(|(stream, _), classes| {
            *buried.entry(stream.clone()).or_default() += classes.iter().map(Counter::get).sum::<u64>();
        });
        self.refused.each(|stream, counter| *refused.entry(stream.clone()).or_default() += counter.get());
        (buried, refused)
    }

    /// Takes the slowest attempts of each group since the last time.
    pub(crate) fn take_slowest(&self) -> Vec<(GroupName, Vec<Slow>)> {
        let mut all = Vec::new();
        self.groups.each(|group, meters| {
            let named = |(took, (event, position, attempt)): (Duration, (ByteString, Position, u32))| Slow {
                group: group.to_string(),
                event: event.to_string(),
                position: position.to_string(),
                attempt,
                took_ms: took.as_secs_f64() * 1000.0,
            };
            all.push((group.clone(), meters.slowest.take().into_iter().map(named).collect()));
        });
        all
    }

    /// Writes what was counted.
    fn write(&self, page: &mut Page) {
        self.write_groups(page);
        let mut family = page.family(&catalogue::DEAD_LETTERS_BURIED);
        self.buried.each(|(stream, group), classes| {
            for (class, counter) in FaultClass::ALL.iter().zip(classes) {
                family.sample(&[stream.as_str(), group.as_str(), class.as_str()], counter.get());
            }
        });
        let mut family = page.family(&catalogue::MESSAGES_REFUSED);
        self.refused.each(|stream, counter| family.sample(&[stream.as_str()], counter.get()));
        let mut family = page.family(&catalogue::DLQ_REPROCESS);
        self.reprocessed.each(|(stream, result), counter| family.sample(&[stream.as_str(), result], counter.get()));
        let mut family = page.family(&catalogue::RATE_LIMITER_WAIT);
        self.targets.each(|target, meters| family.histogram(&[target.as_str()], &meters.wait.counts()));
        let mut family = page.family(&catalogue::SOURCE_REJECTED);
        self.rejected.each(|source, counter| family.sample(&[source.as_str()], counter.get()));
        let mut family = page.family(&catalogue::REPLY);
        self.replies.each(|(source, outcome), times| family.histogram(&[source.as_str(), outcome], &times.counts()));
        let mut family = page.family(&catalogue::OUTBOUND_REQUESTS);
        self.targets.each(|target, meters| {
            meters.results.each(|result, counter| family.sample(&[target.as_str(), result], counter.get()));
        });
    }

    fn write_groups(&self, page: &mut Page) {
        let mut family = page.family(&catalogue::MESSAGES_SETTLED);
        self.groups.each(|group, meters| {
            meters.settled.each(|outcome, counter| family.sample(&[group.as_str(), outcome], counter.get()));
        });
        let mut family = page.family(&catalogue::ATTEMPTS);
        self.groups.each(|group, meters| {
            family.sample(&[group.as_str(), "done", ""], meters.done.get());
            family.sample(&[group.as_str(), "interrupted", ""], meters.interrupted.get());
            for (class, counter) in FaultClass::ALL.iter().zip(&meters.failed) {
                family.sample(&[group.as_str(), "failed", class.as_str()], counter.get());
            }
        });
        let mut family = page.family(&catalogue::QUEUE_LATENCY);
        self.groups.each(|group, meters| family.histogram(&[group.as_str()], &meters.queue_latency.counts()));
        let mut family = page.family(&catalogue::HANDLER_DURATION);
        self.groups.each(|group, meters| family.histogram(&[group.as_str()], &meters.handler_duration.counts()));
    }
}

fn of_class(counters: &[Counter; FaultClass::ALL.len()], class: FaultClass) -> Option<&Counter> {
    counters.get(usize::from(class.code()))
}

impl Listener for Metrics {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a notice that is not counted here is counted by nobody else")]
    fn notice(&self, notice: &Notice) {
        match notice {
            Notice::AttemptStarted { group, waited, .. } => {
                self.groups.with(group, |meters| meters.queue_latency.observe(*waited));
            }
            Notice::AttemptDone { group, took, event, position, attempt } => self.groups.with(group, |meters| {
                meters.handler_duration.observe(*took);
                meters.slowest.observe(*took, || (event.clone(), *position, *attempt));
                meters.done.add(1);
            }),
            Notice::AttemptFailed { group, took, class, event, position, attempt, .. } => {
                self.groups.with(group, |meters| {
                    meters.handler_duration.observe(*took);
                    meters.slowest.observe(*took, || (event.clone(), *position, *attempt));
                    if let Some(counter) = of_class(&meters.failed, *class) {
                        counter.add(1);
                    }
                })
            }
            Notice::AttemptInterrupted { group, .. } => self.groups.with(group, |meters| meters.interrupted.add(1)),
            Notice::Settled { group, outcome, count } => self.groups.with(group, |meters| {
                meters.settled.with(outcome, |counter| counter.add(*count));
            }),
            Notice::Claimed { group, duplicates, expired, .. } if duplicates + expired > 0 => {
                self.groups.with(group, |meters| {
                    meters.settled.with(&"duplicate", |counter| counter.add(*duplicates));
                    meters.settled.with(&"expired", |counter| counter.add(*expired));
                });
            }
            Notice::DeadLettered { stream, group, class, .. } => {
                self.buried.with(&(stream.clone(), group.clone()), |classes| {
                    if let Some(counter) = of_class(classes, *class) {
                        counter.add(1);
                    }
                });
            }
            Notice::GroupRemoved { group, .. } => {
                self.groups.retain(|known| known != group);
                self.buried.retain(|(_, known)| known != group);
            }
            Notice::Refused { stream, .. } => self.refused.with(stream, |counter| counter.add(1)),
            Notice::InputRejected { module, .. } => self.rejected.with(module, |counter| counter.add(1)),
            Notice::DeadReprocessed { stream, result, count } => {
                let key = (stream.clone(), ByteString::from_static(result));
                self.reprocessed.with(&key, |counter| counter.add(*count));
            }
            Notice::TargetCalled { target, result, waited, .. } => self.targets.with(target, |meters| {
                meters.wait.observe(*waited);
                meters.results.with(result, |counter| counter.add(1));
            }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;

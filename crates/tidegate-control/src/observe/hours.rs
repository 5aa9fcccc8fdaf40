//! Figures of attempts by the hour: bounded, and kept over restarts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidegate_core::{clock::Timestamp, limits, names::GroupName};
use utoipa::ToSchema;

use super::sample::Sample;
use crate::metrics::counts::Counts;

/// Where they are kept in the store.
pub(crate) const PREFIX: &str = "report/hour/";

const HOUR_MS: i64 = 3_600_000;

/// A slow attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Slow {
    pub(crate) group: String,
    /// The event's id.
    pub(crate) event: String,
    pub(crate) position: String,
    pub(crate) attempt: u32,
    pub(crate) took_ms: f64,
}

/// Figures of a group in one hour.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Figures {
    done: u64,
    counts: Counts,
    slowest: Vec<Slow>,
}

type Hour = BTreeMap<String, Figures>;

/// Figures by the hour.
#[derive(Debug, Default)]
pub(crate) struct Hours {
    hours: BTreeMap<i64, Hour>,
    changed: BTreeSet<i64>,
}

/// What attempts came to in a stretch of time.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Summary {
    /// Attempts that ended.
    total: u64,
    /// Of those, well.
    success: u64,
    /// Of those, badly.
    failed: u64,
    /// Share of those that ended well; null when there were none.
    success_rate: Option<f64>,
    /// All times are in milliseconds; percentiles are estimated within the buckets of the histogram.
    avg_ms: Option<f64>,
    median_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    slowest: Vec<Slow>,
}

/// The report on performance.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Report {
    hours: u32,
    #[schema(value_type = String, format = DateTime)]
    start_time: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    end_time: Timestamp,
    #[serde(flatten)]
    all: Summary,
    /// The same for each group.
    #[schema(value_type = std::collections::HashMap<String, Summary>)]
    groups: BTreeMap<String, Summary>,
}

fn hour_of(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(HOUR_MS)
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.counts.add(&other.counts);
        self.add_slowest(other.slowest.iter().cloned());
    }

    fn add_slowest(&mut self, slowest: impl Iterator<Item = Slow>) {
        self.slowest.extend(slowest);
        self.slowest.sort_by(|one, two| two.took_ms.total_cmp(&one.took_ms));
        self.slowest.truncate(limits::SLOWEST_MAX);
    }

    fn summary(&self) -> Summary {
        let total = self.counts.total();
        let ms = |q: f64| self.counts.quantile(q).map(|seconds| seconds * 1000.0);
        let share = |part: f64| (total > 0).then(|| part / total as f64);
        Summary {
            total,
            success: self.done,
            failed: total.saturating_sub(self.done),
            success_rate: share(self.done as f64),
            avg_ms: share(self.counts.sum * 1000.0),
            median_ms: ms(0.5),
            p95_ms: ms(0.95),
            p99_ms: ms(0.99),
            slowest: self.slowest.clone(),
        }
    }
}

impl Hours {
    pub(crate) fn restore(&mut self, states: &[(String, Vec<u8>)]) {
        for (key, value) in states {
            let hour = key.strip_prefix(PREFIX).and_then(|hour| hour.parse::<i64>().ok());
            // Figures of another version are left out: a report is not worth refusing to start.
            let Some((hour, figures)) = hour.zip(serde_json::from_slice::<Hour>(value).ok()) else { continue };
            self.hours.insert(hour, figures);
        }
    }

    /// Adds what happened between two looks.
    pub(crate) fn add(&mut self, now: &Sample, before: Option<&Sample>) {
        for group in now.counted.keys() {
            let counted = now.counted_since(before, group);
            if counted.duration.total() == 0 {
                continue;
            }
            let figures = Figures { done: counted.done, counts: counted.duration, slowest: Vec::new() };
            self.figures(now.at, group.as_str()).add(&figures);
        }
    }

    pub(crate) fn add_slowest(&mut self, at: Timestamp, slowest: Vec<(GroupName, Vec<Slow>)>) {
        for (group, slowest) in slowest.into_iter().filter(|(_, slowest)| !slowest.is_empty()) {
            self.figures(at, group.as_str()).add_slowest(slowest.into_iter());
        }
    }

    fn figures(&mut self, at: Timestamp, group: &str) -> &mut Figures {
        let hour = hour_of(at);
        self.changed.insert(hour);
        self.hours.entry(hour).or_default().entry(group.to_owned()).or_default()
    }

    /// Returns what must be written: hours that changed, and hours that are too old.
    pub(crate) fn changed(&mut self, now: Timestamp) -> Vec<(String, Option<Vec<u8>>)> {
        let kept = i64::try_from(limits::REPORT_HOURS_MAX).unwrap_or(i64::MAX);
        let oldest = hour_of(now) - kept;
        let old: Vec<i64> = self.hours.range(..=oldest).map(|(hour, _)| *hour).collect();
        let mut out = Vec::new();
        for hour in old {
            self.hours.remove(&hour);
            self.changed.remove(&hour);
            out.push((format!("{PREFIX}{hour}"), None));
        }
        for hour in std::mem::take(&mut self.changed) {
            let value = self.hours.get(&hour).and_then(|hour| serde_json::to_vec(hour).ok());
            out.push((format!("{PREFIX}{hour}"), value));
        }
        out
    }

    /// Sums up the last hours, the running one included.
    pub(crate) fn report(&self, now: Timestamp, hours: u32) -> Report {
        let first = hour_of(now) - i64::from(hours) + 1;
        let mut all = Figures::default();
        let mut groups: BTreeMap<String, Figures> = BTreeMap::new();
        for (group, figures) in self.hours.range(first..).flat_map(|(_, hour)| hour) {
            all.add(figures);
            groups.entry(group.clone()).or_default().add(figures);
        }
        Report {
            hours,
            start_time: Timestamp::from_millis(first * HOUR_MS),
            end_time: now,
            all: all.summary(),
            groups: groups.iter().map(|(group, figures)| (group.clone(), figures.summary())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(event: &str, took_ms: f64) -> Slow {
        Slow { group: "g".into(), event: event.into(), position: "1".into(), attempt: 1, took_ms }
    }

    fn hours_at(at: Timestamp) -> Hours {
        let mut hours = Hours::default();
        let counts = Counts { buckets: vec![(0.1, 8), (1.0, 2)], above: 0, sum: 2.0 };
        hours.figures(at, "g").add(&Figures { done: 9, counts, slowest: vec![slow("a", 900.0)] });
        hours
    }

    #[test]
    fn figures_are_summed_up_over_hours_and_restarts() {
        let now = Timestamp::from_millis(100 * HOUR_MS + 5);
        let mut hours = hours_at(now);
        let kept = hours.changed(now);
        assert_eq!(kept.len(), 1);
        assert!(hours.changed(now).is_empty(), "what is written is not written again");
        let mut again = hours_at(Timestamp::from_millis(99 * HOUR_MS));
        let states: Vec<_> = kept.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        again.restore(&states);
        let both = again.report(now, 24);
        assert_eq!((both.all.total, both.all.success, both.all.failed), (20, 18, 2));
        assert_eq!(both.all.avg_ms, Some(200.0));
        assert!(both.all.median_ms.unwrap() <= 100.0 && both.all.p99_ms.unwrap() > 100.0);
        assert_eq!(both.groups["g"].slowest.len(), 2);
        assert_eq!(again.report(now, 1).all.total, 10);
        assert_eq!(Hours::default().report(now, 1).all.avg_ms, None);
    }

    #[test]
    fn what_is_too_old_is_given_up() {
        let now = Timestamp::from_millis(1000 * HOUR_MS);
        let mut hours = hours_at(Timestamp::from_millis(10 * HOUR_MS));
        assert_eq!(hours.changed(now), [(format!("{PREFIX}10"), None)]);
        assert_eq!(hours.report(now, 168).all.total, 0);
    }

    #[test]
    fn only_the_slowest_are_kept() {
        let mut figures = Figures::default();
        figures.add_slowest((0..20).map(|number| slow(&number.to_string(), f64::from(number))));
        let kept: Vec<&str> = figures.slowest.iter().map(|slow| slow.event.as_str()).collect();
        assert_eq!(kept, ["19", "18", "17", "16", "15"]);
    }
}

//! When a schedule fires: a cron expression on the wall clock of a time zone, with rules for the hours that clocks skip
//! and repeat.
//!
//! Expression and zone are kept apart: `croner` walks the wall clock, which knows no jumps, and each time on it is then
//! placed on the line of real time by the rules here.

use std::time::Duration;

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::clock::Timestamp;

/// What becomes of a fire whose wall-clock time is skipped when clocks go forward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// `next` for schedules at fixed hours; `skip` for those that fire in every hour of the day.
    #[default]
    Auto,
    /// It comes right after the gap; several become one.
    Next,
    /// It is left out.
    Skip,
}

/// When a schedule fires whose wall-clock time comes twice when clocks go back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// `first` for schedules at fixed hours; `both` for those that fire in every hour of the day.
    #[default]
    Auto,
    /// The first time only.
    First,
    /// The second time only.
    Second,
    /// Both times.
    Both,
}

/// A schedule in a time zone.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    cron: Cron,
    zone: TimeZone,
    gap: Gap,
    overlap: Overlap,
}

/// Instants of one wall-clock time, in order.
type Instants = [Option<Timestamp>; 2];

/// Reads a cron expression of five fields, or of six with seconds first.
pub(super) fn parse(text: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    let cron = parser.parse(text).map_err(|error| error.to_string())?;
    // An expression that can never be met, such as 30 February, is found out now.
    let start = DateTime::constant(2024, 1, 1, 0, 0, 0, 0);
    match cron.find_next_occurrence(&start, true) {
        Ok(_) => Ok(cron),
        Err(_) => Err(format!("{text:?} never fires")),
    }
}

impl Schedule {
    pub(super) fn new(cron: Cron, zone: TimeZone, gap: Gap, overlap: Overlap) -> Self {
        // A schedule of every hour goes by elapsed time: nothing to make up for, nothing to hold back.
        let fires_hourly = cron.pattern.hours.values().len() == 24;
        let gap = match gap {
            Gap::Auto if fires_hourly => Gap::Skip,
            Gap::Auto => Gap::Next,
            Gap::Next | Gap::Skip => gap,
        };
        let overlap = match overlap {
            Overlap::Auto if fires_hourly => Overlap::Both,
            Overlap::Auto => Overlap::First,
            Overlap::First | Overlap::Second | Overlap::Both => overlap,
        };
        Self { cron, zone, gap, overlap }
    }

    /// Returns the first fire after an instant; none when there is none in the time that calendars cover.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let start = jiff::Timestamp::from_millisecond(after.as_millis()).ok()?;
        let wall = self.zone.to_datetime(start).checked_sub(self.repeated(start)).ok()?;
        let mut wall = wall.with().subsec_nanosecond(0).build().ok()?;
        let mut best: Option<Timestamp> = None;
        let mut inclusive = true;
        loop {
            let Ok(occurrence) = self.cron.find_next_occurrence(&wall, inclusive) else { return best };
            let instants = self.instants(occurrence);
            // The earliest instants of wall-clock times come in the order of the times themselves.
            let earliest = instants.iter().flatten().min().copied();
            if let (Some(best), Some(earliest)) = (best, earliest)
                && earliest >= best
            {
                return Some(best);
            }
            for instant in instants.into_iter().flatten().filter(|instant| *instant > after) {
                best = Some(best.map_or(instant, |best| best.min(instant)));
            }
            (wall, inclusive) = (occurrence, false);
        }
    }

    /// Returns the latest fires after one instant and up to another, at most `max`, in order; and whether there were more.
    pub(super) fn latest(&self, after: Timestamp, until: Timestamp, max: usize) -> (Vec<Timestamp>, bool) {
        let mut look_back = Duration::from_secs(60);
        loop {
            let from = after.max(until.minus(look_back));
            let mut fires = self.between(from, until);
            if from == after || fires.len() > max {
                let over = fires.len().saturating_sub(max);
                fires.drain(..over);
                return (fires, over > 0 || from > after);
            }
            look_back = look_back.saturating_mul(4);
        }
    }

    fn between(&self, after: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        let next = |from: &Timestamp| self.next(*from).filter(|at| *at <= until);
        std::iter::successors(next(&after), next).collect()
    }

    /// Returns how much of the wall clock just before an instant comes again soon: within the first run of a repeated
    /// hour, earlier times of it are still to come a second time.
    fn repeated(&self, at: jiff::Timestamp) -> jiff::SignedDuration {
        let Some(change) = self.zone.following(at).next() else { return jiff::SignedDuration::ZERO };
        let (before, after) = (self.zone.to_offset(at), change.offset());
        let repeated = jiff::SignedDuration::from_secs(i64::from(before.seconds()) - i64::from(after.seconds()));
        let left = change.timestamp().duration_since(at);
        if repeated.is_positive() && left <= repeated { repeated } else { jiff::SignedDuration::ZERO }
    }

    fn instants(&self, wall: DateTime) -> Instants {
        let at = |offset: jiff::tz::Offset| {
            offset.to_timestamp(wall).ok().map(|at| Timestamp::from_millis(at.as_millisecond()))
        };
        match self.zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Unambiguous { offset } => [at(offset), None],
            AmbiguousOffset::Gap { after, .. } => match self.gap {
                Gap::Skip => [None, None],
                Gap::Auto | Gap::Next => [self.end_of_gap(after, wall), None],
            },
            AmbiguousOffset::Fold { before, after } => match self.overlap {
                Overlap::Auto | Overlap::First => [at(before), None],
                Overlap::Second => [at(after), None],
                Overlap::Both => [at(before), at(after)],
            },
        }
    }

    /// Returns when clocks went forward over a wall-clock time.
    fn end_of_gap(&self, offset_after: jiff::tz::Offset, wall: DateTime) -> Option<Timestamp> {
        // With the offset that comes after the gap, the time lies before the change.
        let before = offset_after.to_timestamp(wall).ok()?;
        let change = self.zone.following(before).next()?;
        Some(Timestamp::from_millis(change.timestamp().as_millisecond()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(text: &str, zone: &str, gap: Gap, overlap: Overlap) -> Schedule {
        Schedule::new(parse(text).unwrap(), TimeZone::get(zone).unwrap(), gap, overlap)
    }

    /// Fires between two instants, as `MM-DD HH:MM` in UTC.
    fn fires(schedule: &Schedule, from: &str, to: &str) -> Vec<String> {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let fires = schedule.between(at(from).minus(Duration::from_millis(1)), at(to));
        fires.iter().map(|fire| fire.to_string()[5..16].replace('T', " ")).collect()
    }

    fn check(text: &str, zone: &str, rules: (Gap, Overlap), span: (&str, &str), expect: &[&str]) {
        let schedule = schedule(text, zone, rules.0, rules.1);
        assert_eq!(fires(&schedule, span.0, span.1), expect, "{text} {zone} {rules:?}");
    }

    /// Both changes of a year in each zone: a time that is skipped and a time that comes twice, by every rule.
    #[test]
    fn fixed_times_over_both_changes_of_three_zones() {
        use {Gap as G, Overlap as O};
        // Berlin 2026: 29 March 02:00 -> 03:00 at 01:00Z, 25 October 03:00 -> 02:00 at 01:00Z.
        let spring = ("2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z");
        let autumn = ("2026-10-24T00:00:00Z", "2026-10-26T12:00:00Z");
        let berlin = |rules, span, expect: &[&str]| check("30 2 * * *", "Europe/Berlin", rules, span, expect);
        berlin((G::Auto, O::Auto), spring, &["03-28 01:30", "03-29 01:00", "03-30 00:30"]);
        berlin((G::Next, O::Auto), spring, &["03-28 01:30", "03-29 01:00", "03-30 00:30"]);
        berlin((G::Skip, O::Auto), spring, &["03-28 01:30", "03-30 00:30"]);
        berlin((G::Auto, O::Auto), autumn, &["10-24 00:30", "10-25 00:30", "10-26 01:30"]);
        berlin((G::Auto, O::First), autumn, &["10-24 00:30", "10-25 00:30", "10-26 01:30"]);
        berlin((G::Auto, O::Second), autumn, &["10-24 00:30", "10-25 01:30", "10-26 01:30"]);
        berlin((G::Auto, O::Both), autumn, &["10-24 00:30", "10-25 00:30", "10-25 01:30", "10-26 01:30"]);
        // New York 2026: 8 March 02:00 -> 03:00 at 07:00Z, 1 November 02:00 -> 01:00 at 06:00Z.
        let spring = ("2026-03-07T00:00:00Z", "2026-03-09T12:00:00Z");
        let autumn = ("2026-10-31T00:00:00Z", "2026-11-02T12:00:00Z");
        let york = |text, rules, span, expect: &[&str]| check(text, "America/New_York", rules, span, expect);
        york("15 2 * * *", (G::Auto, O::Auto), spring, &["03-07 07:15", "03-08 07:00", "03-09 06:15"]);
        york("15 2 * * *", (G::Skip, O::Auto), spring, &["03-07 07:15", "03-09 06:15"]);
        york("15 1 * * *", (G::Auto, O::Auto), autumn, &["10-31 05:15", "11-01 05:15", "11-02 06:15"]);
        york("15 1 * * *", (G::Auto, O::Second), autumn, &["10-31 05:15", "11-01 06:15", "11-02 06:15"]);
        york("15 1 * * *", (G::Auto, O::Both), autumn, &["10-31 05:15", "11-01 05:15", "11-01 06:15", "11-02 06:15"]);
        // Lord Howe 2026, half an hour: 5 April 02:00 +11 -> 01:30 +10:30 at 15:00Z on the 4th; 4 October 02:00 +10:30 ->
        // 02:30 +11 at 15:30Z on the 3rd.
        let spring = ("2026-10-02T00:00:00Z", "2026-10-04T23:00:00Z");
        let autumn = ("2026-04-03T00:00:00Z", "2026-04-05T23:00:00Z");
        let howe = |text, rules, span, expect: &[&str]| check(text, "Australia/Lord_Howe", rules, span, expect);
        howe("15 2 * * *", (G::Auto, O::Auto), spring, &["10-02 15:45", "10-03 15:30", "10-04 15:15"]);
        howe("15 2 * * *", (G::Skip, O::Auto), spring, &["10-02 15:45", "10-04 15:15"]);
        howe("45 1 * * *", (G::Auto, O::Auto), autumn, &["04-03 14:45", "04-04 14:45", "04-05 15:15"]);
        howe("45 1 * * *", (G::Auto, O::Second), autumn, &["04-03 14:45", "04-04 15:15", "04-05 15:15"]);
        howe("45 1 * * *", (G::Auto, O::Both), autumn, &["04-03 14:45", "04-04 14:45", "04-04 15:15", "04-05 15:15"]);
    }

    /// What fires in every hour goes on by elapsed time, whatever the clocks on the wall do.
    #[test]
    fn schedules_of_every_hour_keep_their_pace() {
        for (zone, from, to) in [
            ("Europe/Berlin", "2026-03-28T22:00:00Z", "2026-03-29T04:00:00Z"),
            ("Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25T04:00:00Z"),
            ("America/New_York", "2026-03-08T04:00:00Z", "2026-03-08T10:00:00Z"),
            ("America/New_York", "2026-11-01T03:00:00Z", "2026-11-01T09:00:00Z"),
            ("Australia/Lord_Howe", "2026-04-04T12:00:00Z", "2026-04-04T18:00:00Z"),
            ("Australia/Lord_Howe", "2026-10-03T12:00:00Z", "2026-10-03T18:00:00Z"),
        ] {
            let schedule = schedule("*/10 * * * *", zone, Gap::Auto, Overlap::Auto);
            let at = |text: &str| Timestamp::parse(text).unwrap();
            let fires = schedule.between(at(from), at(to));
            assert_eq!(fires.len(), 36, "{zone} {from}");
            assert!(fires.windows(2).all(|pair| pair[1].since(pair[0]).as_secs() == 600), "{zone} {from}: {fires:?}");
        }
    }

    #[test]
    fn several_fires_in_a_gap_become_one() {
        let rules = (Gap::Next, Overlap::First);
        let span = ("2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z");
        check(
            "*/10 2,3 * * *",
            "Europe/Berlin",
            rules,
            span,
            &["03-29 01:00", "03-29 01:10", "03-29 01:20", "03-29 01:30"],
        );
    }

    #[test]
    fn the_latest_fires_are_found_without_walking_a_year() {
        let schedule = schedule("* * * * * *", "UTC", Gap::Auto, Overlap::Auto);
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let (fires, more) = schedule.latest(at("2025-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"), 100);
        assert_eq!((fires.len(), more), (100, true));
        assert_eq!(fires.last().unwrap().to_string(), "2026-01-01T00:00:00.000Z");
        let (fires, more) = schedule.latest(at("2025-01-01T00:00:00Z"), at("2025-01-01T00:00:07Z"), 100);
        assert_eq!((fires.len(), more), (7, false));
    }

    #[test]
    fn expressions_are_checked() {
        for good in ["* * * * *", "*/5 * * * *", "0 0 9 * * MON-FRI", "@daily", "0 12 L * *"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "* * * *", "61 * * * *", "0 0 30 2 *", "soon", "* * * * * * *"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

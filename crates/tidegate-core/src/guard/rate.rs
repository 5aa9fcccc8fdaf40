//! Bounds how many calls to a target start in any stretch of time.
//!
//! A window of past starts instead of a token bucket: whoever states a quota as "50 per second" counts what arrives in
//! a second, and a bucket that holds 50 lets up to 100 through there. It also keeps its state when the rate changes.

use std::{collections::VecDeque, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::config::RateText;

/// So many calls per so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Most calls.
    pub count: u32,
    /// In any stretch of this length.
    pub per: Duration,
}

/// The part of a rate that one of several nodes may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Its place among them, from 0.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self { index: 0, of: 1 };
}

impl Rate {
    /// Returns what one of several nodes may use, so that all of them together stay within the rate. When there are more
    /// nodes than calls, each may call once in a longer time: within the rate over time, and up to one each at once.
    pub fn part(self, share: Share) -> Self {
        let of = u32::try_from(share.of).unwrap_or(u32::MAX).max(1);
        if self.count < of {
            return Self { count: 1, per: self.per.saturating_mul(of) / self.count.max(1) };
        }
        let more = u32::from(share.index < (self.count % of) as usize);
        Self { count: self.count / of + more, per: self.per }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RateText { count: self.count, per: self.per }.fmt(f)
    }
}

/// Starts that are remembered at most; above it the window is cut into shorter ones, which keeps the promise exactly.
const STARTS_MAX: u32 = 1024;

/// Starts of calls, past and booked, in the time of the guard's stopwatch.
#[derive(Debug)]
pub(super) struct RateWindow {
    limit: Option<Rate>,
    starts: VecDeque<Duration>,
    /// Nothing starts before.
    held_until: Duration,
}

impl RateWindow {
    pub(super) fn new(limit: Option<Rate>) -> Self {
        Self { limit: limit.map(shorten), starts: VecDeque::new(), held_until: Duration::ZERO }
    }

    /// Changes the rate; what started before still counts.
    pub(super) fn set(&mut self, limit: Option<Rate>) {
        self.limit = limit.map(shorten);
        if limit.is_none() {
            self.starts.clear();
        }
    }

    /// Lets nothing start before a time, while there is a limit.
    pub(super) fn hold(&mut self, until: Duration) {
        self.held_until = until;
    }

    /// Returns how long a call that comes now has to wait.
    pub(super) fn wait(&mut self, now: Duration) -> Duration {
        let Some(limit) = self.limit else { return Duration::ZERO };
        let count = limit.count as usize;
        // Starts that no window of this length can see any more are forgotten.
        while self.starts.front().is_some_and(|start| *start + limit.per <= now) && self.starts.len() > count {
            self.starts.pop_front();
        }
        let blocking = self.starts.len().checked_sub(count).and_then(|index| self.starts.get(index));
        let free_at = blocking.map_or(Duration::ZERO, |start| *start + limit.per);
        free_at.max(self.held_until).saturating_sub(now)
    }

    /// Books the next start and returns it, or the wait when it is longer than `wait_max`.
    pub(super) fn book(&mut self, now: Duration, wait_max: Duration) -> Result<Duration, Duration> {
        let wait = self.wait(now);
        if wait > wait_max {
            return Err(wait);
        }
        let start = now + wait;
        if self.limit.is_some() {
            self.starts.push_back(start);
        }
        Ok(start)
    }

    /// Gives a booked start back: the call did not happen.
    pub(super) fn give_back(&mut self, start: Duration) {
        if let Some(index) = self.starts.iter().rposition(|booked| *booked == start) {
            self.starts.remove(index);
        }
    }
}

/// Cuts a window into equal shorter ones: 5000 per second is kept by 1000 per 200 ms.
fn shorten(rate: Rate) -> Rate {
    let count = rate.count.max(1);
    let parts = count.div_ceil(STARTS_MAX);
    // Rounding the count down keeps the sum under the limit.
    Rate { count: count / parts, per: rate.per / parts }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(3600);

    fn per_second(count: u32) -> Option<Rate> {
        Some(Rate { count, per: Duration::from_secs(1) })
    }

    /// Calls that come every `every` start so that no window of a second holds more than the limit.
    #[test]
    fn no_window_holds_more_than_the_limit() {
        for (count, every, calls) in [(20, MS, 200), (1, 7 * MS, 20), (5000, MS / 100, 11_000)] {
            let mut window = RateWindow::new(per_second(count));
            let starts: Vec<_> =
                (0..calls).map(|n| window.book(every * n, LONG).expect("the wait is allowed")).collect();
            for (index, start) in starts.iter().enumerate() {
                let inside =
                    starts[index..].iter().take_while(|other| **other < *start + Duration::from_secs(1)).count();
                assert!(inside <= count as usize, "{inside} starts in a second, {count} allowed");
            }
            assert!(window.starts.len() <= calls as usize);
        }
    }

    #[test]
    fn the_call_after_the_last_free_one_waits_for_the_rest_of_the_window() {
        let mut window = RateWindow::new(per_second(20));
        for n in 0..20 {
            assert_eq!(window.book(n * MS, LONG), Ok(n * MS));
        }
        assert_eq!(window.book(500 * MS, LONG), Ok(1000 * MS));
    }

    #[test]
    fn a_wait_that_is_too_long_books_nothing_and_a_booking_can_be_given_back() {
        let mut window = RateWindow::new(per_second(1));
        assert_eq!(window.book(Duration::ZERO, MS), Ok(Duration::ZERO));
        assert_eq!(window.book(Duration::ZERO, MS), Err(1000 * MS));
        let start = window.book(Duration::ZERO, LONG).expect("the wait is allowed");
        window.give_back(start);
        assert_eq!(window.book(Duration::ZERO, LONG), Ok(start));
    }

    #[test]
    fn parts_are_never_more_than_the_whole() {
        let part = |count, index, of| Rate { count, per: 1000 * MS }.part(Share { index, of });
        for (count, of) in [(20, 1), (20, 2), (20, 3), (7, 4), (3, 3), (1, 2), (2, 5)] {
            let parts: Vec<Rate> = (0..of).map(|index| part(count, index, of)).collect();
            let per_second: f64 = parts.iter().map(|part| f64::from(part.count) / part.per.as_secs_f64()).sum();
            assert!(per_second <= f64::from(count) * 1.000_001, "{parts:?}");
            assert!(per_second > f64::from(count) * 0.99, "nothing is left: {parts:?}");
            // When one more comes, nobody's part grows before the others have heard of it, wherever the new one stands.
            for (index, before) in parts.iter().enumerate() {
                for place in [index, index + 1] {
                    let after = part(count, place, of + 1);
                    assert!(after.count <= before.count && after.per >= before.per, "{before:?}, then {after:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_held_starts_later_and_within_the_rate() {
        let mut window = RateWindow::new(per_second(2));
        window.hold(500 * MS);
        let starts = [0, 1, 2].map(|n| window.book(n * MS, LONG).expect("the wait is allowed"));
        assert_eq!(starts, [500 * MS, 500 * MS, 1500 * MS]);
    }

    #[test]
    fn a_raised_rate_keeps_what_started_before() {
        let mut window = RateWindow::new(per_second(5));
        for _ in 0..5 {
            assert_eq!(window.wait(Duration::ZERO), Duration::ZERO);
            window.book(Duration::ZERO, MS).expect("the wait is allowed");
        }
        window.set(per_second(6));
        assert_eq!(window.book(Duration::ZERO, MS), Ok(Duration::ZERO));
        assert_eq!(window.book(Duration::ZERO, MS), Err(1000 * MS));
        window.set(None);
        assert_eq!(window.book(Duration::ZERO, MS), Ok(Duration::ZERO));
    }
}

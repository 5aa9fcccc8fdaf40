//! Time: the only door to the clock. Tests put a simulated one in it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// An instant: milliseconds since 1970-01-01T00:00:00Z. Shown as RFC 3339 in UTC.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The start of 1970; stands for "always due".
    pub const ZERO: Self = Self(0);

    /// Makes an instant from milliseconds since 1970.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Returns milliseconds since 1970.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Returns the time since `earlier`, or zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }

    /// Returns the instant `after` later, capped at the end of time.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(after.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Returns the instant `before` earlier.
    #[must_use]
    pub fn minus(self, before: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(before.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Reads RFC 3339 with any offset.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        text.parse::<jiff::Timestamp>()
            .map(|at| Self(at.as_millisecond()))
            .map_err(|_| Fault::invalid(format!("{text:?} is not an RFC 3339 instant such as 2026-01-31T08:00:00Z")))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The clock that everything reads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// The machine's clock.
    Real,
    /// Follows tokio's clock, so that a paused runtime gives virtual time.
    Tokio { base: Timestamp, start: tokio::time::Instant },
    /// Stands still until it is moved by hand.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's clock.
    pub fn real() -> Self {
        Self(Kind::Real)
    }

    /// A clock that follows tokio's, starting at `base`: virtual in a runtime with paused time.
    pub fn following_tokio(base: Timestamp) -> Self {
        Self(Kind::Tokio { base, start: tokio::time::Instant::now() })
    }

    /// A clock that stands still until [`Clock::advance`] moves it.
    pub fn manual(base: Timestamp) -> Self {
        Self(Kind::Manual(Arc::new(AtomicI64::new(base.0))))
    }

    /// Moves a manual clock; other clocks do not listen.
    pub fn advance(&self, by: Duration) {
        if let Kind::Manual(at) = &self.0 {
            at.fetch_add(i64::try_from(by.as_millis()).unwrap_or(0), Ordering::SeqCst);
        }
    }

    /// Returns the time of day.
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::Real => Timestamp(
                std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            ),
            Kind::Tokio { base, start } => base.plus(start.elapsed()),
            Kind::Manual(at) => Timestamp(at.load(Ordering::SeqCst)),
        }
    }

    /// Starts measuring how long something takes.
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    pub fn stopwatch(&self) -> Stopwatch {
        Stopwatch(match &self.0 {
            Kind::Real => Started::Monotonic(std::time::Instant::now()),
            Kind::Tokio { .. } => Started::Tokio(tokio::time::Instant::now()),
            Kind::Manual(_) => Started::Manual(self.clone(), self.now()),
        })
    }

    /// Waits for `time`. On a manual clock, waits in tokio's time.
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    pub async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Waits until `at`; returns at once when it has passed.
    pub async fn sleep_until(&self, at: Timestamp) {
        self.sleep(at.since(self.now())).await;
    }
}

/// A running measurement of time.
#[derive(Debug, Clone)]
pub struct Stopwatch(Started);

#[derive(Debug, Clone)]
enum Started {
    Monotonic(std::time::Instant),
    Tokio(tokio::time::Instant),
    Manual(Clock, Timestamp),
}

impl Stopwatch {
    /// Returns the time since the start.
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            Started::Monotonic(at) => at.elapsed(),
            Started::Tokio(at) => at.elapsed(),
            Started::Manual(clock, at) => clock.now().since(*at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_read_and_show_rfc_3339() {
        let at = Timestamp::parse("2026-01-31T09:00:00.250+01:00").unwrap();
        assert_eq!(at.to_string(), "2026-01-31T08:00:00.250Z");
        assert_eq!(Timestamp::parse(&at.to_string()).unwrap(), at);
        assert!(Timestamp::parse("yesterday").is_err());
    }

    #[test]
    fn arithmetic_never_wraps() {
        assert_eq!(Timestamp::from_millis(5).since(Timestamp::from_millis(9)), Duration::ZERO);
        assert_eq!(Timestamp::from_millis(i64::MAX).plus(Duration::from_secs(1)).as_millis(), i64::MAX);
    }

    #[test]
    fn manual_clock_moves_by_hand() {
        let clock = Clock::manual(Timestamp::from_millis(1000));
        let watch = clock.stopwatch();
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.now().as_millis(), 3000);
        assert_eq!(watch.elapsed(), Duration::from_secs(2));
    }
}

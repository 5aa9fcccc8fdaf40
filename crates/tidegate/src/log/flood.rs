//! Holds back lines that come too often, and says afterwards how many.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use tidegate_core::clock::{Clock, Timestamp};

/// What happens to a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admit {
    /// It is written.
    Line,
    /// It is written, after a word on how many were not.
    LineAfter(u64),
    /// It is counted and not written.
    Hold,
}

/// Counts lines by name in stretches of time.
#[derive(Debug)]
pub(super) struct Flood {
    clock: Clock,
    lines_max: u32,
    stretch: Duration,
    names: Mutex<HashMap<&'static str, Stretch>>,
}

#[derive(Debug)]
struct Stretch {
    since: Timestamp,
    lines: u32,
    held: u64,
}

impl Flood {
    pub(super) fn new(clock: Clock, lines_max: u32, stretch: Duration) -> Self {
        Self { clock, lines_max, stretch, names: Mutex::default() }
    }

    /// Decides about one line.
    pub(super) fn admit(&self, name: &'static str) -> Admit {
        let now = self.clock.now();
        let mut names = self.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let stretch = names.entry(name).or_insert(Stretch { since: now, lines: 0, held: 0 });
        let mut held = 0;
        if now.since(stretch.since) >= self.stretch {
            held = stretch.held;
            *stretch = Stretch { since: now, lines: 0, held: 0 };
        }
        if stretch.lines >= self.lines_max {
            stretch.held += 1;
            return Admit::Hold;
        }
        stretch.lines += 1;
        if held > 0 { Admit::LineAfter(held) } else { Admit::Line }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floods_are_held_back_and_counted() {
        let clock = Clock::manual(Timestamp::ZERO);
        let flood = Flood::new(clock.clone(), 2, Duration::from_secs(1));
        let admit = || flood.admit("a");
        assert_eq!([admit(), admit(), admit(), admit()], [Admit::Line, Admit::Line, Admit::Hold, Admit::Hold]);
        assert_eq!(flood.admit("b"), Admit::Line, "another name has its own count");
        clock.advance(Duration::from_secs(1));
        assert_eq!([admit(), admit(), admit()], [Admit::LineAfter(2), Admit::Line, Admit::Hold]);
    }
}

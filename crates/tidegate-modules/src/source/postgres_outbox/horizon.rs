//! Up to which id the table is complete: no transaction that is still running can add a row below. Pure.
//!
//! Numbers are drawn before they are committed, so a lower number may appear after a higher one. Taking the higher one
//! first would break the order of an aggregate. So rows are taken up to a number that was the newest at some look, once
//! everybody who had written into the table at that look is over. Only writers of this table count: a long transaction
//! elsewhere in the database holds up nothing.

use std::collections::BTreeSet;

/// How the names of prepared transactions begin: they change their name when they are prepared.
const PREPARED: &str = "-1/";

/// Up to which id rows may be taken.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    safe: i64,
    next: Option<Next>,
}

#[derive(Debug)]
struct Next {
    newest: i64,
    /// Those who had written when `newest` was read, and are not over.
    writers: BTreeSet<String>,
}

impl Horizon {
    /// The highest id that may be taken.
    pub(super) fn safe(&self) -> i64 {
        self.safe
    }

    /// How many transactions are waited for.
    pub(super) fn waits_for(&self) -> usize {
        self.next.as_ref().map_or(0, |next| next.writers.len())
    }

    /// Takes note of a look: the newest id, read before the writers were. Returns whether more may be taken.
    pub(super) fn look(&mut self, newest: i64, writers: BTreeSet<String>) -> bool {
        let before = self.safe;
        if let Some(next) = &mut self.next {
            next.writers.retain(|writer| writers.contains(writer));
            next.writers.extend(writers.iter().filter(|writer| writer.starts_with(PREPARED)).cloned());
            if next.writers.is_empty() {
                self.safe = self.safe.max(next.newest);
                self.next = None;
            }
        }
        if writers.is_empty() {
            self.safe = self.safe.max(newest);
            self.next = None;
        } else if self.next.is_none() && newest > self.safe {
            self.next = Some(Next { newest, writers });
        }
        self.safe > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(looks: &[(i64, &str)]) -> Vec<i64> {
        let mut horizon = Horizon::default();
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let safe = |&(newest, writers): &(i64, &str)| {
            horizon.look(newest, names(writers));
            horizon.safe()
        };
        looks.iter().map(safe).collect()
    }

    #[test]
    fn rows_are_taken_when_the_writers_of_their_look_are_over() {
        assert_eq!(check(&[(5, "")]), [5]);
        assert_eq!(check(&[(5, "3/1"), (6, "3/1"), (7, "")]), [0, 0, 7]);
        // Under a load that never ends, each look ends all the same.
        assert_eq!(check(&[(5, "3/1"), (6, "4/1"), (7, "5/1"), (9, "6/1")]), [0, 5, 6, 7]);
        assert_eq!(check(&[(5, "3/1 4/1"), (6, "4/1 5/1"), (8, "5/1"), (8, "")]), [0, 0, 5, 8]);
        // A prepared transaction goes on under another name.
        assert_eq!(check(&[(5, "3/1"), (6, "-1/77"), (6, "-1/77 4/2"), (6, "4/2")]), [0, 0, 0, 5]);
        // Numbers that went down, as after a restore, take nothing back.
        assert_eq!(check(&[(5, ""), (2, "3/1"), (2, "")]), [5, 5, 5]);
    }
}

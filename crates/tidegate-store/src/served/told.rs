//! What a process counts by itself of a store in a server, and what it last heard of that server.

use std::{collections::BTreeMap, time::Duration};

use tidegate_core::{clock::Timestamp, store::StoreStatus};

use super::drain::Drain;

/// What this process counts by itself, and what it last heard of the server.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) status: StoreStatus,
    /// When the server was asked for its settings.
    pub(crate) looked_at: Option<Timestamp>,
    /// That the server lost everything once.
    pub(crate) lost: Option<String>,
    /// Publishes answered as duplicates, by number of the stream.
    pub(crate) duplicates: BTreeMap<u32, u64>,
    /// Leases lost, by number of the group.
    pub(crate) leases_lost: BTreeMap<u32, u64>,
    pub(crate) drain: BTreeMap<u32, Drain>,
    unheard: Vec<Unheard>,
    /// By number of the group: when leases that ran out were last looked for, and when the next of those that there were ends.
    ends: BTreeMap<u32, (Timestamp, Option<Timestamp>)>,
}

/// Time between two looks of a busy group for leases that ran out. Each walks over what was lent and settled lately.
const ENDS_EVERY: Duration = Duration::from_millis(100);

/// A call that may have lent something without our hearing of it.
#[derive(Debug, Clone, Copy)]
struct Unheard {
    group: u32,
    call: u64,
    /// When its leases end.
    ends_at: Timestamp,
}

impl Told {
    /// Notes a call for a group whose answer was lost, and when what it may have lent comes back by itself.
    pub(crate) fn lost_answer(&mut self, group: u32, call: u64, ends_at: Timestamp) {
        self.unheard.push(Unheard { group, call, ends_at });
    }

    /// Returns the calls for a group whose answers were lost: what they lent is given back by the next claim. One may
    /// be carried out later still, so they are remembered until their leases would have ended anyway.
    pub(crate) fn unheard(&mut self, group: u32, now: Timestamp) -> Vec<u64> {
        self.unheard.retain(|one| one.ends_at > now);
        self.unheard.iter().filter(|one| one.group == group).map(|one| one.call).collect()
    }

    /// Tells whether it is time for a group to look for leases that ran out, and notes that it does.
    pub(crate) fn looks_for_ends(&mut self, group: u32, now: Timestamp) -> bool {
        let is_time = self.ends.get(&group).is_none_or(|(last, next)| {
            now < *last || now.since(*last) >= ENDS_EVERY || next.is_some_and(|next| next <= now)
        });
        if is_time {
            self.ends.insert(group, (now, None));
        }
        is_time
    }

    /// Notes when the next lease of a group ends. One that begins later lasts for longer than the time between two looks.
    pub(crate) fn next_end(&mut self, group: u32, next: Option<Timestamp>) {
        if let Some(known) = self.ends.get_mut(&group) {
            known.1 = next;
        }
    }

    /// Lets the next claim of a group look for leases that ran out: one is known to have.
    pub(crate) fn knows_end(&mut self, group: u32) {
        self.ends.remove(&group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_an_answer_is_remembered_until_its_leases_end() {
        let at = Timestamp::from_millis;
        let mut told = Told::default();
        told.lost_answer(1, 7, at(100));
        told.lost_answer(1, 8, at(200));
        told.lost_answer(2, 9, at(200));
        assert_eq!(told.unheard(1, at(0)), [7, 8]);
        assert_eq!(told.unheard(1, at(100)), [8]);
        assert_eq!(told.unheard(2, at(100)), [9]);
        assert!(told.unheard(2, at(200)).is_empty());
    }

    #[test]
    fn a_group_looks_for_ends_now_and_then_and_when_one_is_known() {
        let at = Timestamp::from_millis;
        let mut told = Told::default();
        let mut looks = |group, millis| told.looks_for_ends(group, at(millis));
        assert!(looks(1, 0) && !looks(1, 99) && looks(2, 99) && looks(1, 100) && !looks(1, 150));
        assert!(looks(1, 50), "a clock that was set back");
        told.next_end(1, Some(at(60)));
        assert!(!told.looks_for_ends(1, at(59)) && told.looks_for_ends(1, at(60)));
        told.knows_end(1);
        assert!(told.looks_for_ends(1, at(61)));
    }
}

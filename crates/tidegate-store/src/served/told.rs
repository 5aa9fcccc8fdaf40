//! What a process counts by itself of a store in a server, and what it last heard of that server.

use std::collections::BTreeMap;

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
}

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
}

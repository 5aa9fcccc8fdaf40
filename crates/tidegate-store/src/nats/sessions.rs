//! The nodes that work through the one that leads, and what each of them holds.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tidegate_core::{
    clock::{Clock, Stopwatch, Timestamp},
    delivery::{Delivery, LeaseToken, Settled, Settlement},
    fault::{Fault, Result},
    store::Peer,
};

/// A delivery that a node holds.
#[derive(Debug, Clone)]
struct Held {
    /// The call that lent it.
    call: u64,
    attempt: u32,
    crashes: u32,
    /// Whether its group counts whom a handler may have killed.
    marked: bool,
    ends_at: Timestamp,
}

#[derive(Debug)]
struct Session {
    boot: u64,
    heard: Stopwatch,
    work: Option<String>,
    held: HashMap<LeaseToken, Held>,
}

/// The nodes that are there.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    nodes: BTreeMap<String, Session>,
    /// Processes whose place another one of the same name has taken.
    replaced: Vec<(String, u64)>,
}

/// What becomes of deliveries whose holder is gone.
pub(super) type GivenBack = Vec<Settled>;

impl Sessions {
    /// Hears of a node. Returns what an earlier process of it held; a conflict for one whose place is taken.
    pub(super) fn hear(&mut self, node: &str, boot: u64, now: Timestamp) -> Result<GivenBack> {
        if self.replaced.iter().any(|(name, old)| name == node && *old == boot) {
            return Err(taken(node));
        }
        let heard = Clock::real().stopwatch();
        if let Some(session) = self.nodes.get_mut(node)
            && session.boot == boot
        {
            session.heard = heard;
            return Ok(Vec::new());
        }
        let session = Session { boot, heard, work: None, held: HashMap::new() };
        let before = self.nodes.insert(node.to_owned(), session);
        Ok(before.map_or_else(Vec::new, |before| {
            if self.replaced.len() >= 1000 {
                self.replaced.remove(0);
            }
            self.replaced.push((node.to_owned(), before.boot));
            give_back(before.held, now)
        }))
    }

    /// Notes what a node works on, and returns what all do.
    pub(super) fn meet(&mut self, node: &str, work: String) -> Vec<Peer> {
        if let Some(session) = self.nodes.get_mut(node) {
            session.work = Some(work);
        }
        let said = |(node, session): (&String, &Session)| {
            session.work.as_ref().map(|work| Peer { node: node.clone(), work: work.clone() })
        };
        self.nodes.iter().filter_map(said).collect()
    }

    /// Notes what a call has lent to a node.
    pub(super) fn lent(&mut self, node: &str, call: u64, marked: bool, deliveries: &[Delivery]) {
        let Some(session) = self.nodes.get_mut(node) else { return };
        session.held.extend(deliveries.iter().map(|delivery| {
            let Delivery { attempt, crashes, lease, .. } = delivery;
            (lease.token, Held { call, attempt: *attempt, crashes: *crashes, marked, ends_at: lease.expires_at })
        }));
    }

    /// Notes that leases of a node were extended.
    pub(super) fn extended(&mut self, node: &str, tokens: &[LeaseToken], until: Timestamp) {
        let Some(session) = self.nodes.get_mut(node) else { return };
        for token in tokens {
            if let Some(held) = session.held.get_mut(token) {
                held.ends_at = until;
            }
        }
    }

    /// Forgets deliveries that were settled, by whomever.
    pub(super) fn settled(&mut self, tokens: &[LeaseToken]) {
        for session in self.nodes.values_mut() {
            for token in tokens {
                session.held.remove(token);
            }
        }
    }

    /// Takes back what calls have lent whose answers the node never got: no handler has seen it.
    pub(super) fn unheard(&mut self, node: &str, calls: &[u64]) -> GivenBack {
        let Some(session) = self.nodes.get_mut(node).filter(|_| !calls.is_empty()) else { return Vec::new() };
        let lost: Vec<LeaseToken> =
            session.held.iter().filter(|(_, held)| calls.contains(&held.call)).map(|(token, _)| *token).collect();
        lost.into_iter()
            .map(|token| {
                session.held.remove(&token);
                Settled { token, settlement: Settlement::Release, attempt: None }
            })
            .collect()
    }

    /// Takes a node away that has gone in order.
    pub(super) fn leave(&mut self, node: &str, boot: u64, now: Timestamp) -> GivenBack {
        if self.nodes.get(node).is_none_or(|session| session.boot != boot) {
            return Vec::new();
        }
        self.nodes.remove(node).map_or_else(Vec::new, |session| give_back(session.held, now))
    }

    /// Takes away nodes that were silent for too long; returns their names and what they held.
    pub(super) fn silent(&mut self, takeover: Duration, now: Timestamp) -> (Vec<String>, GivenBack) {
        let gone: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, session)| session.heard.elapsed() >= takeover)
            .map(|(node, _)| node.clone())
            .collect();
        let mut back = Vec::new();
        for node in &gone {
            if let Some(session) = self.nodes.remove(node) {
                back.extend(give_back(session.held, now));
            }
        }
        for session in self.nodes.values_mut() {
            // Its group has taken it back by itself.
            session.held.retain(|_, held| held.ends_at > now);
        }
        (gone, back)
    }

    /// Counts the time in which nobody could be heard for nothing.
    pub(super) fn deaf(&mut self) {
        for session in self.nodes.values_mut() {
            session.heard = Clock::real().stopwatch();
        }
    }
}

/// A conflict for a process whose place another one has taken.
pub(super) fn taken(node: &str) -> Fault {
    Fault::conflict(format!("another process works under the name of this node, {node:?}"))
}

fn give_back(held: HashMap<LeaseToken, Held>, now: Timestamp) -> GivenBack {
    let each = held.into_iter().map(|(token, held)| {
        let settlement = if held.marked {
            Settlement::RetryAt { at: now, attempts: held.attempt, crashes: held.crashes + 1 }
        } else {
            Settlement::Release
        };
        Settled { token, settlement, attempt: None }
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use tidegate_core::{
        delivery::{Lease, Position},
        event::Event,
        fault::FaultKind,
        names::StreamName,
    };

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn lent(low: u64) -> Delivery {
        let token = LeaseToken { owner: 1, group: 2, position: Position::number(low), epoch: low };
        Delivery {
            event: Event::new("1", "/test", "test"),
            stream: StreamName::new("s").unwrap(),
            position: Position::number(low),
            accepted_at: at(0),
            attempt: 2,
            crashes: 1,
            history: Vec::new(),
            lease: Lease { token, expires_at: at(1000) },
        }
    }

    fn places(back: &[Settled]) -> Vec<u64> {
        let mut places: Vec<u64> = back.iter().map(|one| one.token.position.low).collect();
        places.sort_unstable();
        places
    }

    #[test]
    fn a_node_that_comes_again_gives_back_what_it_held_and_the_one_before_may_do_nothing() {
        let mut sessions = Sessions::default();
        assert!(sessions.hear("a", 1, at(0)).unwrap().is_empty());
        sessions.lent("a", 7, true, &[lent(1), lent(2)]);
        sessions.lent("a", 8, false, &[lent(3)]);
        sessions.settled(&[lent(2).lease.token]);
        assert!(sessions.hear("a", 1, at(5)).unwrap().is_empty());
        let back = sessions.hear("a", 2, at(9)).unwrap();
        assert_eq!(places(&back), [1, 3]);
        for one in back {
            match one.token.position.low {
                // Its handler may have killed the process: that is counted.
                1 => assert_eq!(one.settlement, Settlement::RetryAt { at: at(9), attempts: 2, crashes: 2 }),
                _ => assert_eq!(one.settlement, Settlement::Release),
            }
        }
        assert_eq!(sessions.hear("a", 1, at(9)).unwrap_err().kind, FaultKind::Conflict);
    }

    #[test]
    fn what_a_lost_answer_lent_comes_back_without_a_crash() {
        let mut sessions = Sessions::default();
        sessions.hear("a", 1, at(0)).unwrap();
        sessions.lent("a", 7, true, &[lent(1)]);
        sessions.lent("a", 8, true, &[lent(2)]);
        let back = sessions.unheard("a", &[7]);
        assert_eq!((places(&back), &back[0].settlement), (vec![1], &Settlement::Release));
        assert!(sessions.unheard("a", &[7]).is_empty());
        assert_eq!(places(&sessions.leave("a", 1, at(1))), [2]);
        assert!(sessions.leave("a", 1, at(1)).is_empty());
    }

    #[test]
    fn only_the_silent_are_gone_and_what_ran_out_is_forgotten() {
        let mut sessions = Sessions::default();
        sessions.hear("a", 1, at(0)).unwrap();
        sessions.lent("a", 7, false, &[lent(1), lent(2)]);
        sessions.extended("a", &[lent(2).lease.token], at(5000));
        let (gone, back) = sessions.silent(Duration::from_secs(3600), at(2000));
        assert!(gone.is_empty() && back.is_empty());
        let (gone, back) = sessions.silent(Duration::ZERO, at(2000));
        assert_eq!((gone, places(&back)), (vec!["a".to_owned()], vec![2]));
    }
}

//! The verdict must see each kind of fault.

use super::*;

/// An id, its sequence number, and the batches of its effects with their instants.
type Done<'a> = (&'a str, u64, &'a [(usize, u64)]);

fn effects(batches: Vec<Batch>, done: &[Done<'_>]) -> Effects {
    let mut effects = Effects { batches, ..Effects::default() };
    for (id, seq, times) in done {
        let make = |(batch, at): &(usize, u64)| {
            let (key, position) = ("0.7".to_owned(), "1".to_owned());
            Effect { key, seq: *seq, attempt: 1, position, at: *at, batch: *batch }
        };
        effects.count += times.len();
        effects.by_id.insert((*id).to_owned(), times.iter().map(make).collect());
    }
    effects
}

fn batch(log: usize, from: u64, to: u64) -> Batch {
    Batch { log, count: 1, from, to, is_settled: true, lost: 0 }
}

fn records(count: u64) -> Vec<Record> {
    let sent = (0..count).map(|seq| Sent { key: 7, seq, position: "1".to_owned(), acknowledged: true }).collect();
    vec![Record { sent, ..Record::default() }]
}

fn told(dead: &[&str]) -> Told {
    let dead = dead.iter().map(|id| ((*id).to_owned(), String::new())).collect();
    Told { row: Value::Null, balanced: true, dead, kept: 0 }
}

fn wrong(judge: impl FnOnce(&mut Verdict)) -> usize {
    let mut verdict = Verdict::default();
    judge(&mut verdict);
    verdict.wrong.len()
}

#[test]
fn what_is_lost_or_made_up_is_seen() {
    let both = effects(vec![batch(0, 1, 9)], &[("0-0", 0, &[(0, 2)]), ("0-1", 1, &[(0, 3)])]);
    assert_eq!(wrong(|verdict| verdict.done(&records(2), &both, &told(&[]))), 0);
    assert_eq!(wrong(|verdict| verdict.done(&records(3), &both, &told(&[]))), 1, "0-2 is lost");
    assert_eq!(wrong(|verdict| verdict.done(&records(3), &both, &told(&["0-2"]))), 0, "0-2 is dead");
    assert_eq!(wrong(|verdict| verdict.done(&records(1), &both, &told(&[]))), 1, "0-1 is made up");
    let swapped = effects(vec![batch(0, 1, 9)], &[("0-0", 1, &[(0, 2)])]);
    assert_eq!(wrong(|verdict| verdict.done(&records(1), &swapped, &told(&[]))), 1, "0-0 has another seq");
}

#[test]
fn a_duplicate_needs_a_kill_while_it_was_lent() {
    let twice = || effects(vec![batch(0, 10, 20), batch(1, 40, 50)], &[("0-0", 0, &[(0, 15), (1, 45)])]);
    let kill = |victim, at| [Kill { victim, from: at, to: at, sampled: None }];
    let judge = |effects: &Effects, kills: &[Kill]| wrong(|verdict| verdict.repeated(effects, kills));
    assert_eq!(judge(&twice(), &kill(Victim::Node, 18)), 0);
    assert_eq!(judge(&twice(), &kill(Victim::Node, 30)), 2, "nothing was lent at the kill");
    assert_eq!(judge(&twice(), &[]), 2);
    assert_eq!(judge(&twice(), &kill(Victim::Worker(0), 18)), 2, "it had settled");
    let mut killed = twice();
    killed.batches[0].is_settled = false;
    assert_eq!(judge(&killed, &kill(Victim::Worker(0), 18)), 0);
    assert_eq!(judge(&killed, &kill(Victim::Worker(2), 18)), 2, "another worker");
    let mut lost = twice();
    lost.batches[1].lost = 1;
    assert_eq!(judge(&lost, &kill(Victim::Node, 18)), 1, "a lease was lost without a cause");
}

#[test]
fn order_has_gaps_for_the_dead_only() {
    let judge = |done: &[Done<'_>], dead: &[&str]| {
        let effects = effects(vec![batch(0, 1, 9)], done);
        wrong(|verdict| verdict.ordered(&effects, &told(dead).dead, &records(3)))
    };
    assert_eq!(judge(&[("0-0", 0, &[(0, 1)]), ("0-1", 1, &[(0, 2)])], &[]), 0);
    assert_eq!(judge(&[("0-0", 0, &[(0, 2)]), ("0-1", 1, &[(0, 1)])], &[]), 1);
    assert_eq!(judge(&[("0-0", 0, &[(0, 1)]), ("0-2", 2, &[(0, 2)])], &[]), 1);
    assert_eq!(judge(&[("0-0", 0, &[(0, 1)]), ("0-2", 2, &[(0, 2)])], &["0-1"]), 0);
}

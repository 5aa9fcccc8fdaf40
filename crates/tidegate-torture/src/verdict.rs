//! Compares what was acknowledged with what was done, and says so in a table.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    chaos::{Chaos, Kill, Victim},
    clock,
    effects::{Batch, Effect, Effects},
    http,
    publisher::{Record, Sent},
    ui,
};

/// A lease of the group; a batch that was held as long may have been lent to another worker.
const LEASE: Duration = Duration::from_secs(5);

/// What the node says at the end.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) row: Value,
    pub(crate) balanced: bool,
    pub(crate) dead: HashMap<String, String>,
    pub(crate) kept: u64,
}

/// Returns the row of the audit for the group, and whether all is balanced.
pub(crate) fn audit(address: SocketAddr) -> Result<(Value, bool)> {
    let audit = http::get(address, "/v1/audit/messages")?;
    let rows = audit["rows"].as_array().context("an audit has rows")?;
    let row = rows.iter().find(|row| row["group"] == "workers").context("the audit has no row of the group")?;
    Ok((row.clone(), audit["balanced"] == true))
}

impl Told {
    pub(crate) fn read(address: SocketAddr) -> Result<Self> {
        let (row, balanced) = audit(address)?;
        let (mut dead, mut before) = (HashMap::new(), None::<String>);
        loop {
            let more = before.map(|before| format!("&before={before}")).unwrap_or_default();
            let page = http::get(address, &format!("/v1/dlq/work?limit=100{more}"))?;
            for entry in page["entries"].as_array().context("a page has entries")? {
                let id = entry["event"]["id"].as_str().context("a dead letter has an event")?;
                dead.insert(id.to_owned(), entry["fault"].to_string());
            }
            before =
                page["next"].as_str().map(str::to_owned).or_else(|| page["next"].as_u64().map(|at| at.to_string()));
            if before.is_none() {
                break;
            }
        }
        let kept = http::get(address, "/v1/streams/work")?["count"].as_u64().context("a stream has a count")?;
        Ok(Self { row, balanced, dead, kept })
    }

    pub(crate) fn number(&self, member: &str) -> u64 {
        self.row[member].as_u64().unwrap_or(u64::MAX)
    }
}

/// Lines of the report and what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    rows: Vec<(String, String, &'static str)>,
    wrong: Vec<String>,
}

impl Verdict {
    pub(crate) fn show(&mut self, what: &str, value: impl ToString) {
        self.rows.push((what.to_owned(), value.to_string(), ""));
    }

    /// Adds a line that must hold, with examples of what breaks it.
    pub(crate) fn demand(&mut self, what: &str, value: impl ToString, holds: bool, examples: &[String]) {
        let value = value.to_string();
        if !holds {
            let some: Vec<&str> = examples.iter().take(5).map(String::as_str).collect();
            self.wrong.push(format!("{what}: {value}; {}", some.join("; ")));
        }
        self.rows.push((what.to_owned(), value, if holds { "ok" } else { "WRONG" }));
    }

    /// Adds a line that lists what must not be.
    pub(crate) fn none(&mut self, what: &str, found: &[String]) {
        self.demand(what, found.len(), found.is_empty(), found);
    }

    pub(crate) fn print(&self) -> Result<()> {
        let width = self.rows.iter().map(|row| row.0.chars().count()).max().unwrap_or_default();
        for (what, value, verdict) in &self.rows {
            ui::line(format!("| {what:<width$} | {value:>12} | {verdict:<5} |"));
        }
        for wrong in &self.wrong {
            ui::line(format!("WRONG {wrong}"));
        }
        ensure!(self.wrong.is_empty(), "{} demands are not met", self.wrong.len());
        Ok(())
    }

    pub(crate) fn published(&mut self, records: &[Record]) {
        let sum = |of: fn(&Record) -> u64| records.iter().map(of).sum::<u64>();
        let acknowledged = all(records).filter(|(_, sent)| sent.acknowledged).count();
        self.show("published, acknowledged", acknowledged);
        let doubtful: Vec<String> = all(records).filter(|(_, sent)| !sent.acknowledged).map(|(id, _)| id).collect();
        self.none("published, never answered", &doubtful);
        self.show("publish retries", sum(|record| record.retries));
        self.show("publishes refused with 429 or 503", sum(|record| record.refused));
        self.show("answered as duplicate", sum(|record| record.duplicates));
        let false_ones: Vec<String> = records.iter().flat_map(|record| record.false_duplicates.clone()).collect();
        self.none("sent once, answered as duplicate", &false_ones);
        let mut positions = HashMap::new();
        let twice: Vec<String> = all(records)
            .filter(|(_, sent)| sent.acknowledged)
            .filter_map(|(id, sent)| {
                positions.insert(&sent.position, id.clone()).map(|other| format!("{id} = {other}"))
            })
            .collect();
        self.none("positions given to two events", &twice);
    }

    pub(crate) fn killed(&mut self, chaos: &Chaos<'_>) {
        let nodes = chaos.kills.iter().filter(|kill| kill.victim == Victim::Node).count();
        self.show("kills of the node", nodes);
        self.show("kills of a node that was still starting", chaos.early_kills);
        self.show("slowest start, ms", chaos.slowest_start / 1_000_000);
        if let Some(kills) = chaos.server_kills() {
            self.show("kills of the server", kills);
        }
        let workers = chaos.kills.iter().filter(|kill| matches!(kill.victim, Victim::Worker(_))).count();
        self.show("kills of workers", workers);
        let alarms = chaos.alarms();
        self.show("alarms in the log of the node", alarms.len());
        for alarm in alarms.iter().take(5) {
            ui::step(format!("log: {alarm}"));
        }
    }

    pub(crate) fn done(&mut self, records: &[Record], effects: &Effects, told: &Told) {
        let sent: HashMap<String, &Sent> = all(records).collect();
        self.show("effects", effects.count);
        self.show("events with an effect", effects.by_id.len());
        let attempts = effects.by_id.values().flatten().map(|effect| effect.attempt).max().unwrap_or_default();
        self.show("highest attempt", attempts);
        let is_missing = |id: &String| !effects.by_id.contains_key(id) && !told.dead.contains_key(id);
        let lost: Vec<String> =
            sent.iter().filter(|(id, sent)| sent.acknowledged && is_missing(id)).map(|(id, _)| id.clone()).collect();
        self.none("acknowledged, without effect and not dead", &lost);
        let unknown = effects.by_id.keys().filter(|id| !sent.contains_key(*id));
        self.none("effects of events that were never sent", &unknown.cloned().collect::<Vec<_>>());
        let mut other = Vec::new();
        for (id, list) in &effects.by_id {
            let Some(sent) = sent.get(id) else { continue };
            let key = format!("{}.{}", id.split('-').next().unwrap_or_default(), sent.key);
            let differs = |effect: &&Effect| {
                effect.key != key || effect.seq != sent.seq || (sent.acknowledged && effect.position != sent.position)
            };
            other.extend(list.iter().find(differs).map(|effect| format!("{id}: {effect:?}, sent {sent:?}")));
        }
        self.none("effects with other data or position than sent", &other);
        self.none("keys lent twice in one claim", &effects.crowded);
    }

    pub(crate) fn repeated(&mut self, effects: &Effects, kills: &[Kill]) {
        let bound: u64 = kills.iter().map(|kill| lent(effects, kill)).sum();
        self.show(
            "in flight at kills, sampled from the group",
            kills.iter().filter_map(|kill| kill.sampled).sum::<u64>(),
        );
        self.show("kills so soon that there was no sample", kills.iter().filter(|kill| kill.sampled.is_none()).count());
        self.show("in flight at kills, from the workers' logs", bound);
        let repeats = effects.count - effects.by_id.len();
        self.demand("duplicate effects (at most the line above)", repeats, repeats as u64 <= bound, &[]);
        let excused: Vec<bool> = effects.batches.iter().map(|batch| is_excused(batch, kills)).collect();
        let unexplained: Vec<String> = effects
            .by_id
            .iter()
            .filter(|(_, list)| list.iter().filter(|effect| excused[effect.batch]).count() + 1 < list.len())
            .map(|(id, list)| format!("{id}: {list:?}"))
            .collect();
        self.none("duplicate effects without a kill or an overdue lease", &unexplained);
        let overdue = effects.batches.iter().filter(|batch| is_overdue(batch)).count();
        self.show("batches held longer than their lease", overdue);
        let unfair: Vec<String> = effects
            .batches
            .iter()
            .zip(&excused)
            .filter(|(batch, excused)| batch.lost > 0 && !**excused)
            .map(|(batch, _)| format!("{batch:?}"))
            .collect();
        self.none("batches with leases lost without such a cause", &unfair);
    }

    /// First effects of a key: in the order of time, each `seq` is the one after the last; only dead ones are left out.
    pub(crate) fn ordered(&mut self, effects: &Effects, dead: &HashMap<String, String>, records: &[Record]) {
        let mut keys: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        for list in effects.by_id.values() {
            if let Some(first) = list.first() {
                keys.entry(&first.key).or_default().push((first.at, first.seq));
            }
        }
        let buried: HashSet<(String, u64)> = all(records)
            .filter(|(id, _)| dead.contains_key(id))
            .map(|(id, sent)| (format!("{}.{}", id.split('-').next().unwrap_or_default(), sent.key), sent.seq))
            .collect();
        let mut wrong = Vec::new();
        for (key, firsts) in &mut keys {
            firsts.sort_unstable();
            let mut next = 0;
            for (_, seq) in firsts.iter() {
                while next < *seq && buried.contains(&((*key).to_owned(), next)) {
                    next += 1;
                }
                let is_late = *seq < next && buried.contains(&((*key).to_owned(), *seq));
                if *seq != next && !is_late {
                    wrong.push(format!("key {key}: {seq} where {next} was due"));
                    break;
                }
                next = next.max(seq + 1);
            }
        }
        self.show("keys", keys.len());
        self.none("keys out of order", &wrong);
    }

    pub(crate) fn audited(&mut self, told: &Told, records: &[Record]) {
        let sent = all(records).count() as u64;
        let acknowledged = all(records).filter(|(_, sent)| sent.acknowledged).count() as u64;
        let accepted = told.number("accepted");
        let is_exact = (acknowledged..=sent).contains(&accepted);
        self.demand("accepted in the stream = acknowledged", accepted, is_exact, &[told.row.to_string()]);
        self.demand("kept in the stream = accepted", told.kept, told.kept == accepted, &[]);
        let members = ["waiting", "scheduled", "in_flight", "expired", "dropped", "difference"];
        for member in members {
            let value = told.row[member].to_string();
            self.demand(&format!("audit: {member}"), &value, value == "0", &[]);
        }
        let (done, dead) = (told.number("done"), told.number("dead"));
        self.demand("audit: done", done, done.saturating_add(dead) == accepted, &[told.row.to_string()]);
        let listed: Vec<String> = told.dead.iter().map(|(id, fault)| format!("{id}: {fault}")).collect();
        self.demand("audit: dead = listed dead letters", dead, dead == told.dead.len() as u64, &listed);
        self.demand("audit: balanced", told.balanced, told.balanced, &[told.row.to_string()]);
        for dead in listed.iter().take(5) {
            ui::step(format!("dead letter {dead}"));
        }
    }
}

/// All events that were sent, with their ids.
fn all(records: &[Record]) -> impl Iterator<Item = (String, &Sent)> {
    let of = |(publisher, record)| Record::ids(record, publisher);
    records.iter().enumerate().flat_map(of)
}

/// Counts the deliveries that were lent at a kill to whom it concerns.
fn lent(effects: &Effects, kill: &Kill) -> u64 {
    effects.batches.iter().filter(|batch| batch.was_hit(kill)).map(|batch| batch.count).sum()
}

fn is_overdue(batch: &Batch) -> bool {
    batch.to != u64::MAX && batch.to.saturating_sub(batch.from) >= clock::nanos(LEASE)
}

fn is_excused(batch: &Batch, kills: &[Kill]) -> bool {
    is_overdue(batch) || kills.iter().any(|kill| batch.was_hit(kill))
}

#[cfg(test)]
mod tests;

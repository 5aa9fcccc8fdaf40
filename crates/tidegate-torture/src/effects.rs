//! What the workers' logs say: batches that were lent, and the effects of their deliveries.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context as _, Result};

use crate::chaos::{Kill, Victim, log_path};

/// Deliveries that were lent in one claim.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) log: usize,
    pub(crate) count: u64,
    /// Before this instant it was not lent.
    pub(crate) from: u64,
    /// From this instant on it was settled, or its worker dead.
    pub(crate) to: u64,
    /// Whether the settle was answered.
    pub(crate) is_settled: bool,
    /// Deliveries whose settle was answered with `lease_lost` or `unknown`.
    pub(crate) lost: u64,
}

impl Batch {
    /// Tells whether its deliveries were lent at a kill that takes them back.
    pub(crate) fn was_hit(&self, kill: &Kill) -> bool {
        match kill.victim {
            Victim::Node | Victim::Server => self.from <= kill.to && kill.from <= self.to,
            Victim::Worker(log) => self.log == log && !self.is_settled,
        }
    }
}

/// One effect of an event.
#[derive(Debug, Clone)]
pub(crate) struct Effect {
    pub(crate) key: String,
    pub(crate) seq: u64,
    pub(crate) attempt: u64,
    pub(crate) position: String,
    pub(crate) at: u64,
    pub(crate) batch: usize,
}

/// All logs together.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) batches: Vec<Batch>,
    /// By id of the event, in the order of time.
    pub(crate) by_id: HashMap<String, Vec<Effect>>,
    pub(crate) count: usize,
    /// Batches with two deliveries of one key.
    pub(crate) crowded: Vec<String>,
}

impl Effects {
    pub(crate) fn read(dir: &Path, logs: usize, kills: &[Kill]) -> Result<Self> {
        let mut effects = Self::default();
        for log in 0..logs {
            let killed = kills.iter().find(|kill| kill.victim == Victim::Worker(log)).map(|kill| kill.to);
            let path = log_path(dir, log);
            // A worker that was killed at once has no log.
            let text = if path.exists() || killed.is_none() { fs::read_to_string(&path)? } else { String::new() };
            // What follows the last end of line was torn by a kill: it did not happen.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let end = killed.unwrap_or(u64::MAX);
            for line in whole.lines() {
                effects.take(log, end, line).with_context(|| format!("odd line in {}: {line}", path.display()))?;
            }
        }
        for list in effects.by_id.values_mut() {
            list.sort_by_key(|effect| effect.at);
        }
        Ok(effects)
    }

    fn take(&mut self, log: usize, end: u64, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().ok();
        match words.as_slice() {
            ["B", count, from, _lent_at] => {
                let (count, from) = (number(count)?, number(from)?);
                self.batches.push(Batch { log, count, from, to: end, is_settled: false, lost: 0 });
            }
            ["E", id, key, seq, attempt, position, at] => {
                let batch = self.batches.len().checked_sub(1)?;
                let (seq, attempt, at) = (number(seq)?, number(attempt)?, number(at)?);
                let (key, position) = ((*key).to_owned(), (*position).to_owned());
                let list = self.by_id.entry((*id).to_owned()).or_default();
                list.push(Effect { key, seq, attempt, position, at, batch });
                self.count += 1;
            }
            ["S", _settled, lost, unknown, at] => {
                let batch = self.batches.last_mut()?;
                (batch.to, batch.is_settled, batch.lost) = (number(at)?, true, number(lost)? + number(unknown)?);
            }
            _ => return None,
        }
        Some(())
    }

    /// Finds batches in which a key comes twice: at most one delivery of a key may be lent at a time.
    pub(crate) fn find_crowded(&mut self) {
        let mut seen: HashMap<(usize, &str), &str> = HashMap::new();
        for (id, list) in &self.by_id {
            for effect in list {
                if let Some(other) = seen.insert((effect.batch, &effect.key), id) {
                    self.crowded.push(format!("{id} and {other} of key {}", effect.key));
                }
            }
        }
    }
}

//! A pull worker in a process of its own: claims, writes the effect of each delivery to its log, settles.
//!
//! Lines of the log, all with nanoseconds of the monotonic clock: `B count asked-at lent-at`, then for each delivery
//! `E id key seq attempt position at`, then `S settled lost unknown at` when the settle is answered.

use std::{
    fs::{self, File},
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};

use crate::{
    clock,
    http::{Answer, Connection},
};

/// Wait after a connection that was refused or lost.
pub(crate) const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// File with the addresses of the nodes that run, a line for each.
pub(crate) const ADDRESS: &str = "address";

/// File whose presence sends the workers home.
pub(crate) const HOME: &str = "home";

/// Longest time that an effect takes now and then.
const DWELL_MICROS_MAX: u64 = 50_000;

/// Most deliveries of a claim.
const BATCH: usize = 50;

/// What a worker is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Worker {
    /// Directory of the run.
    #[arg(long)]
    dir: PathBuf,
    /// Its log.
    #[arg(long)]
    log: PathBuf,
    /// Instant at which it ends in any case.
    #[arg(long)]
    end: u64,
}

impl Worker {
    pub(crate) fn run(&self) -> Result<()> {
        // It ends with the program that started it, whatever happens to that one.
        set_parent_process_death_signal(Some(Signal::KILL)).context("ask to end with the parent")?;
        let mut log = File::create(&self.log).with_context(|| format!("make {}", self.log.display()))?;
        let mut connection = None;
        while !self.dir.join(HOME).exists() && clock::now() < self.end {
            let asked_at = clock::now();
            let claim = json!({"max": BATCH, "wait": "1s"});
            let Some(answer) = ask(&self.dir, &mut connection, "/v1/groups/workers/claim", &claim) else { continue };
            let answer = answer.json()?;
            let deliveries = answer["deliveries"].as_array().context("a claim has deliveries")?;
            if !deliveries.is_empty() {
                writeln!(log, "B {} {asked_at} {}", deliveries.len(), clock::now())?;
                for delivery in deliveries {
                    effect(&mut log, delivery)?;
                    // Some work takes time, so that kills meet batches that are half done.
                    if fastrand::u8(..) < 4 {
                        clock::pause(Duration::from_micros(fastrand::u64(..DWELL_MICROS_MAX)));
                    }
                }
                self.settle(&mut log, &mut connection, deliveries)?;
            }
        }
        Ok(())
    }

    /// Settles until it is answered.
    fn settle(&self, log: &mut File, connection: &mut Option<Connection>, deliveries: &[Value]) -> Result<()> {
        let settlements: Vec<Value> =
            deliveries.iter().map(|delivery| json!({"token": delivery["token"], "outcome": "done"})).collect();
        let body = json!({ "settlements": settlements });
        while clock::now() < self.end {
            let Some(answer) = ask(&self.dir, connection, "/v1/groups/workers/settle", &body) else { continue };
            let answer = answer.json()?;
            let results = answer["results"].as_array().context("a settle has results")?;
            ensure!(results.len() == deliveries.len(), "a settle has {} results", results.len());
            let count = |status: &str| results.iter().filter(|result| result["status"] == status).count();
            let counts = ["settled", "lease_lost", "unknown"].map(count);
            writeln!(log, "S {} {} {} {}", counts[0], counts[1], counts[2], clock::now())?;
            return Ok(());
        }
        Ok(())
    }
}

/// Writes the effect of a delivery, in one piece.
fn effect(log: &mut File, delivery: &Value) -> Result<()> {
    let event = &delivery["event"];
    let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("no text in {delivery}"));
    let (id, position) = (text(&event["id"])?, text(&delivery["position"])?);
    let (key, seq, attempt) = (text(&event["data"]["key"])?, &event["data"]["seq"], &delivery["attempt"]);
    let line = format!("E {id} {key} {seq} {attempt} {position} {}\n", clock::now());
    log.write_all(line.as_bytes()).context("write an effect")
}

/// Asks once; none when there was no answer, or the node said that it cannot now.
fn ask(dir: &Path, connection: &mut Option<Connection>, path: &str, body: &Value) -> Option<Answer> {
    if connection.is_none() {
        let text = fs::read_to_string(dir.join(ADDRESS)).unwrap_or_default();
        let all: Vec<SocketAddr> = text.lines().filter_map(|line| line.parse().ok()).collect();
        let address = fastrand::choice(all);
        *connection = address.and_then(|address| Connection::open(address).ok());
    }
    let answer = connection.as_mut().and_then(|open| open.post(path, body).ok());
    match answer {
        Some(answer) if answer.status == 200 => Some(answer),
        _ => {
            *connection = None;
            clock::pause(AGAIN_AFTER);
            None
        }
    }
}

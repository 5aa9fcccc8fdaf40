//! What must fit before a node takes work: the store's format, the configuration's version, the clock, the file system
//! and the number of open files.

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tidegate_core::{
    clock::{Clock, Timestamp},
    limits,
};

use crate::config::{Config, VERSION};

/// Open files that a node needs before any worker: journal, ledgers, log, listeners and some connections.
const FILES_BASE: u64 = 96;
/// Open files that one worker needs: the connection that it makes, and the one that waits to be used again.
const FILES_PER_WORKER: u64 = 2;
/// A clock before this is not set: 2025-01-01.
const CLOCK_MIN: Timestamp = Timestamp::from_millis(1_735_689_600_000);

/// One thing that was looked at.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) name: &'static str,
    pub(crate) found: String,
    pub(crate) required: String,
    pub(crate) ok: bool,
    /// It works, and something about it is better changed.
    pub(crate) warning: Option<String>,
}

impl Checked {
    fn new(name: &'static str, found: impl ToString, required: impl ToString, ok: bool) -> Self {
        Self { name, found: found.to_string(), required: required.to_string(), ok, warning: None }
    }

    fn warn(self, warning: Option<String>) -> Self {
        Self { warning, ..self }
    }

    /// Says in words what does not fit.
    pub(crate) fn mismatch(&self) -> String {
        format!("{}: found {}, required {}", self.name, self.found, self.required)
    }
}

/// Returns the answer for programs; with `strict`, warnings are mismatches too.
pub(crate) fn document(checks: &[Checked], strict: bool) -> Value {
    let rows: Vec<Value> = checks
        .iter()
        .map(|one| {
            json!({
                "name": one.name, "found": one.found, "required": one.required, "ok": is_ok(one, strict),
                "warning": one.warning,
            })
        })
        .collect();
    json!({ "ok": checks.iter().all(|one| is_ok(one, strict)), "checks": rows })
}

pub(crate) fn is_ok(checked: &Checked, strict: bool) -> bool {
    checked.ok && !(strict && checked.warning.is_some())
}

/// Looks at everything.
pub(crate) fn check(config: &Config) -> Vec<Checked> {
    let data = &config.node.data;
    // What an engine outside keeps needs no space here.
    let reserve = if config.engine.is_outside() { 0 } else { config.node.disk_reserve.get() };
    vec![
        store_format(data).warn(left_behind(config, tidegate_store::formats(data).0.is_some())),
        config_version(config.version),
        clock(Clock::real().now()),
        file_system(data, reserve),
        open_files(config),
    ]
}

fn store_format(data: &Path) -> Checked {
    let (found, known) = tidegate_store::formats(data);
    let found_text = found.map_or_else(|| "no store yet".to_owned(), |format| format!("format {format}"));
    Checked::new("store_format", found_text, format!("format {known}"), found.is_none_or(|found| found == known))
}

/// Whoever changes the engine is told that what the embedded one keeps stays where it is.
fn left_behind(config: &Config, has_store: bool) -> Option<String> {
    let data = config.node.data.display();
    (has_store && config.engine.is_outside())
        .then(|| format!("{data} holds a store of the embedded engine: what is in it stays there and is not worked on"))
}

fn config_version(found: u32) -> Checked {
    Checked::new("config_version", found, VERSION, found == VERSION)
}

fn clock(now: Timestamp) -> Checked {
    Checked::new("clock", now, format!("after {CLOCK_MIN}"), now >= CLOCK_MIN)
}

/// File systems that do not keep what was synced, or do not lock, as a store needs it.
const REMOTE: [(u64, &str); 5] =
    [(0x6969, "nfs"), (0xff53_4d42, "cifs"), (0xfe53_4d42, "smb"), (0x0102_1997, "9p"), (0x0085_8458, "ramfs")];

fn file_system(data: &Path, reserve: u64) -> Checked {
    const NAME: &str = "file_system";
    let required = format!("a directory that can be written, with more than {reserve} bytes free");
    let probe = data.join(".tidegate-probe");
    let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let tried = std::fs::create_dir_all(data)
        .and_then(|()| std::fs::write(&probe, b"x"))
        // Another check may have taken it away: they share the name, so that one that is killed leaves one file at most.
        .and_then(|()| std::fs::remove_file(&probe).or_else(|error| gone(&error).then_some(()).ok_or(error)));
    if let Err(error) = tried {
        return Checked::new(NAME, format!("{}: {error}", data.display()), required, false);
    }
    let free = rustix::fs::statvfs(data).map_or(u64::MAX, |stat| stat.f_bavail * stat.f_frsize);
    let kind = rustix::fs::statfs(data).map_or(0, |stat| stat.f_type as u64 & 0xffff_ffff);
    let remote = REMOTE.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name);
    let found = format!("{}: {}, {free} bytes free", data.display(), remote.unwrap_or("local"));
    let full = free <= reserve;
    // What is in a store is finished on a full disk too, and that is how there comes to be space again.
    let has_store = tidegate_store::formats(data).0.is_some();
    let warning = match remote {
        _ if full => Some(format!("{found}: publishes are refused until more than {reserve} bytes are free")),
        Some(name) => Some(format!("{name} may lose what was synced; a local file system is better")),
        None => None,
    };
    Checked::new(NAME, found, required, !full || has_store).warn(warning)
}

/// Returns the most open files that the process may be given.
fn files_max() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Looks at the limit of open files against what the workers need.
pub(crate) fn open_files(config: &Config) -> Checked {
    let workers: u64 = config.groups.values().map(|group| group.workers as u64).sum();
    let needed = FILES_BASE + FILES_PER_WORKER * workers;
    let found = files_max();
    let most = needed + limits::CONNECTIONS_MAX as u64;
    let warning = (found < most).then(|| {
        format!("with all {} connections that a listener holds, {most} would be needed", limits::CONNECTIONS_MAX)
    });
    Checked::new("open_files", found, format!("{needed} for {workers} workers"), found >= needed).warn(warning)
}

/// Lets the process have as many open files as it may.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // What is not granted is not needed yet; the check says what is.
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
            tracing::debug!("raise the limit of open files: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named() {
        assert!(config_version(VERSION).ok && !config_version(VERSION + 1).ok);
        assert!(!clock(Timestamp::from_millis(0)).ok);
        let mismatch = config_version(9).mismatch();
        assert_eq!(mismatch, format!("config_version: found 9, required {VERSION}"));
        let bad = file_system(Path::new("/proc/no such place"), 1);
        assert!(!bad.ok && bad.found.contains("/proc"), "{bad:?}");
    }

    #[test]
    fn a_check_beside_others_finds_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let look = || (0..500).map(|_| file_system(dir.path(), 0)).find(|checked| !checked.ok);
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(look)).collect();
            for one in all {
                assert!(one.join().unwrap().is_none());
            }
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_warning_counts_when_one_is_strict() {
        let warned = config_version(VERSION).warn(Some("x".to_owned()));
        let ok = |strict| document(std::slice::from_ref(&warned), strict)["ok"].clone();
        assert_eq!((ok(false), ok(true)), (json!(true), json!(false)));
    }
}

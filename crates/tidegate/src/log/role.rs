//! The log of an older system: what it wrote where the node has a notice, in a file of its own, so that searches that
//! operators know by heart go on to find it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::json;
use tidegate_control::Mounted;
use tidegate_core::{
    clock::Clock,
    fault::{Fault, Origin, Result},
    limits,
    notice::{Listener, Notice},
};

use super::{
    LINES_MAX, STRETCH,
    flood::{Admit, Flood},
};

/// Writes the lines of one profile.
#[derive(Debug)]
pub(crate) struct RoleLog {
    mounted: Mounted,
    clock: Clock,
    flood: Flood,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::options().create(true).append(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

impl RoleLog {
    /// Goes on behind the last line of a file; makes it, and the folder that it lies in, when there is none.
    pub(crate) fn open(path: &Path, mounted: Mounted, clock: Clock) -> Result<Arc<Self>> {
        Self::open_with(path, mounted, clock, limits::LOG_FILE_BYTES_MAX as u64).map_err(|error| {
            Fault::unavailable(Origin::Tidegate, format!("open the log {}: {error}", path.display())).because(error)
        })
    }

    fn open_with(path: &Path, mounted: Mounted, clock: Clock, bytes_max: u64) -> io::Result<Arc<Self>> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let (file, bytes) = open(path)?;
        let flood = Flood::new(clock.clone(), LINES_MAX, STRETCH);
        let open = Mutex::new(Open { path: path.to_owned(), file, bytes, bytes_max });
        Ok(Arc::new(Self { mounted, clock, flood, open }))
    }

    /// Tells whether a notice is about another group than the listener.
    fn is_of_another(&self, notice: &Notice) -> bool {
        let Some(group) = &self.mounted.group else { return false };
        let fields = notice.fields();
        fields
            .iter()
            .any(|(name, value)| *name == "group" && value.as_str().is_some_and(|other| other != group.as_str()))
    }

    fn write(&self, notice: &'static str, message: &str) {
        let line = json!({ "timestamp": self.clock.now(), "notice": notice, "message": message }).to_string() + "\n";
        // A full disk must not stop the node; it says the same on standard error.
        drop(self.open.lock().unwrap_or_else(PoisonError::into_inner).put(line.as_bytes()));
    }
}

impl Open {
    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            fs::rename(&self.path, before)?;
            (self.file, self.bytes) = open(&self.path)?;
        }
        self.bytes += line.len() as u64;
        self.file.write_all(line)
    }
}

impl Listener for RoleLog {
    fn notice(&self, notice: &Notice) {
        let Some(words) = (self.mounted.profile.phrase)(notice) else { return };
        if self.is_of_another(notice) {
            return;
        }
        let name = notice.name();
        match self.flood.admit(name) {
            Admit::Line => self.write(name, &words),
            Admit::LineAfter(held) => {
                self.write(name, &format!("held back {held} more lines like this"));
                self.write(name, &words);
            }
            Admit::Hold => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_control::Profile;
    use tidegate_core::{clock::Timestamp, delivery::Position, fault::FaultClass};

    use super::*;

    fn failed(group: &str) -> Notice {
        Notice::AttemptFailed {
            group: group.parse().unwrap(),
            event: "e1".into(),
            position: Position::START,
            attempt: 2,
            took: Duration::ZERO,
            class: FaultClass::Transient,
            message: "no \"luck\"".to_owned(),
            retry_at: None,
        }
    }

    fn mounted(profile: &str, group: Option<&str>) -> Mounted {
        let group = group.map(|group| group.parse().unwrap());
        Mounted { profile: Profile::find(profile).unwrap(), group }
    }

    #[test]
    fn a_role_writes_what_its_operators_search_for() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_millis(0));
        let written = |profile: &str, group: Option<&str>, notices: &[Notice]| {
            let path = dir.path().join("more").join(format!("{profile}.log"));
            let log = RoleLog::open(&path, mounted(profile, group), clock.clone()).unwrap();
            notices.iter().for_each(|notice| log.notice(notice));
            let text = fs::read_to_string(path).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            lines.map(|line| line["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let ill = |to| Notice::HealthChanged { component: "store".into(), from: "healthy", to, cause: "gone".into() };
        let buried = Notice::DeadLettered {
            stream: "identity.user.v1".parse().unwrap(),
            group: "linting_group".parse().unwrap(),
            event: "e1".into(),
            class: FaultClass::Invalid,
            message: "bad".into(),
            attempts: 5,
        };
        let late = Notice::QueueLate {
            group: "linting_group".parse().unwrap(),
            queue: "identity.user.v1".parse().unwrap(),
            latency: Duration::from_secs(61),
            depth: 7,
        };
        let notices = [ill("unhealthy"), failed("linting_group"), failed("spell"), buried, late, ill("healthy")];
        assert_eq!(
            written("markdown-manager-consumer", Some("linting_group"), &notices),
            [
                "store is unhealthy: gone",
                "Failed to process event e1 in linting_group, attempt 2: no \"luck\"",
                "Moved event e1 to DLQ identity.user.v1.dlq after 5 attempts: bad",
                "consumer linting_group lag is 61 s: 7 events of identity.user.v1 wait",
                "store is healthy again",
            ]
        );
        let parked =
            Notice::InputRejected { module: "outbox".parse().unwrap(), place: "row 7".into(), why: "bad".into() };
        assert_eq!(
            written("markdown-manager-relay", None, &[parked, failed("a"), ill("degraded")]),
            ["Moved event row 7 of outbox to DLQ: bad", "store is degraded: gone"]
        );
        assert_eq!(written("signal-client", None, &notices), [] as [&str; 0]);
    }

    #[test]
    fn a_flood_is_held_back_and_the_file_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("consumer.log");
        let clock = Clock::manual(Timestamp::from_millis(0));
        let log = RoleLog::open_with(&path, mounted("markdown-manager-consumer", None), clock.clone(), 1000).unwrap();
        for _ in 0..50 {
            log.notice(&failed("a"));
        }
        clock.advance(STRETCH);
        log.notice(&failed("a"));
        let text = |path: &Path| fs::read_to_string(path).unwrap();
        let before = path.with_extension("log.1");
        let both = text(&before) + &text(&path);
        assert!(both.contains("held back 30 more lines"), "{both}");
        assert!(text(&path).len() <= 1000 && text(&before).len() <= 1000, "{both}");
    }
}

//! What kind of server it is and what its settings promise: looked up, not believed.

use std::time::Duration;

use tidegate_core::{
    clock::Timestamp,
    fault::{Fault, Result},
    store::Promises,
};

use super::{
    PostgresOptions, PostgresStore,
    link::{Lane, Link},
    row::{count, get},
};

/// Oldest server that will do, as it numbers itself.
pub(crate) const OLDEST: i32 = 130_000;

/// Time between two looks at the settings.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Furthest that the clock of a node may be from that of the server: several nodes must agree on when a lease ends, and
/// the shortest lease is one second.
const SKEW_MAX: Duration = Duration::from_millis(500);

/// What is known of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Server {
    /// As people write it.
    version: String,
    number: i32,
    fsync: bool,
    full_page_writes: bool,
    synchronous_commit: String,
    /// Standbys that a commit waits for.
    synchronous_standbys: String,
    /// Standbys that follow it.
    standbys: i64,
    /// Whether it follows another server and takes no writes.
    is_standby: bool,
    is_read_only: bool,
    /// In what letters are stored.
    encoding: String,
    /// Tables of ours that a crash of the server empties.
    unlogged: i64,
    /// Bytes of the schema's database.
    bytes: i64,
    /// How far the clock of this node is from its own.
    skew: Duration,
}

impl Server {
    /// Looks at a server.
    pub(crate) async fn look(link: &Link, options: &PostgresOptions) -> Result<Self> {
        let statement = "SELECT current_setting('server_version') AS version, \
             current_setting('server_version_num')::int AS number, current_setting('fsync') AS fsync, \
             current_setting('full_page_writes') AS full_page_writes, \
             current_setting('synchronous_commit') AS synchronous_commit, \
             current_setting('synchronous_standby_names') AS synchronous_standbys, \
             (SELECT count(*) FROM pg_stat_replication) AS standbys, pg_is_in_recovery() AS is_standby, \
             current_setting('transaction_read_only') AS read_only, current_setting('server_encoding') AS encoding, \
             (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind = 'r' \
             AND relpersistence = 'u') AS unlogged, pg_database_size(current_database()) AS bytes, \
             floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS time";
        let before = options.clock.now();
        let row = link.ask_one(Lane::Look, statement, &[&options.schema]).await;
        let row = row.map_err(|trouble| trouble.fault("connect"))?;
        let after = options.clock.now();
        let theirs = Timestamp::from_millis(get(&row, "time")?);
        let is_on = |name| Ok::<bool, Fault>(get::<&str>(&row, name)? == "on");
        Ok(Self {
            version: get(&row, "version")?,
            number: get(&row, "number")?,
            fsync: is_on("fsync")?,
            full_page_writes: is_on("full_page_writes")?,
            synchronous_commit: get(&row, "synchronous_commit")?,
            synchronous_standbys: get(&row, "synchronous_standbys")?,
            standbys: get(&row, "standbys")?,
            is_standby: get(&row, "is_standby")?,
            is_read_only: is_on("read_only")?,
            encoding: get(&row, "encoding")?,
            unlogged: get(&row, "unlogged")?,
            bytes: get(&row, "bytes")?,
            skew: before.since(theirs).max(theirs.since(after)),
        })
    }

    /// Refuses a server that cannot do the work.
    pub(crate) fn check(&self) -> Result<()> {
        if self.number < OLDEST {
            let note =
                format!("the server is PostgreSQL {}; the engine needs {} or newer", self.version, OLDEST / 10_000);
            return Err(Fault::invalid(note));
        }
        if self.is_standby {
            return Err(Fault::invalid("the server is a standby, which takes no writes: name the one that it follows"));
        }
        if self.encoding != "UTF8" {
            let note = format!("the database stores letters as {}; make one with ENCODING 'UTF8'", self.encoding);
            return Err(Fault::invalid(note));
        }
        if self.is_read_only {
            return Err(Fault::invalid("the database is read only (default_transaction_read_only)"));
        }
        Ok(())
    }

    /// Says what may be lost when the server or its machine dies.
    pub(crate) fn loss_window(&self) -> String {
        if self.unlogged > 0 {
            return format!(
                "everything when the PostgreSQL server crashes: {} of its tables are unlogged",
                self.unlogged
            );
        }
        let kept = if !self.fsync {
            "anything, up to the whole database, when the machine of the PostgreSQL server dies (fsync off)".to_owned()
        } else if self.synchronous_commit == "off" {
            "up to a second when the PostgreSQL server crashes (synchronous_commit off)".to_owned()
        } else if !self.full_page_writes {
            "pages that were half written when the machine of the PostgreSQL server dies (full_page_writes off)"
                .to_owned()
        } else {
            format!("none (PostgreSQL with fsync on, synchronous_commit {})", self.synchronous_commit)
        };
        let waits = !self.synchronous_standbys.is_empty() && !matches!(&*self.synchronous_commit, "off" | "local");
        match self.standbys {
            0 => kept,
            _ if waits => kept,
            many => format!("{kept}; and what was not replicated yet when one of its {many} standbys takes over"),
        }
    }

    /// Says what it is, where, and what may be lost with it.
    pub(crate) fn told(&self, address: &str) -> String {
        format!("PostgreSQL {} at {address}; may be lost: {}", self.version, self.loss_window())
    }

    /// Says what is better changed.
    pub(crate) fn warning(&self) -> Option<String> {
        let window = self.loss_window();
        let weak = (!window.starts_with("none"))
            .then(|| format!("may be lost: {window}; fsync, full_page_writes and synchronous_commit on lose nothing"));
        let all: Vec<String> = weak.into_iter().chain(self.faults_now()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Says what is wrong with its settings, and what it cannot do now.
    pub(crate) fn faults(&self) -> Vec<String> {
        let unsafe_disk = (!self.fsync || !self.full_page_writes)
            .then(|| "a crash of its machine may damage the database: set fsync and full_page_writes on".to_owned());
        let unlogged =
            (self.unlogged > 0).then(|| "a crash of the server empties unlogged tables: SET LOGGED".to_owned());
        unsafe_disk.into_iter().chain(unlogged).chain(self.faults_now()).collect()
    }

    fn faults_now(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.is_standby || self.is_read_only {
            all.push("PostgreSQL takes no writes: it is a standby or read only".to_owned());
        }
        if self.skew > SKEW_MAX {
            all.push(format!(
                "the clock of this node is {:?} off that of the PostgreSQL server; nodes that share groups must agree on \
                 when a lease ends",
                self.skew
            ));
        }
        all
    }
}

impl PostgresStore {
    pub(crate) fn promised(&self) -> Promises {
        Promises {
            ordered_by_key: true,
            atomic_settle: true,
            shared: true,
            wakes: true,
            durable: true,
            dependencies: true,
            priorities: true,
            loss_window: self.server.read().loss_window(),
            duplicate_window:
                "effects of deliveries that were in flight when the process died, lost PostgreSQL, or the \
                               server crashed"
                    .to_owned(),
        }
    }

    /// Keeps for those who ask for the status what the server says, which is asked anew now and then.
    pub(crate) async fn look_at_server(&self) -> Result<()> {
        let streams: u64 = self.stream_statuses().await?.iter().map(|stream| stream.bytes).sum();
        let now = self.options.clock.now();
        let is_due = self.told.lock().looked_at.is_none_or(|at| now.since(at) >= LOOK_EVERY);
        if is_due {
            *self.server.write() = Server::look(&self.link, &self.options).await?;
        }
        let bytes = self.server.read().bytes;
        let mut told = self.told.lock();
        if is_due {
            told.looked_at = Some(now);
        }
        told.status.engine = "postgres";
        told.status.bytes = vec![("streams", streams)];
        told.status.counters = vec![("postgres_database_bytes", count(bytes))];
        told.status.progress_at = Some(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safe() -> Server {
        Server {
            version: "15.4".to_owned(),
            number: 150_004,
            fsync: true,
            full_page_writes: true,
            synchronous_commit: "on".to_owned(),
            encoding: "UTF8".to_owned(),
            ..Server::default()
        }
    }

    #[test]
    fn the_window_follows_the_settings() {
        let check = |server: Server, word: &str| {
            assert!(server.loss_window().contains(word), "{} lacks {word:?}", server.loss_window());
            assert_eq!(server.warning().is_none(), server.loss_window().starts_with("none"), "{:?}", server.warning());
        };
        check(safe(), "none (PostgreSQL with fsync on, synchronous_commit on)");
        check(Server { synchronous_commit: "off".to_owned(), ..safe() }, "up to a second");
        check(Server { fsync: false, ..safe() }, "fsync off");
        check(Server { full_page_writes: false, ..safe() }, "full_page_writes off");
        check(Server { unlogged: 2, ..safe() }, "2 of its tables are unlogged");
        let standbys = Server { standbys: 1, ..safe() };
        assert!(standbys.loss_window().contains("its 1 standbys"), "{}", standbys.loss_window());
        let waits = Server { synchronous_standbys: "*".to_owned(), ..standbys };
        assert!(!waits.loss_window().contains("standbys"), "{}", waits.loss_window());
    }

    #[test]
    fn what_will_not_do_is_refused() {
        let check = |server: Server, word: &str| {
            let note = server.check().unwrap_err().note().to_owned();
            assert!(note.contains(word), "{note} lacks {word:?}");
        };
        assert!(safe().check().is_ok());
        check(
            Server { number: 120_018, version: "12.18".to_owned(), ..safe() },
            "is PostgreSQL 12.18; the engine needs 13",
        );
        check(Server { is_standby: true, ..safe() }, "a standby");
        check(Server { is_read_only: true, ..safe() }, "read only");
        check(Server { encoding: "LATIN1".to_owned(), ..safe() }, "LATIN1");
        assert!(Server { skew: SKEW_MAX * 2, ..safe() }.faults()[0].contains("off that of the PostgreSQL server"));
    }
}

//! What kind of server it is and what its settings promise: looked up, not believed.

use std::time::Duration;

use tidegate_core::{
    clock::{Clock, Timestamp},
    fault::{Fault, Result},
    store::Promises,
};

use super::{RedisStore, link::Link, reply::Reply};

/// Oldest server that will do: exclusive ranges came with 6.2.
pub(crate) const OLDEST: (u32, u32) = (6, 2);

/// Time between two looks at the settings.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Furthest that the clock of a node may be from that of the server: several nodes must agree on when a lease ends, and
/// the shortest lease is one second.
const SKEW_MAX: Duration = Duration::from_millis(500);

/// What is known of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Server {
    name: &'static str,
    version: String,
    /// Bytes of memory in use.
    memory: u64,
    /// Most bytes that it may use; zero for as many as there are.
    memory_max: u64,
    is_cluster: bool,
    /// Whether it follows another server and takes no writes.
    is_replica: bool,
    /// Servers that follow it.
    replicas: u32,
    /// What it says it can no longer write to its disk.
    unwritten: Vec<String>,
    /// How far the clock of this node is from its own.
    skew: Duration,
    /// None when the server does not tell its settings.
    settings: Option<Settings>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Settings {
    appendonly: bool,
    appendfsync: String,
    /// Whether it does not sync while it writes a snapshot or its log anew.
    rests_on_rewrite: bool,
    eviction: String,
    save: String,
}

impl Server {
    /// Looks at a server.
    pub(crate) async fn look(link: &Link, clock: &Clock) -> Result<Self> {
        let answer = link.command(&redis::cmd("INFO")).await.map_err(|trouble| trouble.fault("connect"))?;
        let text = Reply::new(answer).text()?;
        let mut config = redis::cmd("CONFIG");
        config.arg("GET").arg("*");
        // Servers that are rented out often keep their settings to themselves.
        let settings = match link.command(&config).await {
            Ok(answer) => Some(settings(answer)?),
            Err(super::link::Trouble::Told { .. }) => None,
            Err(trouble) => return Err(trouble.fault("ask Redis for its settings")),
        };
        Ok(Self { settings, skew: skew(link, clock).await?, ..Self::of_info(&text) })
    }

    fn of_info(text: &str) -> Self {
        let find = |name: &str| text.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'));
        let number = |name: &str| find(name).and_then(|number| number.parse().ok()).unwrap_or(0);
        let unwritten = ["aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"];
        let unwritten = unwritten.into_iter().filter(|name| find(name).is_some_and(|status| status != "ok"));
        Self {
            version: find("valkey_version").or_else(|| find("redis_version")).unwrap_or_default().to_owned(),
            name: if find("valkey_version").is_some() { "Valkey" } else { "Redis" },
            memory: number("used_memory"),
            memory_max: number("maxmemory"),
            is_cluster: find("cluster_enabled") == Some("1"),
            is_replica: find("role") == Some("slave"),
            replicas: u32::try_from(number("connected_slaves")).unwrap_or(u32::MAX),
            unwritten: unwritten.map(str::to_owned).collect(),
            skew: Duration::ZERO,
            settings: None,
        }
    }

    /// Refuses a server that cannot do the work.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cluster {
            return Err(Fault::invalid("the server is a Redis Cluster, which the engine redis does not support"));
        }
        if self.is_replica {
            return Err(Fault::invalid("the server is a replica, which takes no writes: name the one that it follows"));
        }
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if version < OLDEST {
            let (major, minor) = OLDEST;
            let note =
                format!("the server is {} {}; the engine needs {major}.{minor} or newer", self.name, self.version);
            return Err(Fault::invalid(note));
        }
        Ok(())
    }

    /// Says what may be lost when the server or its machine dies.
    pub(crate) fn loss_window(&self) -> String {
        let Some(settings) = &self.settings else {
            return "unknown: the Redis server does not tell its settings".to_owned();
        };
        let kept = if !settings.appendonly {
            match settings.save.as_str() {
                "" => "everything when the Redis server stops: it keeps nothing on disk (appendonly no)".to_owned(),
                save => format!("everything since the last snapshot of the Redis server (appendonly no, save {save})"),
            }
        } else if settings.appendfsync == "always" && settings.rests_on_rewrite {
            "what is written while the Redis server writes a snapshot or its log anew, if its machine dies then \
             (appendfsync always, but no-appendfsync-on-rewrite yes)"
                .to_owned()
        } else if settings.appendfsync == "always" {
            "none (Redis with appendonly yes, appendfsync always)".to_owned()
        } else if settings.appendfsync == "everysec" {
            "up to two seconds when the machine of the Redis server dies (appendfsync everysec)".to_owned()
        } else {
            "what the system had not written when the machine of the Redis server dies, commonly 30 s \
             (appendfsync no)"
                .to_owned()
        };
        let replicas = match self.replicas {
            0 => String::new(),
            count => format!("; and what was not replicated yet when one of its {count} replicas takes over"),
        };
        match self.evicts() {
            Some(policy) => {
                format!("{kept}{replicas}; and ANY stream at any time when memory is short (maxmemory-policy {policy})")
            }
            None => kept + &replicas,
        }
    }

    /// Returns the policy by which the server may throw away keys of ours.
    fn evicts(&self) -> Option<&str> {
        let policy = self.settings.as_ref()?.eviction.as_str();
        policy.starts_with("allkeys").then_some(policy)
    }

    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    /// Says what it is, where, and what may be lost with it.
    pub(crate) fn told(&self, address: &str) -> String {
        format!("{} {} at {address}; may be lost: {}", self.name, self.version, self.loss_window())
    }

    /// Says what is better changed.
    pub(crate) fn warning(&self) -> Option<String> {
        let window = self.loss_window();
        let is_sure = window.starts_with("none") || window.starts_with("up to two seconds");
        let weak = (!is_sure || self.evicts().is_some()).then(|| {
            format!(
                "may be lost: {window}; appendonly yes, appendfsync always and maxmemory-policy noeviction lose nothing"
            )
        });
        let all: Vec<String> = weak.into_iter().chain(self.faults_now()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Says what is wrong with its settings, and what it cannot do now.
    pub(crate) fn faults(&self) -> Vec<String> {
        let policy = self.evicts().map(|policy| {
            format!("Redis may throw away streams when memory is short: set maxmemory-policy noeviction, not {policy}")
        });
        policy.into_iter().chain(self.faults_now()).collect()
    }

    fn faults_now(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.memory_max > 0 && self.memory >= self.memory_max {
            all.push(format!(
                "Redis has no memory left: it uses {} of {} bytes (maxmemory)",
                self.memory, self.memory_max
            ));
        }
        for name in &self.unwritten {
            all.push(format!("Redis could not write to its disk the last time ({name})"));
        }
        if self.skew > SKEW_MAX {
            all.push(format!(
                "the clock of this node is {:?} off that of the Redis server; nodes that share groups must agree on when a \
                 lease ends",
                self.skew
            ));
        }
        all
    }
}

/// How far the clock of this node is from that of the server, as far as the way there and back tells.
async fn skew(link: &Link, clock: &Clock) -> Result<Duration> {
    let before = clock.now();
    let answer = link.command(&redis::cmd("TIME")).await.map_err(|trouble| trouble.fault("ask Redis for its time"))?;
    let after = clock.now();
    let mut answer = Reply::new(answer);
    let (seconds, micros): (i64, i64) = (answer.number()?, answer.number()?);
    let theirs = Timestamp::from_millis(seconds.saturating_mul(1000).saturating_add(micros / 1000));
    Ok(before.since(theirs).max(theirs.since(after)))
}

fn settings(answer: redis::Value) -> Result<Settings> {
    let mut reply = Reply::new(answer);
    let mut settings = Settings::default();
    while !reply.is_empty() {
        let (name, value) = (reply.text()?, reply.text()?);
        match name.as_str() {
            "appendonly" => settings.appendonly = value == "yes",
            "appendfsync" => settings.appendfsync = value,
            "no-appendfsync-on-rewrite" => settings.rests_on_rewrite = value == "yes",
            "maxmemory-policy" => settings.eviction = value,
            "save" => settings.save = value,
            _ => {}
        }
    }
    Ok(settings)
}

impl RedisStore {
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
            duplicate_window: "effects of deliveries that were in flight when the process died or lost Redis"
                .to_owned(),
        }
    }

    /// Keeps for those who ask for the status what the server says, which is asked anew now and then.
    pub(crate) async fn look_at_server(&self) -> Result<()> {
        let streams: u64 = self.stream_statuses().await?.iter().map(|stream| stream.bytes).sum();
        let now = self.options.clock.now();
        let is_due = self.told.lock().looked_at.is_none_or(|at| now.since(at) >= LOOK_EVERY);
        if is_due {
            *self.server.write() = Server::look(&self.link, &self.options.clock).await?;
        }
        let memory = self.server.read().memory();
        let mut told = self.told.lock();
        if is_due {
            told.looked_at = Some(now);
        }
        told.status.engine = "redis";
        told.status.bytes = vec![("streams", streams)];
        told.status.counters = vec![("redis_memory_bytes", memory)];
        told.status.progress_at = Some(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_the_settings() {
        let check = |appendonly, fsync: &str, eviction: &str, save: &str, word: &str| {
            let settings = Settings {
                appendonly,
                appendfsync: fsync.to_owned(),
                rests_on_rewrite: false,
                eviction: eviction.to_owned(),
                save: save.to_owned(),
            };
            let server = Server { settings: Some(settings), ..Server::default() };
            assert!(server.loss_window().contains(word), "{} lacks {word:?}", server.loss_window());
        };
        check(true, "always", "noeviction", "", "none");
        check(true, "everysec", "noeviction", "", "two seconds");
        check(true, "no", "noeviction", "", "30 s");
        check(false, "always", "noeviction", "", "everything");
        check(false, "always", "noeviction", "3600 1", "snapshot");
        check(true, "always", "allkeys-lru", "", "ANY stream");
        assert!(Server::default().loss_window().contains("unknown"));
    }

    #[test]
    fn what_the_server_says_of_itself_is_told() {
        let check = |info: &str, rests_on_rewrite, word: &str| {
            let settings = Settings {
                appendonly: true,
                appendfsync: "always".to_owned(),
                rests_on_rewrite,
                ..Settings::default()
            };
            let server = Server { settings: Some(settings), ..Server::of_info(info) };
            let told =
                format!("{} {:?} {:?} {:?}", server.told("x"), server.warning(), server.faults(), server.check());
            assert!(told.contains(word), "{told} lacks {word:?}");
        };
        check(
            "redis_version:7.0.15\r\nrole:master\r\n",
            false,
            "Redis 7.0.15 at x; may be lost: none (Redis with appendonly yes, appendfsync always) None [] Ok",
        );
        check("redis_version:7.2.4\r\nvalkey_version:8.1.0\r\n", false, "Valkey 8.1.0");
        check("redis_version:7.0.15\r\n", true, "no-appendfsync-on-rewrite");
        check("redis_version:7.0.15\r\nconnected_slaves:2\r\n", false, "its 2 replicas");
        check("redis_version:7.0.15\r\nrole:slave\r\n", false, "is a replica");
        check("redis_version:7.0.15\r\nused_memory:11\r\nmaxmemory:10\r\n", false, "uses 11 of 10 bytes");
        check("redis_version:7.0.15\r\naof_last_write_status:err\r\n", false, "(aof_last_write_status)");
    }

    #[test]
    fn too_old_a_server_is_refused() {
        let check = |version: &str| Server { version: version.to_owned(), ..Server::default() }.check().is_ok();
        assert!(check("6.2.14") && check("7.0.15") && check("8.1"));
        assert!(!check("6.0.16") && !check("5.0.7") && !check(""));
        assert!(Server { is_cluster: true, version: "7.0.0".to_owned(), ..Server::default() }.check().is_err());
    }
}

//! Source `redis_list`: how many items wait in a list of some other Redis, such as the queue of a job runner, and an event
//! when there are too many for too long. The list itself is left alone.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_core::{
    clock::Timestamp,
    config::{Secret, Spot, Time, Tls},
    event::{Data, Event},
    fault::{Failure, Fault, FaultClass, Origin, Result},
    guard::Guard,
    handler::Probe,
    limits,
    names::{StreamName, TargetName},
    service::Context,
    source::{Feed, Source},
};
use tidegate_tls::Connector;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::registry::{ModuleKind, ModuleSpec, OpenSource, SourceParts, SourceSettings};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "redis_list",
    kind: ModuleKind::Source,
    summary: "watches how long a list of another Redis is",
    schema: || schemars::schema_for!(RedisListConfig),
};

/// Shortest time between two looks.
const EVERY_MIN: Time = Time::from_millis(100);
/// Most bytes of answers in one look.
const ANSWER_BYTES_MAX: u64 = 4096;
/// Where the source remembers what it told last.
const TOLD: &str = "told";

/// Watches how many items wait in a list of another Redis, such as `rq:queue:flow_tasks` of RQ. The number is the metric
/// `tidegate_queue_depth` under the name of the list, and `tidegate stream depth` shows it. An event of type `queue.high`
/// says that there were more than `above` for `lasting`, one of type `queue.low` that this is over; their data are
/// `{"queue", "depth"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisListConfig {
    /// Address of the server: `redis://host:port/db`, with `user:password@` before the host when it asks for that;
    /// `rediss://` for a connection over TLS.
    pub url: Secret,
    /// Whom to trust over TLS, and how the node shows who it is.
    #[serde(default)]
    pub tls: Tls,
    /// Target whose guard stands before the server; its `timeout` bounds every look.
    pub target: TargetName,
    /// Key of the list.
    pub key: String,
    /// Time between two looks.
    #[serde(default = "every")]
    pub every: Time,
    /// More items than this are too many.
    pub above: u64,
    /// How long there must be too many before it is told.
    #[serde(default = "at_once")]
    pub lasting: Time,
    /// Stream into which events go.
    pub to: StreamName,
}

fn every() -> Time {
    Time::from_secs(10)
}

fn at_once() -> Time {
    Time::from_secs(0)
}

/// An address in its parts.
#[derive(Debug, PartialEq)]
struct Address {
    /// Host and port.
    host: String,
    is_safe: bool,
    user: Option<String>,
    password: Option<String>,
    db: u32,
}

impl RedisListConfig {
    /// Reads the address; an error does not repeat it.
    fn address(&self) -> Result<Address, &'static str> {
        const WRONG: &str = "is no address of a Redis server such as redis://user:password@host:6379/0";
        let (scheme, rest) = self.url.expose().split_once("://").ok_or(WRONG)?;
        let is_safe = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return Err(WRONG),
        };
        let (login, rest) = rest.rsplit_once('@').map_or((None, rest), |(login, rest)| (Some(login), rest));
        let (host, db) = rest.split_once('/').unwrap_or((rest, ""));
        let db = if db.is_empty() { 0 } else { db.parse().map_err(|_| WRONG)? };
        let host = if host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) && host.contains(':') {
            host.to_owned()
        } else {
            format!("{host}:6379")
        };
        if host.starts_with(':') {
            return Err("names no host");
        }
        let (user, password) = match login {
            None => (None, None),
            Some(login) => {
                let (user, password) = login.split_once(':').unwrap_or(("", login));
                (Some(user.to_owned()).filter(|user| !user.is_empty()), Some(password.to_owned()))
            }
        };
        Ok(Address { host, is_safe, user, password, db })
    }
}

impl SourceSettings for RedisListConfig {
    fn to(&self) -> &StreamName {
        &self.to
    }

    fn target(&self) -> Option<&TargetName> {
        Some(&self.target)
    }

    fn check(&self, here: &Spot<'_>) {
        let asks = match self.address() {
            Ok(address) => address.is_safe,
            Err(why) => {
                here.at("url").error(why.to_owned());
                true
            }
        };
        tidegate_tls::check(&self.tls, asks, "rediss://host:port", &here.at("tls"));
        let fits = !self.key.is_empty() && self.key.len() <= limits::ATTRIBUTE_BYTES_MAX;
        here.at("key").require(fits, || format!("must be 1 to {} bytes", limits::ATTRIBUTE_BYTES_MAX));
        here.at("every").require(self.every >= EVERY_MIN, || format!("must be at least {EVERY_MIN}"));
    }

    fn open(&self, parts: SourceParts) -> Result<OpenSource> {
        let address = self.address().map_err(|why| Fault::invalid(format!("url {why}")))?;
        let guard = parts.guard.ok_or_else(|| Fault::bug("redis_list was opened without a guard"))?;
        let safe = address.is_safe.then(|| Connector::new(&self.tls)).transpose()?;
        let list = RedisList { config: self.clone(), address, safe, guard, seen: Mutex::default() };
        Ok(OpenSource::Runs(Arc::new(list)))
    }
}

/// A list that is watched.
#[derive(Debug)]
struct RedisList {
    config: RedisListConfig,
    address: Address,
    /// What makes connections safe, when they must be.
    safe: Option<Connector>,
    guard: Arc<Guard>,
    seen: Mutex<Seen>,
}

/// What was seen last.
#[derive(Debug, Default)]
struct Seen {
    depth: Option<u64>,
    counted_at: Option<Timestamp>,
    fault: Option<String>,
}

/// What was told last, and since when the opposite is so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Told {
    is_high: bool,
    since: Option<Timestamp>,
}

impl Told {
    /// Takes in what was seen; returns whether it is to be told.
    fn take(&mut self, is_high: bool, now: Timestamp, lasting: Duration) -> bool {
        if is_high == self.is_high {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        // That it is over is told at once.
        if is_high && now.since(since) < lasting {
            return false;
        }
        *self = Self { is_high, since: None };
        true
    }
}

impl RedisList {
    /// Sends the commands and reads an answer to each; returns that of the last.
    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin, words: &[Vec<&str>]) -> Result<u64, Failure> {
        let host = &self.address.host;
        let down = |what: String| Failure::new(FaultClass::DependencyDown, what);
        let lost = |error: std::io::Error| down(format!("ask {host}: {error}"));
        let mut stream = BufReader::new(stream);
        let command: String = words.iter().map(|words| command(words)).collect();
        stream.get_mut().write_all(command.as_bytes()).await.map_err(lost)?;
        let mut depth = None;
        for _ in words {
            let mut line = String::new();
            (&mut stream).take(ANSWER_BYTES_MAX).read_line(&mut line).await.map_err(lost)?;
            depth = answer(line.trim_end(), &self.config.key)?;
        }
        depth.ok_or_else(|| down(format!("{host} does not speak as Redis")))
    }

    async fn look(&self) -> Result<u64, Failure> {
        let mut words: Vec<Vec<&str>> = Vec::new();
        if let Some(password) = &self.address.password {
            words.push(["AUTH"].into_iter().chain(self.address.user.as_deref()).chain([&**password]).collect());
        }
        let db = self.address.db.to_string();
        words.push(vec!["SELECT", &db]);
        words.push(vec!["LLEN", &self.config.key]);
        let down = |what: String| Failure::new(FaultClass::DependencyDown, what);
        let look = async {
            let host = &self.address.host;
            let stream = TcpStream::connect(host).await.map_err(|error| down(format!("connect to {host}: {error}")))?;
            let Some(safe) = &self.safe else { return self.ask(stream, &words).await };
            let name = host.rsplit_once(':').map_or(&**host, |(name, _)| name);
            let stream = safe.connect(name, stream).await;
            self.ask(stream.map_err(|error| down(format!("connect to {host} over TLS: {error}")))?, &words).await
        };
        self.guard.call(false, look).await
    }

    async fn seen(&self, feed: &Feed, now: Timestamp) -> Result<u64, Failure> {
        let looked = self.look().await;
        feed.away(looked.as_ref().err().map(|failure| &*failure.message));
        let mut seen = self.seen.lock();
        match &looked {
            Ok(depth) => *seen = Seen { depth: Some(*depth), counted_at: Some(now), fault: None },
            Err(failure) => seen.fault = Some(failure.message.clone()),
        }
        looked
    }

    fn event(&self, feed: &Feed, is_high: bool, depth: u64, now: Timestamp) -> Event {
        let kind = if is_high { "queue.high" } else { "queue.low" };
        let data = json!({ "queue": self.config.key, "depth": depth }).to_string();
        let mut event =
            Event::new(format!("{}@{}", feed.name, now.as_millis()), format!("/sources/{}", feed.name), kind)
                .with_data(Data::Json(data.into()));
        event.time = Some(now.to_string().into());
        event
    }
}

/// Writes a command.
fn command(words: &[&str]) -> String {
    let words = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
    format!("*{}\r\n{}", words.len(), words.collect::<String>())
}

/// Reads the line of an answer: a number, or nothing when it only says that all is well.
fn answer(line: &str, key: &str) -> Result<Option<u64>, Failure> {
    if let Some(number) = line.strip_prefix(':') {
        return Ok(number.parse().ok());
    }
    let Some(error) = line.strip_prefix('-') else { return Ok(None) };
    let class = match error.split(' ').next() {
        Some("WRONGTYPE") => FaultClass::Invalid,
        Some("WRONGPASS" | "NOAUTH" | "NOPERM") => FaultClass::Auth,
        _ => FaultClass::DependencyDown,
    };
    Err(Failure::new(class, format!("length of {key}: {error}")))
}

#[async_trait]
impl Probe for RedisList {
    async fn probe(&self, _: &Context) -> Result<()> {
        let looked = self.look().await;
        looked
            .map(drop)
            .map_err(|failure| Fault::unavailable(Origin::Target(self.config.target.clone()), failure.message))
    }
}

#[async_trait]
impl Source for RedisList {
    async fn run(&self, feed: &Feed) -> Result<()> {
        let mut told: Told = feed.recall(TOLD).await?.unwrap_or_default();
        loop {
            let now = feed.clock.now();
            let before = told.clone();
            if let Ok(depth) = self.seen(feed, now).await
                && told.take(depth > self.config.above, now, self.config.lasting.get())
            {
                let event = self.event(feed, told.is_high, depth, now);
                if feed.deliver(&self.config.to, vec![event]).await?.is_none() {
                    return Ok(());
                }
            }
            if told != before {
                feed.keep(TOLD, &told).await?;
            }
            if !feed.sleep(self.config.every.get()).await {
                return Ok(());
            }
        }
    }

    fn details(&self) -> Value {
        let seen = self.seen.lock();
        json!({
            "queue": { "name": self.config.key, "depth": seen.depth, "counted_at": seen.counted_at, "fault": seen.fault },
        })
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::config::load;

    use super::*;
    use crate::{SourceConfig, trial::Variable};

    fn address(url: &'static str) -> Result<Address, String> {
        let text = "{ type: redis_list, url: '${env:URL}', target: t, key: k, above: 20, to: s }";
        let source: SourceConfig =
            load(text, "t.yaml", &Variable(url.to_owned())).map_err(|error| error.to_string())?;
        assert_eq!(source.settings().target().map(TargetName::as_str), Some("t"));
        let SourceConfig::RedisList(config) = source else { return Err("another source".to_owned()) };
        config.address().map_err(str::to_owned)
    }

    #[test]
    fn an_address_is_read_in_its_parts() {
        let of = |host: &str, user: Option<&str>, password: Option<&str>, db| {
            let own = |text: &str| text.to_owned();
            Ok(Address { host: own(host), is_safe: false, user: user.map(own), password: password.map(own), db })
        };
        assert_eq!(address("redis://h"), of("h:6379", None, None, 0));
        assert_eq!(address("redis://h:7000/3"), of("h:7000", None, None, 3));
        assert_eq!(address("redis://:p@h/1"), of("h:6379", None, Some("p"), 1));
        assert_eq!(address("redis://u:p@q@h:1"), of("h:1", Some("u"), Some("p@q"), 0));
        assert!(address("rediss://h").unwrap().is_safe);
        for wrong in ["http://h", "redis://h/x", "redis://"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn too_many_are_told_when_they_last_and_the_end_at_once() {
        let mut told = Told::default();
        let lasting = Duration::from_secs(300);
        let seen = [(0, true, false), (299, true, false), (300, true, true), (301, true, false), (302, false, true)];
        for (second, is_high, expect) in seen {
            let now = Timestamp::from_millis(second * 1000);
            assert_eq!(told.take(is_high, now, lasting), expect, "at {second}");
        }
        // A short time with fewer begins it anew.
        for (second, is_high) in [(400, true), (600, false), (601, true), (800, true)] {
            assert!(!told.take(is_high, Timestamp::from_millis(second * 1000), lasting), "at {second}");
        }
    }

    #[test]
    fn answers_are_read() {
        assert_eq!(answer(":7", "k").unwrap(), Some(7));
        assert_eq!(answer("+OK", "k").unwrap(), None);
        assert_eq!(answer("-WRONGTYPE Operation", "k").unwrap_err().class, FaultClass::Invalid);
        assert_eq!(answer("-NOAUTH x", "k").unwrap_err().class, FaultClass::Auth);
        assert_eq!(command(&["LLEN", "é"]), "*2\r\n$4\r\nLLEN\r\n$2\r\né\r\n");
    }
}

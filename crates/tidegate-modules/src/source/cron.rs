//! Source `cron`: one event for each time that a schedule names, in a time zone, over stops and changes of the clocks.
//!
//! **Invariant:** a fire is remembered only after its event is durable, and its id is made of its time: a fire that is
//! repeated after a crash is the same event, which the stream's dedupe and every ledger know.

mod schedule;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_core::{
    clock::{Clock, Timestamp},
    config::Spot,
    event::{Data, Event},
    fault::{Fault, Result},
    handler::Probe,
    limits,
    names::{ModuleName, StreamName},
    service::Context,
    source::{Feed, Source},
};

use self::schedule::Schedule;
pub use self::schedule::{Gap, Overlap};
use crate::registry::{ModuleKind, ModuleSpec, OpenSource, SourceParts, SourceSettings};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "cron",
    kind: ModuleKind::Source,
    summary: "brings an event at each time that a schedule names",
    schema: || schemars::schema_for!(CronConfig),
};

/// A fire that comes later than this was missed: the node stood still, or the source was paused.
const LATE: Duration = Duration::from_secs(30);
/// Longest sleep: a clock that is set, or a machine that wakes up, is noticed this soon.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// A clock that was set back by more than this is believed; fires that come again are the same events.
const CLOCK_BACK: Duration = Duration::from_secs(300);
/// Fires that are shown ahead.
const SHOWN: usize = 5;
/// Most events in one publish.
const BATCH: usize = 100;

/// Brings an event at each time that a schedule names. Its id is the source's name and the time of the fire, so that a
/// fire that is repeated after a crash is recognised as the same event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CronConfig {
    /// Cron expression: minute, hour, day of month, month, day of week; with six fields the first is the second.
    /// `@hourly`, `@daily`, `@weekly`, `@monthly`, `L`, `W` and `#` are understood.
    pub schedule: String,
    /// Time zone of the schedule, such as `Europe/Berlin`.
    #[serde(default = "utc")]
    pub zone: String,
    /// What becomes of a fire whose time is skipped when clocks go forward.
    #[serde(default)]
    pub gap: Gap,
    /// When a fire comes whose time is there twice when clocks go back.
    #[serde(default)]
    pub overlap: Overlap,
    /// What becomes of fires that are more than 30 s late, because the node was stopped or the source was paused.
    #[serde(default)]
    pub missed: Missed,
    /// Most fires that `missed: all` makes up for; the latest ones. At most 1000.
    #[serde(default = "missed_max")]
    pub missed_max: usize,
    /// Stream into which events go.
    pub to: StreamName,
    /// What the events are.
    #[serde(default)]
    pub event: CronEvent,
}

/// What the events of a schedule are. Their `time` is that of the fire.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CronEvent {
    /// CloudEvents `source`; default: `/cron/` and the name of the source.
    pub source: Option<String>,
    /// CloudEvents `type`; default: `cron.fired`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// CloudEvents `subject`.
    pub subject: Option<String>,
    /// Data of the events.
    pub data: Option<Value>,
}

/// What becomes of fires that were missed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// Nothing: the next fire is the next one of the schedule.
    Skip,
    /// The latest of them comes at once, for all.
    #[default]
    Once,
    /// All of them come at once, in order, as many as `missed_max` says.
    All,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn missed_max() -> usize {
    100
}

impl CronConfig {
    fn schedule(&self) -> Result<Schedule, String> {
        let zone = TimeZone::get(&self.zone).map_err(|error| error.to_string())?;
        Ok(Schedule::new(schedule::parse(&self.schedule)?, zone, self.gap, self.overlap))
    }

    /// Says which schedule a remembered fire belongs to.
    fn mark(&self) -> String {
        format!("{} {}", self.schedule, self.zone)
    }
}

impl SourceSettings for CronConfig {
    fn to(&self) -> &StreamName {
        &self.to
    }

    fn check(&self, here: &Spot<'_>) {
        if let Err(why) = schedule::parse(&self.schedule) {
            here.at("schedule").error(why);
        }
        if TimeZone::get(&self.zone).is_err() {
            let zones: Vec<_> = jiff::tz::db().available().map(|zone| zone.to_string()).collect();
            here.at("zone").unknown("time zone", &self.zone, zones.iter().map(String::as_str));
        }
        here.at("missed_max").require((1..=limits::CRON_MISSED_MAX).contains(&self.missed_max), || {
            format!("must be 1 to {}", limits::CRON_MISSED_MAX)
        });
        let event = here.at("event");
        let given = [("source", &self.event.source), ("type", &self.event.kind), ("subject", &self.event.subject)];
        for (name, value) in given {
            let fits = value.as_ref().is_none_or(|text| !text.is_empty() && text.len() <= limits::ATTRIBUTE_BYTES_MAX);
            event.at(name).require(fits, || format!("must be 1 to {} bytes", limits::ATTRIBUTE_BYTES_MAX));
        }
        let size = self.event.data.as_ref().map_or(0, |data| data.to_string().len());
        event.at("data").require(size <= limits::CRON_DATA_BYTES_MAX, || {
            format!("is {size} bytes of JSON, the most is {}", limits::CRON_DATA_BYTES_MAX)
        });
    }

    fn open(&self, parts: SourceParts) -> Result<OpenSource> {
        let schedule = self.schedule().map_err(|why| Fault::invalid(format!("schedule: {why}")))?;
        let state = Mutex::default();
        Ok(OpenSource::Runs(Arc::new(CronSource { config: self.clone(), schedule, clock: parts.clock, state })))
    }
}

/// A schedule that brings events.
#[derive(Debug)]
pub struct CronSource {
    config: CronConfig,
    schedule: Schedule,
    clock: Clock,
    state: Mutex<Shown>,
}

/// What is shown of the past.
#[derive(Debug, Default)]
struct Shown {
    last: Option<Timestamp>,
    missed: u64,
    made_up: u64,
}

/// What outlives a stop.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The schedule then: under another one, nothing was missed.
    schedule: String,
    /// Up to when fires are dealt with.
    until: Timestamp,
    /// The last fire that became an event.
    #[serde(default)]
    last: Option<Timestamp>,
}

#[async_trait]
impl Probe for CronSource {
    async fn probe(&self, _: &Context) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Source for CronSource {
    async fn run(&self, feed: &Feed) -> Result<()> {
        let mut kept = self.recall(feed).await?;
        loop {
            let now = self.clock.now();
            if kept.until > now.plus(CLOCK_BACK) {
                feed.report(format!("the clock went back behind {}: the schedule goes on from now", kept.until));
                kept.until = now;
            }
            let (fires, has_missed) = self.due(feed, &kept, now);
            for batch in fires.chunks(BATCH) {
                let events = batch.iter().map(|fire| self.event(&feed.name, *fire)).collect();
                if feed.deliver(&self.config.to, events).await?.is_none() {
                    return Ok(());
                }
                if let Some(last) = batch.last() {
                    (kept.until, kept.last) = (*last, Some(*last));
                    feed.keep("cron", &kept).await?;
                    self.state.lock().last = Some(*last);
                }
            }
            kept.until = kept.until.max(now);
            // Time that passed without a fire needs no write.
            if has_missed {
                feed.keep("cron", &kept).await?;
            }
            let next = self.schedule.next(kept.until);
            let wait = next.map_or(LOOK_EVERY, |next| next.since(self.clock.now())).min(LOOK_EVERY);
            if !feed.sleep(wait).await {
                return Ok(());
            }
        }
    }

    fn details(&self) -> Value {
        let next = std::iter::successors(self.schedule.next(self.clock.now()), |at| self.schedule.next(*at));
        let state = self.state.lock();
        json!({
            "schedule": self.config.schedule,
            "zone": self.config.zone,
            "next": next.take(SHOWN).collect::<Vec<_>>(),
            "last": state.last,
            "missed": state.missed,
            "made_up": state.made_up,
        })
    }
}

impl CronSource {
    /// Returns up to when fires are dealt with. A schedule that is new begins now.
    async fn recall(&self, feed: &Feed) -> Result<Kept> {
        let schedule = self.config.mark();
        let kept: Option<Kept> = feed.recall("cron").await?;
        if let Some(kept) = kept.filter(|kept| kept.schedule == schedule) {
            self.state.lock().last = kept.last;
            return Ok(kept);
        }
        let kept = Kept { schedule, until: self.clock.now(), last: None };
        // Kept before the first fire, so that a stop from here on misses it and does not forget it.
        feed.keep("cron", &kept).await?;
        Ok(kept)
    }

    /// Returns the fires that become events now: those in time, and of those missed what the policy says; and whether any
    /// was missed.
    fn due(&self, feed: &Feed, kept: &Kept, now: Timestamp) -> (Vec<Timestamp>, bool) {
        if now <= kept.until {
            return (Vec::new(), false);
        }
        let late = now.minus(LATE).max(kept.until);
        let (missed, more) = self.schedule.latest(kept.until, late, self.config.missed_max);
        let (timely, _) = self.schedule.latest(late, now, limits::CRON_MISSED_MAX);
        if missed.is_empty() {
            return (timely, false);
        }
        let made_up = match self.config.missed {
            Missed::Skip => &[],
            Missed::Once => missed.last_chunk::<1>().map_or(&[][..], |last| last),
            Missed::All => &missed[..],
        };
        {
            let mut state = self.state.lock();
            state.missed += missed.len() as u64;
            state.made_up += made_up.len() as u64;
        }
        let (count, or_more) = (missed.len(), if more { " or more" } else { "" });
        let since = kept.until;
        feed.report(format!("{count}{or_more} fires were missed since {since}; {} made up for", made_up.len()));
        (made_up.iter().copied().chain(timely).collect(), true)
    }

    fn event(&self, name: &ModuleName, fire: Timestamp) -> Event {
        let given = &self.config.event;
        let source = given.source.clone().unwrap_or_else(|| format!("/cron/{name}"));
        let kind = given.kind.clone().unwrap_or_else(|| "cron.fired".to_owned());
        let mut event = Event::new(format!("{name}@{fire}"), source, kind);
        event.time = Some(fire.to_string().into());
        event.subject = given.subject.clone().map(Into::into);
        if let Some(data) = &given.data {
            event.content_type = Some("application/json".into());
            event.data = Data::Json(Bytes::from(data.to_string()));
        }
        event
    }
}

#[cfg(test)]
mod tests;

//! The relay: takes rows in order, publishes them, and marks them; one relay for each table at a time.
//!
//! No transaction is open and no row is locked while something is published. A kill between publish and mark publishes
//! the rows again after the restart, and the stream knows their events by their ids.
//!
//! **Invariant:** a row is marked as published only after its event is durable in the stream.
//! **Invariant:** no event is published while an older row of its aggregate is neither published nor parked.

use std::{collections::HashSet, pin::pin, time::Duration};

use tidegate_core::{
    clock::Stopwatch,
    event::Event,
    fault::{Failure, Fault, FaultKind, Retry},
    source::Feed,
};
use tokio_postgres::{Statement, types::Type};

use super::{
    PostgresOutbox,
    horizon::Horizon,
    row::{self, Row},
    survey::{self, LOCK},
    table::Table,
};
use crate::postgres::Link;

/// Most bytes of payloads that are taken and published at a time; one row more may be on top of it.
const BATCH_BYTES: i64 = 2 * 1024 * 1024;
/// Wait before a lost connection is tried again; doubles with each failure.
const AGAIN_FIRST: Duration = Duration::from_millis(250);
/// Longest such wait; the breaker of the target may add its own.
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// First wait for transactions that are still writing; doubles up to the poll.
const WRITERS_FIRST: Duration = Duration::from_millis(10);
/// Time between two counts of the backlog, and between two looks at all rows.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// What reads the whole backlog takes at most this part of the time: a count of millions of rows takes seconds.
const SHARE: u32 = 20;

/// Why a stretch of work came to its end.
pub(super) enum End {
    /// The source is told to stop.
    Stopped,
    /// The database is not there, or did not do what it was asked.
    Lost(Failure),
    /// It cannot go on like this.
    Broken(Fault),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Lost(failure)
    }
}

/// Statements that are sent again and again.
struct Statements {
    take: Statement,
    mark: Statement,
    fail: Statement,
    horizon: Statement,
}

/// Rows that are not published, with the reasons.
type Refused<'r> = Vec<(&'r Row, String)>;

/// When something was done that reads the whole backlog, and how long it took.
#[derive(Default)]
struct Turn {
    last: Option<Stopwatch>,
    took: Duration,
}

impl Turn {
    /// Tells whether it is time again, where it is wanted so often.
    fn is_due(&self, every: Duration) -> bool {
        self.last.as_ref().is_none_or(|watch| watch.elapsed() >= every.max(self.took * SHARE))
    }

    fn ended(&mut self, watch: Stopwatch) {
        (self.took, self.last) = (watch.elapsed(), Some(watch));
    }
}

/// Up to which id nothing is left to take. Whoever begins at the lowest id walks over all rows that were published and that
/// the database could not clean away yet, which one old transaction anywhere in it can make millions.
#[derive(Default)]
struct Whole {
    /// Nothing that is pending, parked rows aside, has an id up to this one; none = that is not known.
    upto: Option<i64>,
    looked: Turn,
}

impl Whole {
    /// Behind which id the next look begins; none = it looks at all, now and then also because people may send a row again.
    fn begin(&self) -> Option<i64> {
        self.upto.filter(|_| !self.looked.is_due(COUNT_EVERY))
    }
}

/// Work over one connection.
pub(super) struct Relay<'a> {
    source: &'a PostgresOutbox,
    feed: &'a Feed,
    link: Link,
    statements: Statements,
    oid: u32,
    horizon: Horizon,
    whole: Whole,
    counted: Turn,
    /// Whether rows were taken since the last count.
    has_worked: bool,
}

/// Relays until the source is told to stop, over as many connections as it takes.
pub(super) async fn run(source: &PostgresOutbox, feed: &Feed) -> Result<(), Fault> {
    let (mut again, mut is_told) = (AGAIN_FIRST, false);
    loop {
        let mut worked = false;
        match session(source, feed, &mut worked).await {
            End::Stopped => {
                source.show(|shown| "stopped".clone_into(&mut shown.state));
                return Ok(());
            }
            End::Broken(fault) => return Err(fault),
            End::Lost(failure) => {
                if worked {
                    (again, is_told) = (AGAIN_FIRST, false);
                }
                source.show(|shown| shown.state = format!("waiting for the database: {}", failure.message));
                feed.away(Some(&failure.message));
                if !is_told {
                    is_told = true;
                    feed.report(format!("lost the database, trying again: {}", failure.message));
                }
            }
        }
        if !feed.sleep(again).await {
            return Ok(());
        }
        again = (again * 2).min(AGAIN_MAX);
    }
}

async fn session(source: &PostgresOutbox, feed: &Feed, worked: &mut bool) -> End {
    let opened = tokio::select! {
        biased;
        () = feed.stop.draining() => return End::Stopped,
        opened = Relay::open(source, feed) => opened,
    };
    let ended = match opened {
        Ok(mut relay) => {
            feed.away(None);
            relay.work(worked).await
        }
        Err(end) => return end,
    };
    match ended {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

impl<'a> Relay<'a> {
    async fn open(source: &'a PostgresOutbox, feed: &'a Feed) -> Result<Self, End> {
        let mut link = source.link().await?;
        let table = Table::new(&source.config);
        let findings = survey::findings(&mut link, &source.config).await?;
        if let Some(wrong) = findings.iter().find(|finding| finding.level == "error") {
            return Err(End::Broken(Fault::invalid(format!("{}: {}", wrong.what, wrong.mend))));
        }
        let oid = survey::oid(&mut link, &table).await?.unwrap_or_default();
        let statements = Statements {
            take: link.prepare("prepare to take rows", &table.take(), &[Type::INT8; 5]).await?,
            mark: link.prepare("prepare to mark rows", &table.mark(), &[Type::INT8_ARRAY]).await?,
            fail: link
                .prepare(
                    "prepare to write failures",
                    &table.fail(),
                    &[Type::INT8_ARRAY, Type::INT4_ARRAY, Type::FLOAT8_ARRAY, Type::TEXT_ARRAY],
                )
                .await?,
            horizon: link.prepare("prepare to look for writers", &table.horizon(), &[Type::OID, Type::INT8]).await?,
        };
        Ok(Self {
            source,
            feed,
            link,
            statements,
            oid,
            horizon: Horizon::default(),
            whole: Whole::default(),
            counted: Turn::default(),
            has_worked: false,
        })
    }

    async fn work(&mut self, worked: &mut bool) -> Result<std::convert::Infallible, End> {
        if let Some(listen) = Table::new(&self.source.config).listen() {
            self.link.run("listen for news", &listen).await?;
        }
        self.lock().await?;
        *worked = true;
        let (mut patience, poll) = (WRITERS_FIRST, self.source.config.poll.get());
        loop {
            self.link.forget_news();
            if self.round().await? {
                patience = WRITERS_FIRST;
                self.count(false).await?;
                continue;
            }
            let waits_for = self.horizon.waits_for();
            self.source.show(|shown| {
                shown.waits_for = waits_for;
                shown.state = match waits_for {
                    0 => "waiting for rows".to_owned(),
                    count => format!("waiting for {count} transactions that have written into the table"),
                };
            });
            self.count(waits_for == 0).await?;
            let wait = if waits_for == 0 { poll } else { patience.min(poll) };
            patience = if waits_for == 0 { WRITERS_FIRST } else { patience * 2 };
            self.pause(wait).await?;
        }
    }

    /// Waits for the lock of the table. Another relay that holds it publishes all there is.
    async fn lock(&mut self) -> Result<(), End> {
        const ASK: &str = "SELECT pg_try_advisory_lock($1::integer, $2::bigint::bit(32)::integer)";
        let mut is_told = false;
        loop {
            let row = self.link.ask_one("take the lock of the relay", ASK, &[&LOCK, &i64::from(self.oid)]).await?;
            if row.get(0) {
                return Ok(());
            }
            self.source.show(|shown| "waiting: another relay works on the table".clone_into(&mut shown.state));
            if !is_told {
                is_told = true;
                self.feed.report("another relay works on the table: waiting for it to end");
            }
            self.count(true).await?;
            self.pause(self.source.config.poll.get()).await?;
            self.link.forget_news();
        }
    }

    /// Waits for a time or for news.
    async fn pause(&mut self, time: Duration) -> Result<(), End> {
        tokio::select! {
            biased;
            () = self.feed.stop.draining() => Err(End::Stopped),
            news = self.link.news() => news.map_err(End::Lost),
            () = self.feed.clock.sleep(time) => Ok(()),
        }
    }

    /// Takes, publishes and marks some rows; false when there is nothing to do now.
    async fn round(&mut self) -> Result<bool, End> {
        if self.feed.stop.phase() != tidegate_core::service::StopPhase::Running {
            return Err(End::Stopped);
        }
        let (begin, safe) = (self.whole.begin(), self.horizon.safe());
        let (rows, waits) = self.take(begin).await?;
        let Some(last) = rows.last().map(|row| row.id) else {
            let look = self.link.ask_one("look for writers", &self.statements.horizon, &[&self.oid, &safe]).await?;
            let (newest, writers, waits): (i64, Vec<String>, bool) = (look.get(0), look.get(1), look.get(2));
            if waits {
                self.whole.upto = None;
            } else if begin.is_none() {
                self.whole.upto = Some(safe);
            }
            return Ok(self.horizon.look(newest, writers.into_iter().collect()));
        };
        self.source.show(|shown| "publishing".clone_into(&mut shown.state));
        self.has_worked = true;
        let mut refused = Refused::new();
        let published = self.publish(&rows, &mut refused).await?;
        self.mark(&published).await?;
        // While a row waits for its next attempt, others of its aggregate wait behind it: what is left is not known.
        self.whole.upto = (!waits && refused.is_empty()).then_some(last);
        self.refuse(refused).await?;
        Ok(true)
    }

    /// Takes rows that are due, from an id on, in order. Tells also whether any row waits for its next attempt: then it looks
    /// at all.
    async fn take(&mut self, begin: Option<i64>) -> Result<(Vec<Row>, bool), End> {
        let watch = self.feed.clock.stopwatch();
        let most = i64::try_from(self.source.config.batch).unwrap_or(i64::MAX);
        let largest = i64::try_from(tidegate_core::limits::EVENT_BYTES_MAX).unwrap_or(i64::MAX);
        let rows = self
            .link
            .ask(
                "take rows",
                &self.statements.take,
                &[&self.horizon.safe(), &most, &largest, &BATCH_BYTES, &begin.unwrap_or(i64::MIN)],
            )
            .await?;
        if begin.is_none() {
            self.whole.looked.ended(watch);
        }
        let more = self.source.config.attributes.len();
        let read = |row: &tokio_postgres::Row| Row {
            id: row.get(0),
            event_id: row.get(1),
            event_type: row.get(2),
            aggregate_type: row.get(3),
            aggregate_id: row.get(4),
            payload: row.get(5),
            size: row.get(6),
            created_at: row.get(7),
            attempts: row.get(8),
            attributes: (9..9 + more).map(|column| row.get(column)).collect(),
        };
        let waits = rows.first().is_some_and(|row| row.get(9 + more));
        Ok((rows.iter().map(read).collect(), waits))
    }

    /// Publishes what can be published and returns the ids of those rows. What comes after a refused row of the same
    /// aggregate is left for later.
    async fn publish<'r>(&mut self, rows: &'r [Row], refused: &mut Refused<'r>) -> Result<Vec<i64>, End> {
        let mut stuck = HashSet::new();
        let mut good: Vec<(&Row, Event)> = Vec::new();
        for row in rows {
            if row.aggregate().is_some_and(|aggregate| stuck.contains(&aggregate)) {
                continue;
            }
            match row.event(&self.source.config) {
                Ok(event) => good.push((row, event)),
                Err(why) => {
                    stuck.extend(row.aggregate());
                    refused.push((row, why));
                }
            }
        }
        if good.is_empty() {
            return Ok(Vec::new());
        }
        let all = good.iter().map(|(_, event)| event.clone()).collect();
        match self.deliver(all).await? {
            Ok(()) => return Ok(good.iter().map(|(row, _)| row.id).collect()),
            Err(fault) if good.len() == 1 => {
                refused.extend(good.first().map(|(row, _)| (*row, fault.note().to_owned())));
                return Ok(Vec::new());
            }
            Err(_) => {}
        }
        // The stream refuses one of them, such as by its schema: the others do not pay for it.
        let mut published = Vec::new();
        for (row, event) in good {
            if row.aggregate().is_some_and(|aggregate| stuck.contains(&aggregate)) {
                continue;
            }
            match self.deliver(vec![event]).await? {
                Ok(()) => published.push(row.id),
                Err(fault) => {
                    stuck.extend(row.aggregate());
                    refused.push((row, fault.note().to_owned()));
                }
            }
        }
        Ok(published)
    }

    /// Publishes events, all or none; the inner error says that the stream will never take them. A stream that is full
    /// and a store that is away are waited for, and nobody pays for that; what waits meanwhile is counted.
    async fn deliver(&mut self, events: Vec<Event>) -> Result<Result<(), Fault>, End> {
        let feed = self.feed;
        let mut delivered = pin!(feed.deliver(&self.source.config.to, events));
        let delivered = loop {
            let first = async {
                tokio::select! {
                    biased;
                    delivered = &mut delivered => Some(delivered),
                    () = feed.clock.sleep(COUNT_EVERY) => None,
                }
            };
            match self.link.meanwhile(first).await {
                Some(delivered) => break delivered,
                None => self.count(false).await?,
            }
        };
        match delivered {
            Ok(Some(_)) => Ok(Ok(())),
            Ok(None) => Err(End::Stopped),
            Err(fault) if is_about_the_event(&fault) => Ok(Err(fault)),
            Err(fault) => Err(End::Broken(fault)),
        }
    }

    async fn mark(&mut self, ids: &[i64]) -> Result<(), End> {
        if ids.is_empty() {
            return Ok(());
        }
        let rows = self.link.ask("mark rows as published", &self.statements.mark, &[&ids]).await?;
        let lag = rows
            .iter()
            .filter_map(|row| row.get::<_, Option<f64>>(0))
            .fold(None, |most: Option<f64>, waited| Some(most.map_or(waited, |most| most.max(waited)).max(0.0)));
        self.source.show(|shown| {
            shown.lag_seconds = lag.or(shown.lag_seconds);
            shown.published += ids.len() as u64;
        });
        Ok(())
    }

    /// Lets rows wait for their next attempt, or parks them after the last.
    async fn refuse(&mut self, refused: Refused<'_>) -> Result<(), End> {
        if refused.is_empty() {
            return Ok(());
        }
        let retry = &self.source.config.retry;
        let (mut ids, mut attempts, mut after, mut why) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut parked = Vec::new();
        for (row, reason) in refused {
            let number = row.attempts.saturating_add(1);
            let wait = retry.after(number);
            let reason = row::plain(&reason);
            ids.push(row.id);
            attempts.push(number);
            after.push(wait.map(|wait| wait.as_secs_f64()));
            match wait {
                Some(_) => why.push(reason),
                None => {
                    why.push(format!("parked after {number} attempts: {reason}"));
                    parked.push((row, reason));
                }
            }
        }
        self.keep_rejected(&parked).await?;
        self.link.ask("write failures", &self.statements.fail, &[&ids, &attempts, &after, &why]).await?;
        // Told after they are written: a row that is refused again after a kill is told once.
        for (row, reason) in parked {
            self.feed.reject(row.place(&self.source.config), reason);
        }
        Ok(())
    }

    async fn keep_rejected(&mut self, parked: &[(&Row, String)]) -> Result<(), End> {
        let Some(stream) = &self.source.config.rejects else { return Ok(()) };
        if parked.is_empty() {
            return Ok(());
        }
        let now = self.feed.clock.now();
        let event = |(row, why): &(&Row, String)| row.rejected(&self.source.config, why, now);
        let events = parked.iter().map(event).collect();
        match self.link.meanwhile(self.feed.deliver(stream, events)).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(End::Stopped),
            Err(fault) => Err(End::Broken(fault.within("keep a row that is parked"))),
        }
    }

    /// Counts the backlog when it is time, and when a relay that has worked has nothing to do any more.
    async fn count(&mut self, is_idle: bool) -> Result<(), End> {
        let every = if is_idle && self.has_worked { Duration::ZERO } else { COUNT_EVERY };
        if !self.counted.is_due(every) {
            return Ok(());
        }
        let watch = self.feed.clock.stopwatch();
        let figures = survey::figures(&mut self.link, &Table::new(&self.source.config)).await?;
        let at = self.feed.clock.now();
        self.source.show(|shown| (shown.figures, shown.counted_at) = (Some(figures), Some(at)));
        self.counted.ended(watch);
        self.has_worked = false;
        Ok(())
    }
}

/// Tells whether a refusal says something about the event, and not about the stream or the store.
fn is_about_the_event(fault: &Fault) -> bool {
    fault.retry == Retry::Never && matches!(fault.kind, FaultKind::Invalid | FaultKind::Limited)
}

//! A connection with its statements, and one transaction after the other on it.

use std::{error::Error, time::Duration};

use bytes::{BufMut as _, BytesMut};
use tidegate_core::{
    clock::{Clock, Stopwatch},
    cloudevents,
    event::Event,
    fault::{Failure, FaultClass},
};
use tokio_postgres::{
    Statement,
    types::{IsNull, ToSql, Type, to_sql_checked},
};

use super::{PostgresSinkConfig, ledger::Key};
use crate::{
    postgres::{Calls, Database, Link},
    sql::{quoted, quoted_table},
};

/// Time between two cleanings of the ledger by one connection.
const CLEAN_EVERY: Duration = Duration::from_secs(3600);

/// A connection that can run the statement of a sink.
pub(super) struct Session {
    link: Link,
    effect: Statement,
    ledger: Option<Entries>,
    group: String,
    clock: Clock,
}

/// The ledger as this connection uses it.
struct Entries {
    enter: Statement,
    key: Key,
    clean: Statement,
    keep: Duration,
    cleaned: Option<Stopwatch>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("group", &self.group).finish_non_exhaustive()
    }
}

/// A document in the binary form of `jsonb`.
#[derive(Debug)]
struct Jsonb(Vec<u8>);

impl ToSql for Jsonb {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        const FORM: u8 = 1;
        out.put_u8(FORM);
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSONB
    }

    to_sql_checked!();
}

/// What is wrong with every event alike must not bury one after the other.
fn of_all_events(failure: Failure) -> Failure {
    let class = if failure.class == FaultClass::Invalid { FaultClass::DependencyDown } else { failure.class };
    Failure { class, ..failure }
}

impl Session {
    pub(super) async fn open(
        database: &Database,
        config: &PostgresSinkConfig,
        group: &str,
        timeout: Duration,
        clock: Clock,
    ) -> Result<Self, Failure> {
        let mut link = Link::open(database, Calls::Within(timeout)).await?;
        let effect = link.prepare("prepare the statement", &config.statement, &[Type::JSONB]).await;
        let effect = effect.map_err(of_all_events)?;
        let ledger = match config.ledger.on() {
            Some(table) => Some(Entries::prepare(&mut link, table, config.keep.get()).await.map_err(of_all_events)?),
            None => None,
        };
        Ok(Self { link, effect, ledger, group: group.to_owned(), clock })
    }

    /// Runs the statement and enters the event, or finds it entered and does nothing.
    pub(super) async fn run(&mut self, event: &Event) -> Result<(), Failure> {
        let mut document = Vec::with_capacity(event.size() + 256);
        cloudevents::write_json(event, &mut document);
        let document = Jsonb(document);
        let Some(entries) = &mut self.ledger else {
            // One statement is a transaction of its own.
            self.link.ask("run the statement", &self.effect, &[&document]).await?;
            return Ok(());
        };
        self.link.run("begin", "BEGIN").await?;
        if !entries.enter(&mut self.link, event, &self.group).await? {
            return self.link.run("end what was done before", "ROLLBACK").await;
        }
        self.link.ask("run the statement", &self.effect, &[&document]).await?;
        self.link.run("commit", "COMMIT").await?;
        // The event is done; a cleaning that fails is tried again with a later one.
        if let Err(failure) = entries.clean(&mut self.link, &self.group, &self.clock).await {
            tracing::warn!(group = self.group, "clean the ledger table: {}", failure.message);
        }
        Ok(())
    }

    pub(super) async fn roll_back(&mut self) -> Result<(), Failure> {
        self.link.run("roll back", "ROLLBACK").await
    }
}

impl Entries {
    async fn prepare(link: &mut Link, table: &str, keep: Duration) -> Result<Self, Failure> {
        let (key, id_type) = look(link, table).await?;
        let name = quoted_table(table);
        let (source, third) = match key {
            Key::Event => (", event_source", ", $4::text"),
            Key::Id => ("", ""),
        };
        let columns = key.columns().iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ");
        // An entry of a failure, as other programs write, keeps nobody from trying again.
        let enter = format!(
            "INSERT INTO {name} AS entry (event_id, consumer_group, event_type, processed_at, processing_result{source}) \
             VALUES (CAST($1::text AS {id_type}), $2::text, left($3::text, 100), now(), 'success'{third}) \
             ON CONFLICT ({columns}) DO UPDATE SET processing_result = 'success', processed_at = now() \
             WHERE entry.processing_result = 'failure' RETURNING 1"
        );
        let types = [Type::TEXT, Type::TEXT, Type::TEXT, Type::TEXT];
        let count = if key == Key::Event { 4 } else { 3 };
        let enter = link.prepare("prepare the entry", &enter, types.get(..count).unwrap_or(&types)).await?;
        let clean = format!(
            "DELETE FROM {name} WHERE consumer_group = $1::text AND processed_at < now() - make_interval(secs => $2::float8)"
        );
        let clean = link.prepare("prepare the cleaning", &clean, &[Type::TEXT, Type::FLOAT8]).await?;
        Ok(Self { enter, key, clean, keep, cleaned: None })
    }

    /// Enters an event; false when it is there already. Waits for whoever enters the same one just now.
    async fn enter(&self, link: &mut Link, event: &Event, group: &str) -> Result<bool, Failure> {
        let (id, kind, source) = (&*event.id, &*event.kind, &*event.source);
        let rows = match self.key {
            Key::Event => link.ask("enter the event", &self.enter, &[&id, &group, &kind, &source]).await?,
            Key::Id => link.ask("enter the event", &self.enter, &[&id, &group, &kind]).await?,
        };
        Ok(!rows.is_empty())
    }

    async fn clean(&mut self, link: &mut Link, group: &str, clock: &Clock) -> Result<(), Failure> {
        if self.cleaned.as_ref().is_some_and(|cleaned| cleaned.elapsed() < CLEAN_EVERY) {
            return Ok(());
        }
        self.cleaned = Some(clock.stopwatch());
        link.ask("clean the ledger", &self.clean, &[&group, &self.keep.as_secs_f64()]).await?;
        Ok(())
    }
}

/// Looks what the key of a ledger table is, and the type of its ids. A key without the group would let one group keep
/// another from its effect.
async fn look(link: &mut Link, table: &str) -> Result<(Key, String), Failure> {
    const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute \
                           WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped";
    const KEYS: &str = "SELECT array(SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid \
                        AND attnum = ANY(indkey) ORDER BY 1) FROM pg_index \
                        WHERE indrelid = to_regclass($1::text) AND indisunique AND indpred IS NULL AND indexprs IS NULL";
    let mend = "run what `tidegate ledger ddl` prints";
    let name = quoted_table(table);
    let columns = link.ask("look at the ledger", COLUMNS, &[&name]).await?;
    let id_type = columns.iter().find(|row| row.get::<_, &str>(0) == "event_id").map(|row| row.get::<_, String>(1));
    let Some(id_type) = id_type else {
        let what = if columns.is_empty() { "there is no table" } else { "there is no column event_id in table" };
        return Err(Failure::new(FaultClass::DependencyDown, format!("{what} {table}: {mend}")));
    };
    let keys: Vec<Vec<String>> =
        link.ask("look at its keys", KEYS, &[&name]).await?.iter().map(|row| row.get(0)).collect();
    let has = |key: Key| {
        let mut wanted = key.columns().to_vec();
        wanted.sort_unstable();
        keys.iter().any(|columns| columns.iter().map(String::as_str).eq(wanted.iter().copied()))
    };
    match [Key::Event, Key::Id].into_iter().find(|key| has(*key)) {
        Some(key) => Ok((key, id_type)),
        None => {
            let note = format!(
                "table {table} has no unique key of event_id and consumer_group, with or without event_source: without \
                 the group in it, one group would keep another from its effect; {mend}"
            );
            Err(Failure::new(FaultClass::DependencyDown, note))
        }
    }
}

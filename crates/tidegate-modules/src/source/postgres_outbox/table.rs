//! The outbox table: what its columns are called, and every statement about it. Pure: it sends nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    config::{Spot, Switch},
    limits,
};

use super::OutboxConfig;
use crate::sql::{NAME, is_name, quoted, quoted_table};

/// A parked row waits for this time, so that no relay that reads the column takes it. Not `infinity`, which many
/// clients cannot read.
const PARKED_UNTIL: &str = "9999-01-01 00:00:00+00";
/// From here on a row is parked; a session in another time zone may read the former up to a day earlier.
const PARKED_FROM: &str = "9998-01-01";

/// Names of the table's columns. `off` stands for a column that the table does not have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// Number that grows with each row: the order of events.
    pub id: String,
    /// Id of the event.
    pub event_id: String,
    /// CloudEvents `type`.
    pub event_type: String,
    /// Kind of the aggregate; with its id it says which events keep their order. It becomes the attribute
    /// `aggregatetype`.
    pub aggregate_type: Switch<String>,
    /// The aggregate; becomes `subject` and `partitionkey`. Rows without one have no order.
    pub aggregate_id: String,
    /// Data of the event: JSON, in a column of any type that can be read as text.
    pub payload: String,
    /// CloudEvents `time`; without it, ages and lag are unknown.
    pub created_at: Switch<String>,
    /// Whether the row is published. When `off`, `published_at` alone says so.
    pub published: Switch<String>,
    /// When the row was published.
    pub published_at: Switch<String>,
    /// Failed attempts.
    pub attempts: String,
    /// Before this time the row is not tried again. A parked row has the year 9999.
    pub next_attempt_at: String,
    /// Why the last attempt failed.
    pub error_message: String,
}

impl Default for Columns {
    fn default() -> Self {
        let on = |name: &str| Switch::On(name.to_owned());
        Self {
            id: "id".to_owned(),
            event_id: "event_id".to_owned(),
            event_type: "event_type".to_owned(),
            aggregate_type: on("aggregate_type"),
            aggregate_id: "aggregate_id".to_owned(),
            payload: "payload".to_owned(),
            created_at: on("created_at"),
            published: on("published"),
            published_at: on("published_at"),
            attempts: "attempts".to_owned(),
            next_attempt_at: "next_attempt_at".to_owned(),
            error_message: "error_message".to_owned(),
        }
    }
}

/// What a column must be able to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Number,
    Truth,
    Instant,
    Text,
    Anything,
}

impl Columns {
    /// Every column with its key in the settings and what it must hold.
    pub(super) fn all(&self) -> Vec<(&'static str, &str, Holds)> {
        let mut all = vec![
            ("id", self.id.as_str(), Holds::Number),
            ("event_id", &self.event_id, Holds::Anything),
            ("event_type", &self.event_type, Holds::Anything),
            ("aggregate_id", &self.aggregate_id, Holds::Anything),
            ("payload", &self.payload, Holds::Anything),
            ("attempts", &self.attempts, Holds::Number),
            ("next_attempt_at", &self.next_attempt_at, Holds::Instant),
            ("error_message", &self.error_message, Holds::Text),
        ];
        let optional = [
            ("aggregate_type", &self.aggregate_type, Holds::Anything),
            ("created_at", &self.created_at, Holds::Instant),
            ("published", &self.published, Holds::Truth),
            ("published_at", &self.published_at, Holds::Instant),
        ];
        all.extend(optional.into_iter().filter_map(|(key, column, holds)| Some((key, column.on()?.as_str(), holds))));
        all
    }

    pub(super) fn check(&self, here: &Spot<'_>) {
        for (key, column, _) in self.all() {
            here.at(key).require(is_name(column), || NAME.to_owned());
        }
        here.at("published").require(self.published.on().is_some() || self.published_at.on().is_some(), || {
            "published and published_at cannot both be off: something must say what is published".to_owned()
        });
    }
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Statements about one table.
#[derive(Debug, Clone)]
pub(super) struct Table<'a> {
    config: &'a OutboxConfig,
    columns: &'a Columns,
}

impl<'a> Table<'a> {
    pub(super) fn new(config: &'a OutboxConfig) -> Self {
        Self { config, columns: &config.columns }
    }

    /// The table as it stands in a statement.
    pub(super) fn name(&self) -> String {
        quoted_table(&self.config.table)
    }

    /// The schema, and what the names of indexes and functions begin with.
    fn parts(&self) -> (Option<&str>, &str) {
        match self.config.table.split_once('.') {
            Some((schema, table)) => (Some(schema), table),
            None => (None, &self.config.table),
        }
    }

    /// A column of the row `o`.
    fn column(name: &str) -> String {
        format!("o.{}", quoted(name))
    }

    fn or_null(column: &Switch<String>) -> String {
        column.on().map_or_else(|| "NULL".to_owned(), |name| Self::column(name))
    }

    /// What is not published. A NULL counts as not published: nothing is passed over by what nobody filled in.
    fn pending(&self, row: &str) -> String {
        match (&self.columns.published, &self.columns.published_at) {
            (Switch::On(published), _) => format!("{row}{} IS NOT TRUE", quoted(published)),
            (Switch::Off, Switch::On(at)) => format!("{row}{} IS NULL", quoted(at)),
            (Switch::Off, Switch::Off) => "true".to_owned(),
        }
    }

    /// What tells a row that is parked.
    fn parked(&self, row: &str) -> String {
        format!("{row}{} >= '{PARKED_FROM}'", quoted(&self.columns.next_attempt_at))
    }

    /// Tells whether a row waits for its next attempt, or had one that is due again.
    fn waits(&self) -> String {
        format!(
            "EXISTS (SELECT FROM {table} w WHERE {pending} AND w.{next} IS NOT NULL AND NOT {parked})",
            table = self.name(),
            pending = self.pending("w."),
            next = quoted(&self.columns.next_attempt_at),
            parked = self.parked("w."),
        )
    }

    /// Reads rows that are due, in order: $1 highest id, $2 most rows, $3 most bytes of a payload, $4 most bytes in all, $5
    /// the id behind which it begins, unless a row waits for its next attempt; each row says at its end whether one does.
    ///
    /// A row waits while an older one of its aggregate waits for its next attempt; a parked one holds up nobody.
    pub(super) fn take(&self) -> String {
        let next = quoted(&self.columns.next_attempt_at);
        let (id, aggregate) = (quoted(&self.columns.id), quoted(&self.columns.aggregate_id));
        let created = match &self.columns.created_at {
            Switch::On(at) => {
                format!(r#"to_char({}::timestamptz, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#, Self::column(at))
            }
            Switch::Off => "NULL::text".to_owned(),
        };
        let same_type = match &self.columns.aggregate_type {
            Switch::On(kind) => format!(" AND b.{0} IS NOT DISTINCT FROM o.{0}", quoted(kind)),
            Switch::Off => String::new(),
        };
        let more: String = self
            .config
            .attributes
            .values()
            .enumerate()
            .map(|(number, column)| {
                let column = if super::is_path(column) { "NULL".to_owned() } else { Self::column(column) };
                format!(", {column}::text AS extra_{number}")
            })
            .collect();
        let extra: String = (0..self.config.attributes.len()).map(|number| format!(", extra_{number}")).collect();
        format!(
            "SELECT id, event_id, event_type, aggregate_type, aggregate_id, CASE WHEN size <= $3::bigint THEN payload END, \
             size, created_at, attempts{extra}, waits FROM (SELECT *, (sum(size) OVER (ORDER BY id))::bigint AS total FROM (\
             SELECT *, coalesce(octet_length(payload), 0)::bigint AS size FROM (\
             SELECT o.{id}::bigint AS id, o.{event_id}::text AS event_id, o.{event_type}::text AS event_type, \
             {aggregate_type}::text AS aggregate_type, o.{aggregate}::text AS aggregate_id, o.{payload}::text AS payload, \
             {created} AS created_at, coalesce(o.{attempts}, 0)::integer AS attempts{more}, (SELECT {waits}) AS waits FROM {table} o \
             WHERE {pending} AND o.{id} > (SELECT CASE WHEN {waits} THEN -9223372036854775808 ELSE $5::bigint END) \
             AND o.{id} <= $1::bigint AND (o.{next} IS NULL OR o.{next} <= now()) \
             AND NOT EXISTS (SELECT FROM {table} b WHERE {b_pending} AND b.{next} > now() AND NOT {b_parked} \
             AND b.{aggregate} = o.{aggregate}{same_type} AND b.{id} < o.{id}) \
             ORDER BY o.{id} LIMIT $2::bigint) taken) sized) summed WHERE total - size <= $4::bigint ORDER BY id",
            event_id = quoted(&self.columns.event_id),
            event_type = quoted(&self.columns.event_type),
            aggregate_type = Self::or_null(&self.columns.aggregate_type),
            payload = quoted(&self.columns.payload),
            attempts = quoted(&self.columns.attempts),
            table = self.name(),
            pending = self.pending("o."),
            b_pending = self.pending("b."),
            b_parked = self.parked("b."),
            waits = self.waits(),
        )
    }

    /// Reads the newest id above $2 that is not published, who has written into the table and is not over, and whether a row
    /// waits for its next attempt: $1 the table's oid.
    ///
    /// The rows are seen as they were before the locks are looked at. Whoever has no lock then, and no row that was
    /// seen, draws a higher id or is over.
    pub(super) fn horizon(&self) -> String {
        format!(
            "SELECT (SELECT coalesce(max(o.{id}), 0)::bigint FROM {table} o WHERE {pending} AND o.{id} > $2::bigint), \
             ARRAY(SELECT DISTINCT l.virtualtransaction || '/' || coalesce(l.pid::text, '') FROM pg_locks l \
             WHERE l.locktype = 'relation' AND l.relation = $1::oid AND l.mode = 'RowExclusiveLock' AND l.granted \
             AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) \
             AND l.pid IS DISTINCT FROM pg_backend_pid()), {waits}",
            waits = self.waits(),
            id = quoted(&self.columns.id),
            table = self.name(),
            pending = self.pending("o."),
        )
    }

    /// Marks rows as published and returns for each how long it waited: $1 their ids.
    pub(super) fn mark(&self) -> String {
        let mut set = vec![format!("{} = NULL", quoted(&self.columns.error_message))];
        set.extend(self.columns.published.on().map(|name| format!("{} = true", quoted(name))));
        set.extend(self.columns.published_at.on().map(|name| format!("{} = now()", quoted(name))));
        let waited = match &self.columns.created_at {
            Switch::On(at) => {
                format!("extract(epoch FROM clock_timestamp() - {}::timestamptz)::float8", Self::column(at))
            }
            Switch::Off => "NULL::float8".to_owned(),
        };
        format!(
            "UPDATE {} o SET {} WHERE o.{} = ANY($1::bigint[]) AND {} RETURNING {waited}",
            self.name(),
            set.join(", "),
            quoted(&self.columns.id),
            self.pending("o."),
        )
    }

    /// Writes failures into rows: $1 ids, $2 attempts, $3 seconds to the next one or NULL to park, $4 reasons.
    pub(super) fn fail(&self) -> String {
        let next = quoted(&self.columns.next_attempt_at);
        format!(
            "UPDATE {table} o SET {attempts} = f.attempts, {next} = CASE WHEN f.after IS NULL THEN '{PARKED_UNTIL}'::timestamptz \
             ELSE now() + make_interval(secs => f.after) END, {error} = f.why \
             FROM unnest($1::bigint[], $2::integer[], $3::float8[], $4::text[]) AS f(id, attempts, after, why) \
             WHERE o.{id} = f.id AND {pending}",
            table = self.name(),
            attempts = quoted(&self.columns.attempts),
            error = quoted(&self.columns.error_message),
            id = quoted(&self.columns.id),
            pending = self.pending("o."),
        )
    }

    /// Counts what is not published: all but parked, of those waiting for their next attempt, parked, age of the oldest.
    pub(super) fn figures(&self) -> String {
        let (parked, next) = (self.parked("o."), quoted(&self.columns.next_attempt_at));
        let age = match &self.columns.created_at {
            Switch::On(at) => format!(
                "extract(epoch FROM now() - min({}::timestamptz) FILTER (WHERE ({parked}) IS NOT TRUE))::float8",
                Self::column(at)
            ),
            Switch::Off => "NULL::float8".to_owned(),
        };
        format!(
            "SELECT count(*) FILTER (WHERE ({parked}) IS NOT TRUE), \
             count(*) FILTER (WHERE o.{next} > now() AND ({parked}) IS NOT TRUE), \
             count(*) FILTER (WHERE {parked}), {age} FROM {} o WHERE {}",
            self.name(),
            self.pending("o."),
        )
    }

    /// Reads rows that failed, parked ones first: $1 most rows.
    pub(super) fn failed(&self) -> String {
        let next = quoted(&self.columns.next_attempt_at);
        format!(
            "SELECT o.{id}::bigint, o.{event_id}::text, coalesce(o.{attempts}, 0)::integer, ({parked}) IS TRUE, \
             o.{next}::text, o.{error}::text FROM {table} o WHERE {pending} AND o.{next} IS NOT NULL \
             ORDER BY ({parked}) IS TRUE DESC, o.{id} LIMIT $1::bigint",
            id = quoted(&self.columns.id),
            event_id = quoted(&self.columns.event_id),
            attempts = quoted(&self.columns.attempts),
            error = quoted(&self.columns.error_message),
            parked = self.parked("o."),
            table = self.name(),
            pending = self.pending("o."),
        )
    }

    /// The statement that waits for news; none when nobody notifies.
    pub(super) fn listen(&self) -> Option<String> {
        self.config.notify.on().map(|channel| format!("LISTEN {}", quoted(channel)))
    }

    /// Name of the index over rows that are not published.
    pub(super) fn pending_index(&self) -> String {
        format!("{}_pending", short(self.parts().1))
    }

    /// Name of the index over rows that failed.
    pub(super) fn failed_index(&self) -> String {
        format!("{}_failed", short(self.parts().1))
    }

    /// Name of the trigger, and of the function behind it.
    pub(super) fn trigger(&self) -> String {
        format!("{}_notify", short(self.parts().1))
    }

    /// Makes the table, or adds to one that is there what a relay needs; may be run again.
    pub(super) fn ddl(&self) -> String {
        let c = self.columns;
        let table = self.name();
        let mut made = vec![
            format!("{} bigserial PRIMARY KEY", quoted(&c.id)),
            format!("{} uuid NOT NULL UNIQUE DEFAULT gen_random_uuid()", quoted(&c.event_id)),
            format!("{} text NOT NULL", quoted(&c.event_type)),
        ];
        made.extend(c.aggregate_type.on().map(|name| format!("{} text NOT NULL DEFAULT 'user'", quoted(name))));
        made.push(format!("{} uuid NOT NULL", quoted(&c.aggregate_id)));
        made.push(format!("{} jsonb NOT NULL", quoted(&c.payload)));
        made.extend(c.created_at.on().map(|name| format!("{} timestamptz NOT NULL DEFAULT now()", quoted(name))));
        let mut added = Vec::new();
        added.extend(c.published.on().map(|name| format!("{} boolean NOT NULL DEFAULT false", quoted(name))));
        added.extend(c.published_at.on().map(|name| format!("{} timestamptz", quoted(name))));
        added.push(format!("{} integer NOT NULL DEFAULT 0", quoted(&c.attempts)));
        added.push(format!("{} timestamptz", quoted(&c.next_attempt_at)));
        added.push(format!("{} text", quoted(&c.error_message)));
        let columns = self.config.attributes.values().filter(|column| !super::is_path(column));
        added.extend(columns.map(|name| format!("{} text", quoted(name))));
        let schema = self.parts().0.map(|schema| format!("CREATE SCHEMA IF NOT EXISTS {};\n", quoted(schema)));
        let alter: Vec<_> = added.iter().map(|column| format!("  ADD COLUMN IF NOT EXISTS {column}")).collect();
        let columns: Vec<_> = made.iter().chain(&added).map(|column| format!("  {column}")).collect();
        format!(
            "-- The outbox table {shown}, and what its relay needs. It may be run again.\n\
             -- On a large table that is in use, make the two indexes with CREATE INDEX CONCURRENTLY first.\n\
             BEGIN;\nSET LOCAL lock_timeout = '5s';\n{schema}\
             CREATE TABLE IF NOT EXISTS {table} (\n{columns}\n);\n\
             ALTER TABLE {table}\n{alter};\n\
             CREATE INDEX IF NOT EXISTS {pending_index} ON {table} ({id}) WHERE {pending};\n\
             CREATE INDEX IF NOT EXISTS {failed_index} ON {table} ({next}) WHERE {pending} AND {next} IS NOT NULL;\n\
             {notify}COMMIT;\n",
            shown = self.config.table,
            schema = schema.unwrap_or_default(),
            columns = columns.join(",\n"),
            alter = alter.join(",\n"),
            pending_index = quoted(&self.pending_index()),
            failed_index = quoted(&self.failed_index()),
            id = quoted(&c.id),
            next = quoted(&c.next_attempt_at),
            pending = self.pending(""),
            notify = self.notify_ddl(),
        )
    }

    fn notify_ddl(&self) -> String {
        let Switch::On(channel) = &self.config.notify else { return String::new() };
        let (table, trigger) = (self.name(), quoted(&self.trigger()));
        let function = match self.parts().0 {
            Some(schema) => format!("{}.{trigger}", quoted(schema)),
            None => trigger.clone(),
        };
        format!(
            "-- Wakes the relay when rows are committed. Without it, new rows wait for the next poll.\n\
             CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $notify$\n\
             BEGIN PERFORM pg_notify({channel}, ''); RETURN NULL; END $notify$;\n\
             DO $make$ BEGIN\n  IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = {name} AND tgrelid = to_regclass({regclass})) THEN\n    \
             CREATE TRIGGER {trigger} AFTER INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {function}();\n  \
             END IF;\nEND $make$;\n",
            channel = text(channel),
            name = text(&self.trigger()),
            regclass = text(&table),
        )
    }
}

/// Leaves room for an ending: longer names would be cut by the server.
fn short(name: &str) -> &str {
    let mut end = name.len().min(50);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

const _: () = assert!(limits::OUTBOX_BATCH_MAX <= limits::BATCH_EVENTS_MAX);

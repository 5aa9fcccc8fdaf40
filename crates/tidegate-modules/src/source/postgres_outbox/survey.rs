//! What a database says of an outbox: whether the table fits, and how it stands.

use serde::Serialize;
use tidegate_core::fault::Failure;
use tokio_postgres::types::Type;

use super::{
    OutboxConfig,
    table::{Holds, Table},
};
use crate::postgres::Link;

/// Failed rows that are shown.
const FAILED_SHOWN: i64 = 20;

/// What does not fit.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Finding {
    /// `error`: the relay cannot work; `warning`: it works worse.
    pub level: &'static str,
    /// What is missing or wrong.
    pub what: String,
    /// What helps.
    pub mend: String,
}

/// How an outbox stands.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Figures {
    /// Rows that are not published; parked ones aside.
    pub backlog: i64,
    /// Of those, rows that failed and wait for their next attempt.
    pub backing_off: i64,
    /// Rows that failed for good and wait for somebody.
    pub parked: i64,
    /// Age of the oldest row of the backlog; none when there is none, or the table does not say.
    pub oldest_age_seconds: Option<f64>,
}

/// A row that failed.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct FailedRow {
    /// Its id.
    pub id: i64,
    /// Id of its event.
    pub event_id: Option<String>,
    /// Attempts so far.
    pub attempts: i32,
    /// `parked` or `backing off`.
    pub state: &'static str,
    /// When it is tried again; none when it is parked.
    pub next_attempt_at: Option<String>,
    /// Why it failed.
    pub error_message: Option<String>,
}

/// All that is known of an outbox.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Survey {
    /// The table.
    pub table: String,
    /// What does not fit.
    pub findings: Vec<Finding>,
    /// How it stands; none when the table does not fit.
    pub figures: Option<Figures>,
    /// Whether some relay holds the table.
    pub relay: bool,
    /// Rows that failed, at most 20; parked ones first.
    pub failed: Vec<FailedRow>,
}

fn error(what: String, mend: impl Into<String>) -> Finding {
    Finding { level: "error", what, mend: mend.into() }
}

fn warning(what: String, mend: impl Into<String>) -> Finding {
    Finding { level: "warning", what, mend: mend.into() }
}

/// Key of the lock by which relays of one table know each other; the table's oid is the second half.
pub(super) const LOCK: i32 = 0x7469_6465;

const DDL: &str = "run what `tidegate outbox ddl` prints";

/// Returns the oid of the table, when it is there.
pub(super) async fn oid(link: &mut Link, table: &Table<'_>) -> Result<Option<u32>, Failure> {
    let row = link.ask_one("find the table", "SELECT to_regclass($1::text)::oid", &[&table.name()]).await?;
    Ok(row.get(0))
}

/// Looks whether the table fits.
pub(super) async fn findings(link: &mut Link, config: &OutboxConfig) -> Result<Vec<Finding>, Failure> {
    let table = Table::new(config);
    let Some(oid) = oid(link, &table).await? else {
        return Ok(vec![error(format!("there is no table {}", config.table), DDL)]);
    };
    let mut found = Vec::new();
    columns(link, config, oid, &mut found).await?;
    rights(link, config, oid, &mut found).await?;
    around(link, config, oid, &mut found).await?;
    Ok(found)
}

async fn columns(link: &mut Link, config: &OutboxConfig, oid: u32, found: &mut Vec<Finding>) -> Result<(), Failure> {
    const ASK: &str = "SELECT attname::text, format_type(atttypid, NULL), attnotnull FROM pg_attribute \
                       WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped";
    let rows = link.ask("read the columns", ASK, &[&oid]).await?;
    let there: Vec<(String, String, bool)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let table = &config.table;
    for (key, name, holds) in config.columns.all() {
        let Some((_, kind, is_filled)) = there.iter().find(|(there, ..)| there == name) else {
            found.push(error(format!("table {table} has no column {name} (columns.{key})"), DDL));
            continue;
        };
        let fits = match holds {
            Holds::Number => matches!(kind.as_str(), "bigint" | "integer" | "smallint"),
            Holds::Truth => kind == "boolean",
            Holds::Instant => kind.starts_with("timestamp"),
            Holds::Text => kind == "text" || kind.starts_with("character varying"),
            Holds::Anything => true,
        };
        if !fits {
            let what = format!("column {name} of table {table} is of type {kind}");
            found.push(error(what, format!("columns.{key} must name a column that holds a {holds:?}").to_lowercase()));
        }
        if key == "published" && !is_filled {
            let what = format!("column {name} of table {table} may be NULL");
            found.push(warning(what, "NULL counts as not published; make it NOT NULL DEFAULT false"));
        }
    }
    for (attribute, name) in &config.attributes {
        if !super::is_path(name) && !there.iter().any(|(there, ..)| there == name) {
            found.push(error(format!("table {table} has no column {name} (attributes.{attribute})"), DDL));
        }
    }
    Ok(())
}

async fn rights(link: &mut Link, config: &OutboxConfig, oid: u32, found: &mut Vec<Finding>) -> Result<(), Failure> {
    const ASK: &str = "SELECT has_table_privilege($1::oid, 'SELECT'), has_table_privilege($1::oid, 'UPDATE'), \
                       relkind::text, current_user::text, pg_is_in_recovery() FROM pg_class WHERE oid = $1::oid";
    let row = link.ask_one("read the rights", ASK, &[&oid]).await?;
    let (table, user): (_, String) = (&config.table, row.get(3));
    for (number, right) in [(0, "SELECT"), (1, "UPDATE")] {
        if !row.get::<_, bool>(number) {
            let mend = format!("GRANT SELECT, UPDATE ON {} TO {user}", Table::new(config).name());
            found.push(error(format!("role {user} has no right to {right} table {table}"), mend));
        }
    }
    let kind: String = row.get(2);
    if kind != "r" && kind != "p" {
        found.push(error(format!("{table} is no table (kind {kind})"), "name the table itself"));
    }
    if row.get::<_, bool>(4) {
        found.push(error("the server is a standby and takes no writes".to_owned(), "connect to the primary"));
    }
    Ok(())
}

async fn around(link: &mut Link, config: &OutboxConfig, oid: u32, found: &mut Vec<Finding>) -> Result<(), Failure> {
    const ASK: &str = "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
        WHERE i.indrelid = $1::oid AND i.indisunique AND i.indnkeyatts = 1 AND a.attname = $2::text), \
        EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = $1::oid AND c.relname = $3::text), \
        EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $1::oid AND tgname = $4::text AND tgenabled <> 'D'), \
        (SELECT max(s.seqcache) FROM pg_sequence s JOIN pg_depend d ON d.objid = s.seqrelid \
         WHERE d.refobjid = $1::oid AND d.deptype IN ('a', 'i')), \
        EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = $1::oid AND c.relname = $5::text)";
    let table = Table::new(config);
    let event_id = &config.columns.event_id;
    let (pending, trigger, failed) = (table.pending_index(), table.trigger(), table.failed_index());
    let row = link.ask_one("read the indexes", ASK, &[&oid, event_id, &pending, &trigger, &failed]).await?;
    if !row.get::<_, bool>(0) {
        let what = format!("column {event_id} of table {} is not unique", config.table);
        found.push(warning(what, "two rows with one event id are one event: only the first is published"));
    }
    for (number, index) in [(1, &pending), (4, &failed)] {
        if !row.get::<_, bool>(number) {
            let what = format!("there is no index {index}: every look reads the whole table");
            found.push(warning(what, DDL));
        }
    }
    if config.notify.on().is_some() && !row.get::<_, bool>(2) {
        let what = format!("there is no trigger {trigger}: new rows wait for the next poll");
        found.push(warning(what, DDL));
    }
    if row.get::<_, Option<i64>>(3).is_some_and(|cache| cache > 1) {
        let what = format!("the sequence of table {} hands out numbers in blocks", config.table);
        let mend = "order per aggregate is the order of ids: ALTER SEQUENCE … CACHE 1";
        found.push(warning(what, mend));
    }
    Ok(())
}

/// Counts what is not published.
pub(super) async fn figures(link: &mut Link, table: &Table<'_>) -> Result<Figures, Failure> {
    let row = link.ask_one("count the backlog", &table.figures(), &[]).await?;
    let age: Option<f64> = row.get(3);
    Ok(Figures {
        backlog: row.get(0),
        backing_off: row.get(1),
        parked: row.get(2),
        oldest_age_seconds: age.map(|age| age.max(0.0)),
    })
}

/// Looks at everything.
pub(super) async fn survey(link: &mut Link, config: &OutboxConfig) -> Result<Survey, Failure> {
    let table = Table::new(config);
    let findings = findings(link, config).await?;
    let mut survey = Survey { table: config.table.clone(), findings, figures: None, relay: false, failed: Vec::new() };
    if survey.findings.iter().any(|finding| finding.level == "error") {
        return Ok(survey);
    }
    survey.figures = Some(figures(link, &table).await?);
    if let Some(oid) = oid(link, &table).await? {
        const ASK: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted \
            AND database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) \
            AND classid = $1::bigint::oid AND objid = $2::oid)";
        survey.relay = link.ask_one("look for a relay", ASK, &[&i64::from(LOCK), &oid]).await?.get(0);
    }
    let failed = link.prepare("read failed rows", &table.failed(), &[Type::INT8]).await?;
    let rows = link.ask("read failed rows", &failed, &[&FAILED_SHOWN]).await?;
    survey.failed = rows
        .iter()
        .map(|row| {
            let is_parked: bool = row.get(3);
            FailedRow {
                id: row.get(0),
                event_id: row.get(1),
                attempts: row.get(2),
                state: if is_parked { "parked" } else { "backing off" },
                next_attempt_at: row.get::<_, Option<String>>(4).filter(|_| !is_parked),
                error_message: row.get(5),
            }
        })
        .collect();
    Ok(survey)
}

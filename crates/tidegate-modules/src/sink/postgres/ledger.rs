//! The ledger table: its SQL, and what a table must have to serve as one.

use crate::sql::{is_table, quoted, quoted_table};

/// What makes two entries of a group the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The event's id and source, as everywhere in a node.
    Event,
    /// The id alone, as in ledgers that other programs write too. Ids must be unique over all sources, as UUIDs are.
    Id,
}

impl Key {
    /// Returns the columns of the key.
    pub(super) fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Event => &["event_id", "event_source", "consumer_group"],
            Self::Id => &["event_id", "consumer_group"],
        }
    }
}

/// Returns SQL that makes a ledger table and the function that cleans it; it may be run again. None when the table's name
/// is none.
pub fn ddl(table: &str, key: Key) -> Option<String> {
    if !is_table(table) {
        return None;
    }
    let (schema, bare) = table.split_once('.').map_or((None, table), |(schema, bare)| (Some(schema), bare));
    let name = quoted_table(table);
    let in_schema =
        |name: &str| schema.map_or_else(|| quoted(name), |schema| format!("{}.{}", quoted(schema), quoted(name)));
    let function = in_schema(&format!("cleanup_{bare}"));
    let make_schema =
        schema.map(|schema| format!("CREATE SCHEMA IF NOT EXISTS {};\n", quoted(schema))).unwrap_or_default();
    let source = match key {
        Key::Event => "    event_source text NOT NULL,\n",
        Key::Id => "",
    };
    let (key, index) = (key.columns().join(", "), quoted(&format!("{bare}_processed_at")));
    Some(format!(
        "-- What groups have done: each effect and its entry are one transaction. May be run again.\n\
         BEGIN;\n\
         {make_schema}\
         CREATE TABLE IF NOT EXISTS {name} (\n    \
             event_id varchar(255) NOT NULL,\n\
         {source}    \
             consumer_group varchar(255) NOT NULL,\n    \
             event_type varchar(255) NOT NULL,\n    \
             processed_at timestamptz NOT NULL DEFAULT now(),\n    \
             processing_result varchar(16) NOT NULL DEFAULT 'success'\n        \
                 CHECK (processing_result IN ('success', 'failure', 'skipped')),\n    \
             created_at timestamptz NOT NULL DEFAULT now(),\n    \
             PRIMARY KEY ({key})\n\
         );\n\
         CREATE INDEX IF NOT EXISTS {index} ON {name} (processed_at);\n\
         CREATE OR REPLACE FUNCTION {function}(keep interval DEFAULT '30 days') RETURNS bigint LANGUAGE sql AS $cleanup$\n    \
             WITH gone AS (DELETE FROM {name} WHERE processed_at < now() - keep RETURNING 1) SELECT count(*) FROM gone;\n\
         $cleanup$;\n\
         COMMIT;\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_what_was_asked_for() {
        assert!(ddl("a.b.c", Key::Event).is_none() && ddl("", Key::Id).is_none());
        let sql = ddl("identity.event_ledger", Key::Id).unwrap();
        assert!(sql.contains("PRIMARY KEY (event_id, consumer_group)") && !sql.contains("event_source"), "{sql}");
        assert!(sql.contains("FUNCTION \"identity\".\"cleanup_event_ledger\""), "{sql}");
    }
}

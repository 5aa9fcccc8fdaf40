//! The tables and functions of a store, and how they get into a database.
//!
//! Functions carry in their names a number made from their text, so that programs of several versions work side by side.

use std::{hash::Hasher as _, sync::LazyLock};

use siphasher::sip::SipHasher13;

/// Number of the layout of the tables.
pub(crate) const FORMAT: i32 = 2;
/// How the names of functions begin in the files.
const MARK: &str = "tg_";

const TABLES: &str = include_str!("sql/tables.sql");
const FUNCTIONS: [&str; 8] = [
    include_str!("sql/common.sql"),
    include_str!("sql/append.sql"),
    include_str!("sql/take.sql"),
    include_str!("sql/settle.sql"),
    include_str!("sql/declare.sql"),
    include_str!("sql/dead.sql"),
    include_str!("sql/upkeep.sql"),
    include_str!("sql/look.sql"),
];

/// How the names of this program's functions begin.
static NAMES: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = SipHasher13::new();
    for text in FUNCTIONS {
        hasher.write(text.as_bytes());
    }
    format!("tg{:08x}_", hasher.finish() & 0xffff_ffff)
});

/// Writes a statement with the names of this program's functions.
pub(crate) fn text(statement: &str) -> String {
    statement.replace(MARK, &NAMES)
}

/// Tells by one row whether schema, tables and functions are there, and which format the tables have.
pub(crate) const LOOK: &str = "SELECT to_regnamespace($1) IS NOT NULL, to_regclass($1 || '.meta') IS NOT NULL, \
     EXISTS (SELECT 1 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
     WHERE n.nspname = $1 AND p.proname = 'tg_places')";

/// The tables of a new store, with the key of its fingerprints.
pub(crate) fn tables(key: u128) -> String {
    format!("{TABLES}\nINSERT INTO meta (format, key) VALUES ({FORMAT}, decode('{key:032x}', 'hex'));\n")
}

/// The functions of this program. The last one is the one that [`LOOK`] looks for.
pub(crate) fn functions() -> String {
    text(&FUNCTIONS.concat())
}

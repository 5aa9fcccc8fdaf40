//! Names in statements. **Invariant:** names come into a statement quoted, and values only as parameters.

/// What a name must be.
pub(crate) const NAME: &str = "must be a name of 1 to 63 bytes without control characters";
/// What the name of a table must be.
pub(crate) const TABLE: &str = "must be a table, or a schema, a dot and a table";

pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 63 && !name.chars().any(char::is_control)
}

/// Tells whether a text names a table, with or without its schema.
pub(crate) fn is_table(table: &str) -> bool {
    table.split('.').count() <= 2 && table.split('.').all(is_name)
}

pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table as it stands in statements.
pub(crate) fn quoted_table(table: &str) -> String {
    table.split('.').map(quoted).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_checked() {
        assert_eq!(quoted_table("a.b\"c"), "\"a\".\"b\"\"c\"");
        let long = "x".repeat(64);
        for (table, fits) in
            [("t", true), ("s.t", true), ("", false), ("a.b.c", false), ("s.", false), ("a\nb", false), (&long, false)]
        {
            assert_eq!(is_table(table), fits, "{table:?}");
        }
    }
}

//! Pages of the reference, generated from code.

use schemars::Schema;

/// Returns a Markdown page of all settings of a schema.
pub fn settings_page(title: &str, schema: &Schema) -> String {
    format!("# {title}\n\n{}\n", schema.as_value())
}

/// Returns the Markdown page of all limits.
pub fn limits_page() -> String {
    String::new()
}

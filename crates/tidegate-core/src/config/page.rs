//! Pages of the reference, generated from code.

/// Placeholder.
pub fn settings_page() -> String { String::new() }
/// Placeholder.
pub fn limits_page() -> String { String::new() }

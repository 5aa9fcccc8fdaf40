//! What is wrong with a document: where, which key, and what was probably meant.

use std::fmt;

use crate::fault::{Fault, FaultKind, Origin, Retry};

/// One step of a path into a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A key of a mapping.
    Key(String),
    /// An item of a list, from 0.
    Item(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(item: usize) -> Self {
        Self::Item(item)
    }
}

/// A place in the text; lines and columns count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column in characters.
    pub column: usize,
}

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The document: a file name as the user wrote it.
    pub origin: String,
    /// Where in the text.
    pub place: Place,
    /// Dotted path of the key, such as `groups.deliver.retry`; empty for the document itself.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What was probably meant.
    pub nearest: Option<String>,
    /// What would have been right.
    pub known: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.origin, self.place.line, self.place.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean {nearest:?}?")?;
        }
        if !self.known.is_empty() {
            write!(f, " (known: {})", self.known.join(", "))?;
        }
        Ok(())
    }
}

/// Longest path and longest message that are shown.
const SHOWN_CHARS_MAX: usize = 400;

/// Everything that is wrong with a document, in the order of its lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(Vec<ConfigError>);

impl Errors {
    pub(super) fn new(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| (error.place.line, error.place.column));
        Self(errors)
    }

    /// Cuts what repeats long parts of the document.
    pub(super) fn shortened(mut self) -> Self {
        for text in self.0.iter_mut().flat_map(|error| [&mut error.path, &mut error.message]) {
            if let Some((end, _)) = text.char_indices().nth(SHOWN_CHARS_MAX) {
                text.truncate(end);
                text.push('…');
            }
        }
        self
    }

    /// Returns them.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl From<Errors> for Fault {
    fn from(errors: Errors) -> Self {
        Self::new(FaultKind::Invalid, Origin::Caller, Retry::Never, errors.to_string())
    }
}

/// Writes a path as people write it: `listeners[0].bind`.
pub(super) fn dotted(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Item(item) => text.push_str(&format!("[{item}]")),
        }
    }
    text
}

/// Longest text whose nearest neighbour is looked for; the comparison takes time in proportion to the product of lengths.
const COMPARED_MAX: usize = 128;

/// Returns the known name that was probably meant by `given`; none when nothing is near.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if given.len() > COMPARED_MAX {
        return None;
    }
    let near = |name: &&str| {
        let distance = strsim::damerau_levenshtein(given, name);
        // A third of the letters may be wrong, rounded up so that it is one in the shortest names.
        let allowed = given.chars().count().max(name.chars().count()).div_ceil(3);
        (distance <= allowed).then_some(distance)
    };
    known.into_iter().filter_map(|name| near(&name).map(|distance| (distance, name))).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        let known = ["retry", "timeout", "workers", "from"];
        assert_eq!(nearest("retyr", known), Some("retry"));
        assert_eq!(nearest("worker", known), Some("workers"));
        assert_eq!(nearest("form", known), Some("from"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest(&"x".repeat(5000), known), None);
    }

    #[test]
    fn errors_say_where_and_what_was_meant() {
        let mut error = ConfigError {
            origin: "tidegate.yaml".to_owned(),
            place: Place { line: 12, column: 5 },
            path: dotted(&["groups".into(), "deliver".into(), "retyr".into()]),
            message: "unknown key".to_owned(),
            nearest: Some("retry".to_owned()),
            known: vec!["from".to_owned(), "retry".to_owned()],
        };
        assert_eq!(
            error.to_string(),
            "tidegate.yaml:12:5: groups.deliver.retyr: unknown key; did you mean \"retry\"? (known: from, retry)"
        );
        error = ConfigError { path: String::new(), nearest: None, known: Vec::new(), ..error };
        assert_eq!(error.to_string(), "tidegate.yaml:12:5: unknown key");
        assert_eq!(dotted(&["listeners".into(), 0.into(), "bind".into()]), "listeners[0].bind");
    }
}

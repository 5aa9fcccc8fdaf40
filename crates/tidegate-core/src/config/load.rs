//! Loads a document: reads it, notes every mistake, checks the relations between fields.

use std::cell::RefCell;

use serde::de::DeserializeOwned;

use super::{
    check::{Check, Spot},
    decode::{DecodeError, Decoder, Session, What},
    error::{ConfigError, Errors, Step, dotted, nearest},
    reference::Environment,
    tree::{self, Node},
};
use crate::limits;

/// Loads a document of type `T` from YAML; `origin` is its name in errors. JSON is YAML.
pub fn load<T: DeserializeOwned + Check>(text: &str, origin: &str, environment: &dyn Environment) -> Result<T, Errors> {
    let mut root = tree::parse(text).map_err(|errors| {
        let error = |error: tree::FormError| ConfigError {
            origin: origin.to_owned(),
            place: error.place,
            path: dotted(&error.path),
            message: error.message,
            nearest: None,
            known: Vec::new(),
        };
        Errors::new(errors.into_iter().take(limits::CONFIG_ERRORS_MAX).map(error).collect()).shortened()
    })?;
    let session = Session { environment, values: RefCell::default() };
    let mut mistakes = Mistakes { origin, errors: Vec::new(), missing: Vec::new() };
    let read: Option<T> = mistakes.read(&mut root, &session);
    if let (Some(value), true) = (read, mistakes.errors.is_empty()) {
        let findings = RefCell::default();
        value.check(&Spot::root(&findings));
        for finding in findings.into_inner() {
            mistakes.errors.push(ConfigError {
                origin: origin.to_owned(),
                place: root.nearest(&finding.path),
                path: dotted(&finding.path),
                message: finding.message,
                nearest: finding.nearest,
                known: finding.known,
            });
        }
        if mistakes.errors.is_empty() {
            return Ok(value);
        }
    }
    Err(Errors::new(mistakes.veiled(&session)).shortened())
}

struct Mistakes<'o> {
    origin: &'o str,
    errors: Vec<ConfigError>,
    /// Paths of what was taken out: that it is missing then is no second mistake.
    missing: Vec<Vec<Step>>,
}

impl Mistakes<'_> {
    /// Reads until it goes well, taking out what is wrong; none when nothing is left to read.
    fn read<T: DeserializeOwned>(&mut self, root: &mut Node, session: &Session<'_>) -> Option<T> {
        while !root.dropped && self.errors.len() < limits::CONFIG_ERRORS_MAX {
            let error = match T::deserialize(Decoder::new(root, session)) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let path = self.note(error, root);
            if !root.drop_at(&path) {
                return None;
            }
            self.missing.push(path);
        }
        None
    }

    /// Notes a mistake and returns the path of what must be taken out.
    fn note(&mut self, mut error: DecodeError, root: &Node) -> Vec<Step> {
        let whole = error.path();
        // A form that is wrong as a whole may be so because of a part that was taken out of it.
        if matches!(error.what, What::Wrong(_)) && self.missing.iter().any(|part| part.starts_with(&whole)) {
            return whole;
        }
        let mut path = whole.clone();
        let (message, known) = match error.what {
            What::UnknownKey { known, .. } => ("unknown key".to_owned(), known),
            What::UnknownWord { word, known } => (format!("unknown word {word:?}"), known),
            What::Wrong(message) => (message, &[][..]),
            What::Missing(key) => {
                path.push(key.into());
                if self.missing.contains(&path) {
                    return whole;
                }
                ("this key is missing".to_owned(), &[][..])
            }
        };
        let given = match path.last() {
            _ if message.starts_with("unknown word") => message.split('"').nth(1).unwrap_or_default(),
            Some(Step::Key(key)) => key,
            Some(Step::Item(_)) | None => "",
        };
        let nearest = nearest(given, known.iter().copied());
        if let (Some(nearest), Some((_, parent))) = (nearest, path.split_last()) {
            // A required key that was only misspelt is not missing too.
            self.missing.push(parent.iter().cloned().chain([nearest.into()]).collect());
        }
        self.errors.push(ConfigError {
            origin: self.origin.to_owned(),
            place: error.place.unwrap_or(root.place),
            path: dotted(&path),
            nearest: nearest.map(str::to_owned),
            message,
            known: known.iter().map(|&name| name.to_owned()).collect(),
        });
        whole
    }

    /// Returns the mistakes without the values of references in them.
    fn veiled(self, session: &Session<'_>) -> Vec<ConfigError> {
        let values = session.values.borrow();
        let mut errors = self.errors;
        for error in &mut errors {
            // Shorter values would hit innocent words; where they were read they are veiled already.
            for value in values.iter().filter(|value| value.len() >= 6) {
                let quoted = format!("{value:?}");
                let quoted = quoted.trim_matches('"');
                error.message = error.message.replace(value.as_str(), "***").replace(quoted, "***");
            }
        }
        errors
    }
}

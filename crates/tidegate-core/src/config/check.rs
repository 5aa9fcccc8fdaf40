//! Checks of what a type alone cannot say: relations between fields, names that must exist.

use std::cell::RefCell;

use super::error::{Step, nearest};
use crate::limits;

/// Most known names that are listed when one is unknown.
const KNOWN_MAX: usize = 30;
/// Most known names among which the nearest is looked for.
const COMPARED_MAX: usize = 1000;

/// A document, or a part of one, that checks the relations between its fields.
pub trait Check {
    /// Reports everything that is wrong; `here` is where this part stands in its document.
    fn check(&self, here: &Spot<'_>) {
        drop(here.clone());
    }
}

/// Something that was found to be wrong.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) path: Vec<Step>,
    pub(super) message: String,
    pub(super) nearest: Option<String>,
    pub(super) known: Vec<String>,
}

/// A place in a document to which a check can pin an error.
#[derive(Debug, Clone)]
pub struct Spot<'a> {
    findings: &'a RefCell<Vec<Finding>>,
    path: Vec<Step>,
}

impl<'a> Spot<'a> {
    pub(super) fn root(findings: &'a RefCell<Vec<Finding>>) -> Self {
        Self { findings, path: Vec::new() }
    }

    /// Returns the place of a key or an item below this one.
    #[must_use]
    pub fn at(&self, step: impl Into<Step>) -> Self {
        let mut path = self.path.clone();
        path.push(step.into());
        Self { findings: self.findings, path }
    }

    /// Reports that something is wrong here.
    pub fn error(&self, message: impl Into<String>) {
        self.push(message.into(), None, Vec::new());
    }

    /// Reports an error unless `fine`.
    pub fn require(&self, fine: bool, message: impl FnOnce() -> String) {
        if !fine {
            self.error(message());
        }
    }

    /// Reports that the name written here is none of the known ones, and which was probably meant.
    pub fn unknown<'n>(&self, what: &str, given: &str, known: impl IntoIterator<Item = &'n str>) {
        if self.is_enough() {
            return;
        }
        let known: Vec<&str> = known.into_iter().collect();
        let nearest = nearest(given, known.iter().take(COMPARED_MAX).copied()).map(str::to_owned);
        // A list that nobody reads to its end is no help.
        let listed = if known.len() <= KNOWN_MAX { known.into_iter().map(str::to_owned).collect() } else { Vec::new() };
        self.push(format!("there is no {what} {given:?}"), nearest, listed);
    }

    /// Tells whether so much is wrong already that more would not be shown.
    fn is_enough(&self) -> bool {
        self.findings.borrow().len() >= limits::CONFIG_ERRORS_MAX
    }

    fn push(&self, message: String, nearest: Option<String>, known: Vec<String>) {
        if self.is_enough() {
            return;
        }
        self.findings.borrow_mut().push(Finding { path: self.path.clone(), message, nearest, known });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_carry_their_path() {
        let findings = RefCell::default();
        let here = Spot::root(&findings).at("groups").at("a.b");
        here.at("from").unknown("stream", "order", ["orders", "mail"]);
        here.require(true, || "not seen".to_owned());
        here.at("hosts").at(1).require(false, || "seen".to_owned());
        let found = findings.into_inner();
        assert_eq!(found[0].path, ["groups".into(), "a.b".into(), "from".into()]);
        assert_eq!(
            (found[0].message.as_str(), found[0].nearest.as_deref()),
            ("there is no stream \"order\"", Some("orders"))
        );
        assert_eq!(found[1].path.last(), Some(&Step::Item(1)));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn findings_and_lists_have_an_end() {
        let findings = RefCell::default();
        let names: Vec<String> = (0..1000).map(|number| format!("stream-{number}")).collect();
        for _ in 0..1000 {
            Spot::root(&findings).unknown("stream", "stream-1x", names.iter().map(String::as_str));
        }
        let found = findings.into_inner();
        assert_eq!(found.len(), limits::CONFIG_ERRORS_MAX);
        assert_eq!((found[0].nearest.as_deref(), found[0].known.len()), (Some("stream-1"), 0));
    }
}

//! Checks of what a type alone cannot say: relations between fields, names that must exist.

use std::cell::RefCell;

use super::error::{Step, nearest};

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
        let known: Vec<&str> = known.into_iter().collect();
        let nearest = nearest(given, known.iter().copied()).map(str::to_owned);
        let known = known.into_iter().map(str::to_owned).collect();
        self.push(format!("there is no {what} {given:?}"), nearest, known);
    }

    fn push(&self, message: String, nearest: Option<String>, known: Vec<String>) {
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
}

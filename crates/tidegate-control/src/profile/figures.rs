//! Figures of a profile that are no metric of the node under another name: counted up once, shown as JSON and as text.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use serde_json::{Map, Value};
use tidegate_core::{fault::Result, names::GroupName};

use crate::api::Api;

/// A figure of a profile.
#[derive(Debug)]
pub struct FigureSpec {
    /// Name, in JSON and as a metric.
    pub name: &'static str,
    /// Label under which it is split; none when it is one number.
    pub label: Option<&'static str>,
    /// What it says.
    pub help: &'static str,
    /// What JSON shows of a figure that is split.
    pub(crate) fold: Fold,
}

/// What JSON shows of a figure that is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fold {
    /// An object with each part.
    Each,
    /// The largest part.
    Max,
}

/// A figure with its values.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) spec: &'static FigureSpec,
    /// Parts by the value of the label; one with an empty name when there is no label.
    pub(crate) parts: BTreeMap<String, f64>,
}

/// What a profile counts up when it is asked.
pub(crate) type Counting = Pin<Box<dyn Future<Output = Result<Vec<Figure>>> + Send>>;

/// Counts up the figures of a profile, all or those of a group.
pub(crate) type Count = fn(Arc<Api>, Option<GroupName>) -> Counting;

impl FigureSpec {
    /// Returns the type in the text format. An old counter without the ending has none: its name must stay what it was.
    pub(crate) fn kind(&self) -> &'static str {
        match self.name {
            name if name.ends_with("_total") => "counter",
            name if name.ends_with("_success") || name.ends_with("_failure") => "untyped",
            _ => "gauge",
        }
    }

    /// One number.
    pub(crate) fn one(&'static self, value: f64) -> Figure {
        Figure { spec: self, parts: [(String::new(), value)].into() }
    }

    /// Parts by the value of the label.
    pub(crate) fn split(&'static self, parts: impl IntoIterator<Item = (String, f64)>) -> Figure {
        Figure { spec: self, parts: parts.into_iter().collect() }
    }
}

impl Figure {
    fn json(&self) -> Value {
        match (self.spec.label, self.spec.fold) {
            (Some(_), Fold::Each) => {
                self.parts.iter().map(|(name, value)| (name.clone(), number(*value))).collect::<Map<_, _>>().into()
            }
            (Some(_), Fold::Max) => number(self.parts.values().copied().fold(0.0, f64::max)),
            (None, _) => number(self.parts.values().sum()),
        }
    }
}

/// A whole number is written without a point.
fn number(value: f64) -> Value {
    const EXACT: f64 = (1_u64 << 53) as f64;
    if value.fract() == 0.0 && (0.0..EXACT).contains(&value) { Value::from(value as u64) } else { Value::from(value) }
}

/// Shows figures as the members of an object.
pub(crate) fn members(figures: &[Figure]) -> Map<String, Value> {
    figures.iter().map(|figure| (figure.spec.name.to_owned(), figure.json())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    static SPLIT: FigureSpec = FigureSpec { name: "a_total", label: Some("topic"), help: "A.", fold: Fold::Each };
    static LAG: FigureSpec = FigureSpec { name: "lag_seconds", label: Some("group"), help: "Lag.", fold: Fold::Max };
    static RATE: FigureSpec = FigureSpec { name: "rate", label: None, help: "Rate.", fold: Fold::Each };
    static DONE: FigureSpec = FigureSpec { name: "done_success", label: None, help: "Done.", fold: Fold::Each };

    #[test]
    fn figures_are_objects_numbers_or_the_largest() {
        let parts = || [("x".to_owned(), 2.0), ("y".to_owned(), 3.5)];
        let all = [SPLIT.split(parts()), LAG.split(parts()), RATE.one(99.36), DONE.one(1247.0)];
        let shown = Value::from(members(&all));
        let expect =
            serde_json::json!({"a_total": {"x": 2, "y": 3.5}, "lag_seconds": 3.5, "rate": 99.36, "done_success": 1247});
        assert_eq!(shown, expect);
        assert_eq!(members(&[LAG.split([])])["lag_seconds"], 0);
        assert_eq!([SPLIT.kind(), LAG.kind(), DONE.kind()], ["counter", "gauge", "untyped"]);
    }
}

//! A metric under another name: some of its samples, with other labels, the rest of the labels summed up.

use super::catalogue::MetricSpec;

/// Another name for a metric.
#[derive(Debug)]
pub(crate) struct Alias {
    /// The other name.
    pub(crate) name: &'static str,
    /// The metric.
    pub(crate) of: &'static MetricSpec,
    /// The labels that stay: as they are called here, and as the metric calls them. Samples that differ in other labels
    /// only are summed up.
    pub(crate) labels: &'static [(&'static str, &'static str)],
    /// Labels of the metric with the values that count; a label that is not named may have any.
    pub(crate) only: &'static [(&'static str, &'static str)],
}

/// A sample of a metric that has another name.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) of: &'static MetricSpec,
    pub(super) labels: Vec<String>,
    pub(super) suffix: &'static str,
    pub(super) bound: Option<String>,
    pub(super) value: f64,
}

/// A line of an alias: suffix, bound of a bucket, and the sum.
type Line = (&'static str, Option<String>, f64);

impl Alias {
    /// Returns the lines for each set of labels, in the order in which the metric has them.
    pub(super) fn sums(&self, kept: &[Kept]) -> Vec<(Vec<String>, Vec<Line>)> {
        let mut sums: Vec<(Vec<String>, Vec<Line>)> = Vec::new();
        for sample in kept.iter().filter(|sample| sample.of.name == self.of.name && self.counts(sample)) {
            let labels: Vec<String> = self.labels.iter().map(|(_, own)| sample.label(own).to_owned()).collect();
            if sums.iter().all(|(other, _)| *other != labels) {
                sums.push((labels.clone(), Vec::new()));
            }
            let Some((_, lines)) = sums.iter_mut().find(|(other, _)| *other == labels) else { continue };
            match lines.iter_mut().find(|(suffix, bound, _)| (*suffix, bound) == (sample.suffix, &sample.bound)) {
                Some((_, _, sum)) => *sum += sample.value,
                None => lines.push((sample.suffix, sample.bound.clone(), sample.value)),
            }
        }
        sums
    }

    fn counts(&self, sample: &Kept) -> bool {
        self.only.iter().all(|(label, _)| {
            let mut values = self.only.iter().filter(|(other, _)| other == label).map(|(_, value)| value);
            values.any(|value| *value == sample.label(label))
        })
    }
}

impl Kept {
    fn label(&self, name: &str) -> &str {
        let place = self.of.labels.iter().position(|label| *label == name);
        place.and_then(|place| self.labels.get(place)).map_or("", String::as_str)
    }
}

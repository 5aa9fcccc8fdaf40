//! What was measured, run by run, and how it compares: medians, ratios within a run, goals.

use crate::ui::{self, short};

/// Series of measurements, one value for each run, in the order in which they were first seen.
#[derive(Debug, Default)]
pub(crate) struct Board {
    series: Vec<Series>,
    goals: Vec<Goal>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Series {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
}

/// Which side of a goal is the good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sense {
    AtLeast,
    AtMost,
}

/// Probe rates between which a ratio to the probe says something: the goals were set at some 9000 syncs a second. On a
/// slower disk each sync carries more and the ratio flatters; a faster "disk" is memory.
const FIT: std::ops::Range<f64> = 4_500.0..18_000.0;

/// Something that the measurements are held against.
#[derive(Debug)]
struct Goal {
    work: String,
    sense: Sense,
    goal: f64,
    stretch: Option<f64>,
    unit: &'static str,
    measured: Option<f64>,
    /// The series that it is a ratio to.
    to: Option<String>,
}

impl Board {
    /// Adds one value of a series.
    pub(crate) fn add(&mut self, name: &str, unit: &'static str, value: f64) {
        match self.series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.values.push(value),
            None => self.series.push(Series { name: name.to_owned(), unit, values: vec![value] }),
        }
    }

    /// Adds, for each run, by how many percent one series is more than another (`sign` 1) or less (`sign` -1).
    pub(crate) fn add_change(&mut self, name: &str, of: &str, from: &str, sign: f64) {
        let pairs = self.values(of).iter().zip(self.values(from)).filter(|(_, from)| **from > 0.0);
        let changes: Vec<f64> = pairs.map(|(of, from)| sign * 100.0 * (of / from - 1.0)).collect();
        changes.into_iter().for_each(|change| self.add(name, "%", change));
    }

    /// Adds, for each run, the product of two series and a factor.
    pub(crate) fn add_product(&mut self, name: &str, unit: &'static str, one: &str, other: &str, factor: f64) {
        let pairs = self.values(one).iter().zip(self.values(other));
        let products: Vec<f64> = pairs.map(|(one, other)| one * other * factor).collect();
        products.into_iter().for_each(|product| self.add(name, unit, product));
    }

    /// Adds a remark that is shown below the tables, once.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    fn values(&self, name: &str) -> &[f64] {
        self.series.iter().find(|series| series.name == name).map_or(&[], |series| &series.values)
    }

    /// Makes the newest value of a series the mean of it and another.
    pub(crate) fn average_last(&mut self, name: &str, value: f64) {
        let series = self.series.iter_mut().find(|series| series.name == name);
        if let Some(last) = series.and_then(|series| series.values.last_mut()) {
            *last = f64::midpoint(*last, value);
        }
    }

    /// Returns the newest value of a series.
    pub(crate) fn last(&self, name: &str) -> Option<f64> {
        self.values(name).last().copied()
    }

    /// Returns the median of a series.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        median(self.values(name))
    }

    /// Returns the median of the ratios of two series, run by run.
    pub(crate) fn ratio(&self, of: &str, to: &str) -> Option<f64> {
        let pairs = self.values(of).iter().zip(self.values(to)).filter(|(_, to)| **to > 0.0);
        median(&pairs.map(|(of, to)| of / to).collect::<Vec<_>>())
    }

    /// Holds a ratio of two series against a goal: "at least so many times".
    pub(crate) fn expect_ratio(&mut self, work: &str, of: &str, to: &str, goal: f64, stretch: Option<f64>) {
        let measured = self.ratio(of, to);
        let work = format!("{work} / {to}");
        let to = Some(to.to_owned());
        self.goals.push(Goal { work, sense: Sense::AtLeast, goal, stretch, unit: "×", measured, to });
    }

    /// Holds the median of a series against a goal.
    pub(crate) fn expect(&mut self, work: &str, of: &str, sense: Sense, goal: f64, stretch: Option<f64>) {
        let measured = self.median(of);
        let unit = self.series.iter().find(|series| series.name == of).map_or("", |series| series.unit);
        self.goals.push(Goal { work: work.to_owned(), sense, goal, stretch, unit, measured, to: None });
    }

    /// Prints everything; `probe` names the series that all others of its unit are shown as a ratio to.
    pub(crate) fn print(&self, probe: &str) {
        let unit = self.series.iter().find(|series| series.name == probe).map_or("", |series| series.unit);
        let mut rows = vec![["measured", "unit", "median", &format!("/ {probe}"), "runs"].map(str::to_owned).to_vec()];
        for series in &self.series {
            let comparable = series.unit == unit && series.name != probe;
            let ratio = self.ratio(&series.name, probe).filter(|_| comparable);
            rows.push(vec![
                series.name.clone(),
                series.unit.to_owned(),
                median(&series.values).map(short).unwrap_or_default(),
                ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
                series.values.iter().map(|value| short(*value)).collect::<Vec<_>>().join(" "),
            ]);
        }
        ui::line("");
        ui::table(&rows);
        if !self.goals.is_empty() {
            let mut rows = vec![["goal for", "goal", "stretch", "measured", "met?"].map(str::to_owned).to_vec()];
            let unfit = self.median(probe).is_some_and(|rate| !FIT.contains(&rate));
            rows.extend(self.goals.iter().map(|goal| goal.row(unfit && goal.to.as_deref() == Some(probe))));
            ui::line("");
            ui::table(&rows);
        }
        if !self.notes.is_empty() {
            ui::line("");
        }
        for note in &self.notes {
            ui::line(format!("- {note}"));
        }
    }
}

impl Goal {
    fn meets(&self, measured: f64, bound: f64) -> bool {
        match self.sense {
            Sense::AtLeast => measured >= bound,
            Sense::AtMost => measured <= bound,
        }
    }

    fn row(&self, unfit: bool) -> Vec<String> {
        let sign = if self.sense == Sense::AtLeast { "≥" } else { "≤" };
        let bound = |bound: f64| format!("{sign} {} {}", short(bound), self.unit);
        let verdict = match self.measured {
            None => "not measured",
            Some(_) if unfit => "disk unfit",
            Some(measured) if self.stretch.is_some_and(|stretch| self.meets(measured, stretch)) => "stretch",
            Some(measured) if self.meets(measured, self.goal) => "yes",
            Some(_) => "NO",
        };
        vec![
            self.work.clone(),
            bound(self.goal),
            self.stretch.map(bound).unwrap_or_default(),
            self.measured.map(|measured| format!("{} {}", short(measured), self.unit)).unwrap_or_default(),
            verdict.to_owned(),
        ]
    }
}

/// Returns the middle value, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[sorted.len() / 2 - 1], upper) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_run() {
        let mut board = Board::default();
        for (probe, work) in [(10.0, 20.0), (1.0, 4.0), (100.0, 300.0)] {
            board.add("probe", "1/s", probe);
            board.add("work", "1/s", work);
        }
        assert_eq!(board.median("work"), Some(20.0));
        assert_eq!(board.ratio("work", "probe"), Some(3.0));
        assert_eq!(board.ratio("work", "missing"), None);
        board.expect_ratio("work", "work", "probe", 3.0, Some(4.0));
        board.expect("work", "work", Sense::AtMost, 19.0, None);
        let verdicts: Vec<String> = board.goals.iter().map(|goal| goal.row(false)[4].clone()).collect();
        assert_eq!(verdicts, ["yes", "NO"]);
        assert_eq!(board.goals[0].row(true)[4], "disk unfit");
    }

    #[test]
    fn medians_need_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0]), Some(2.0));
    }
}

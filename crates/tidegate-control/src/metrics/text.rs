//! The text format of Prometheus, version 0.0.4.
//!
//! Written by hand: the client libraries write OpenMetrics, in which a counter's name lacks its `_total`, so that the
//! readers of this format see counters without type and help; and their histograms take a lock per observation.

use std::fmt::{Display, Write};

use super::{
    alias::{Alias, Kept},
    catalogue::{MetricKind, MetricSpec},
    counts::Counts,
};
use crate::profile::Figure;

/// Media type of the format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of metrics.
#[derive(Debug, Default)]
pub(crate) struct Page {
    out: String,
    aliases: &'static [Alias],
    /// Samples of metrics that have other names too.
    kept: Vec<Kept>,
}

/// The samples of one metric on a page.
#[derive(Debug)]
pub(crate) struct Family<'a> {
    out: &'a mut String,
    spec: &'static MetricSpec,
    /// Where samples are kept when the metric has another name too.
    kept: Option<&'a mut Vec<Kept>>,
}

impl Page {
    /// Starts a page on which some metrics have other names too.
    pub(crate) fn with(aliases: &'static [Alias]) -> Self {
        Self { aliases, ..Self::default() }
    }

    /// Starts the samples of a metric.
    pub(crate) fn family(&mut self, spec: &'static MetricSpec) -> Family<'_> {
        put(&mut self.out, format_args!("# HELP {} {}\n", spec.name, spec.help));
        put(&mut self.out, format_args!("# TYPE {} {}\n", spec.name, spec.kind.as_str()));
        let has_alias = self.aliases.iter().any(|alias| alias.of.name == spec.name);
        Family { out: &mut self.out, spec, kept: has_alias.then_some(&mut self.kept) }
    }

    /// Returns the page, with the other names and more figures at its end.
    pub(crate) fn finish(mut self, figures: &[Figure]) -> String {
        for alias in self.aliases {
            put(&mut self.out, format_args!("# HELP {} The same as {}.\n", alias.name, alias.of.name));
            put(&mut self.out, format_args!("# TYPE {} {}\n", alias.name, alias.of.kind.as_str()));
            let sums = alias.sums(&self.kept);
            if sums.is_empty() && alias.labels.is_empty() && alias.of.kind != MetricKind::Histogram {
                put(&mut self.out, format_args!("{} 0\n", alias.name));
            }
            for (values, lines) in sums {
                for (suffix, bound, sum) in lines {
                    let names = alias.labels.iter().map(|(name, _)| *name);
                    let labels = names.zip(values.iter().map(String::as_str));
                    line(&mut self.out, (alias.name, suffix), labels, bound.as_deref(), sum);
                }
            }
        }
        for Figure { spec, parts } in figures {
            put(&mut self.out, format_args!("# HELP {} {}\n", spec.name, spec.help));
            put(&mut self.out, format_args!("# TYPE {} {}\n", spec.name, spec.kind()));
            for (part, value) in parts {
                let labels = spec.label.map(|label| (label, part.as_str()));
                line(&mut self.out, (spec.name, ""), labels.into_iter(), None, value);
            }
        }
        self.out
    }
}

impl Family<'_> {
    /// Adds a sample; `labels` are values in the order of the metric's labels.
    pub(crate) fn sample(&mut self, labels: &[&str], value: impl Display) {
        self.line("", labels, None, value);
    }

    /// Adds the samples of a histogram.
    pub(crate) fn histogram(&mut self, labels: &[&str], counts: &Counts) {
        let mut total = 0;
        for (bound, count) in &counts.buckets {
            total += count;
            self.line("_bucket", labels, Some(&bound.to_string()), total);
        }
        total += counts.above;
        self.line("_bucket", labels, Some("+Inf"), total);
        self.line("_sum", labels, None, counts.sum);
        self.line("_count", labels, None, total);
    }

    fn line(&mut self, suffix: &'static str, labels: &[&str], bound: Option<&str>, value: impl Display) {
        debug_assert_eq!(labels.len(), self.spec.labels.len(), "labels of {}", self.spec.name);
        if let Some(kept) = &mut self.kept {
            kept.push(Kept {
                of: self.spec,
                labels: labels.iter().map(|&label| label.to_owned()).collect(),
                suffix,
                bound: bound.map(str::to_owned),
                value: value.to_string().parse().unwrap_or(f64::NAN),
            });
        }
        let named = self.spec.labels.iter().copied().zip(labels.iter().copied());
        line(self.out, (self.spec.name, suffix), named, bound, value);
    }
}

/// Writes one sample.
fn line<'a>(
    out: &mut String,
    (name, suffix): (&str, &str),
    labels: impl Iterator<Item = (&'a str, &'a str)>,
    bound: Option<&'a str>,
    value: impl Display,
) {
    put(out, format_args!("{name}{suffix}"));
    let mut open = '{';
    for (name, value) in labels.chain(bound.map(|bound| ("le", bound))) {
        put(out, format_args!("{open}{name}=\"{}\"", Escaped(value)));
        open = ',';
    }
    if open == ',' {
        out.push('}');
    }
    put(out, format_args!(" {value}\n"));
}

/// Writing to a string cannot fail.
fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    let written = out.write_fmt(text);
    debug_assert!(written.is_ok());
}

struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::catalogue;

    #[test]
    fn samples_are_written_with_their_labels() {
        let mut page = Page::default();
        page.family(&catalogue::UNACCOUNTED).sample(&[], 0);
        page.family(&catalogue::OUTBOUND_REQUESTS).sample(&["a\"b\\\n", "done"], 7);
        let text = page.finish(&[]);
        assert!(
            text.contains("# TYPE tidegate_messages_unaccounted gauge\ntidegate_messages_unaccounted 0\n"),
            "{text}"
        );
        assert!(text.contains("{target=\"a\\\"b\\\\\\n\",result=\"done\"} 7\n"), "{text}");
    }

    #[test]
    fn buckets_are_cumulative_and_end_in_infinity() {
        let mut page = Page::default();
        let counts = Counts { buckets: vec![(0.001, 2), (0.5, 3)], above: 1, sum: 2.5 };
        page.family(&catalogue::RATE_LIMITER_WAIT).histogram(&["t"], &counts);
        let text = page.finish(&[]);
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "tidegate_rate_limiter_wait_seconds_bucket{target=\"t\",le=\"0.001\"} 2",
                "tidegate_rate_limiter_wait_seconds_bucket{target=\"t\",le=\"0.5\"} 5",
                "tidegate_rate_limiter_wait_seconds_bucket{target=\"t\",le=\"+Inf\"} 6",
                "tidegate_rate_limiter_wait_seconds_sum{target=\"t\"} 2.5",
                "tidegate_rate_limiter_wait_seconds_count{target=\"t\"} 6",
            ]
        );
    }
}

//! Pages that are made from the code, and must not be written by hand.

use std::fmt::Write as _;

use tidegate_control::PROFILES;
use tidegate_core::{config::limits_page, notice::Notice};

/// A page: its path from the root of the repository, and its text.
#[derive(Debug)]
pub struct Page {
    /// Path.
    pub path: &'static str,
    /// Text.
    pub text: String,
}

/// Makes all generated pages.
pub fn all() -> Vec<Page> {
    let page = |path, text| Page { path, text };
    vec![
        page("docs/reference/configuration.md", crate::config::reference()),
        page("docs/reference/cli.md", command_line()),
        page("docs/reference/metrics.md", metrics()),
        page("docs/reference/notices.md", notices()),
        page("docs/reference/profiles.md", profiles()),
        page("docs/reference/limits.md", limits_page()),
        page("openapi/tidegate.json", tidegate_control::openapi()),
    ]
}

fn notices() -> String {
    let mut out = String::from(
        "# Notices\n\nGenerated from the code; `cargo xtask docs` writes it anew.\n\n\
         Everything worth knowing that happens in a node. Log lines carry the name as `notice`; metrics, audit and tests \
         listen to the same notices.\n\n| name | meaning | fields |\n|---|---|---|\n",
    );
    for (name, meaning, fields) in Notice::ALL {
        let fields: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
        write(&mut out, format_args!("| `{name}` | {} | {} |\n", meaning.trim(), fields.join(", ")));
    }
    out
}

fn metrics() -> String {
    let mut out = String::from(
        "# Metrics\n\nGenerated from the code; `cargo xtask docs` writes it anew.\n\n\
         `GET /metrics` answers in Prometheus' text format.\n\n| name | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in tidegate_control::Metrics::catalogue() {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let row = format_args!(
            "| `{}` | {} | {} | {} |\n",
            metric.name,
            metric.kind.as_str(),
            labels.join(", "),
            metric.help
        );
        write(&mut out, row);
    }
    out
}

fn profiles() -> String {
    let mut out = String::from(
        "# Profiles\n\nGenerated from the code; `cargo xtask docs` writes it anew.\n\n\
         A listener with a `profile` has, beside everything that a listener has, the paths and the metric names by which an \
         older system was operated:\n\n```yaml\nlisteners:\n  - { bind: \"127.0.0.1:7300\" }\n  \
         - { bind: \"127.0.0.1:8081\", profile: signal-client }\n  \
         - { profile: markdown-manager-consumer, group: linting, log: logs/consumer.log }\n```\n\n\
         Where a path of the profile is one of the node's own, the profile's document stands in its place on that listener. \
         With `log`, what the older system wrote into its log is written into a file, in its words.\n\n\
         Each name shows what the node's own name shows; labels that a name does not have are summed up.\n",
    );
    for profile in PROFILES {
        let paths: Vec<String> = profile.paths().map(|path| format!("`{path}`")).collect();
        let (name, summary, paths) = (profile.name, capital(profile.summary), paths.join(", "));
        out.push_str(&format!("\n## {name}\n\n{summary}.\n\nPaths: {paths}.\n"));
        if let Some(port) = profile.port {
            out.push_str(&format!("\nA listener without `bind` is at 127.0.0.1:{port}.\n"));
        }
        if profile.of_group {
            out.push_str("\nWith `group`, the documents and figures are those of one group; without it, of all.\n");
        }
        if !profile.figures.is_empty() {
            out.push_str("\n| Figure, in JSON and as a metric | Split by | Meaning |\n|---|---|---|\n");
            for figure in profile.figures {
                let label = figure.label.map(|label| format!("`{label}`")).unwrap_or_default();
                out.push_str(&format!("| `{}` | {label} | {} |\n", figure.name, figure.help));
            }
        }
        if profile.metrics().next().is_none() {
            continue;
        }
        out.push_str("\n| Metric | The same as | Labels |\n|---|---|---|\n");
        for (name, own, labels) in profile.metrics() {
            let labels: Vec<String> = labels.iter().map(|(name, own)| format!("`{name}` is `{own}`")).collect();
            out.push_str(&format!("| `{name}` | `{own}` | {} |\n", labels.join(", ")));
        }
    }
    out
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn command_line() -> String {
    let mut out = String::from(
        "# Command line\n\nGenerated from the code; `cargo xtask docs` writes it anew.\n\n\
         Exit codes: 0 done or yes · 1 the answer is no · 2 wrong command line · 3 what was reprocessed failed again · 4 reprocessed already · \
         69 a needed service is unavailable · 70 internal error · 77 denied · 78 wrong configuration.\n\n",
    );
    let mut root = crate::cli::command_line();
    root.build();
    document(&root, &mut out);
    out
}

/// Writes a command and those below it.
fn document(command: &clap::Command, out: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    // The width is fixed: the page must not depend on the terminal of whoever writes it.
    let help = command.clone().term_width(100).render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    write(out, format_args!("## {name}\n\n```text\n{}\n```\n\n", lines.join("\n").trim()));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        document(below, out);
    }
}

fn write(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes every text");
}

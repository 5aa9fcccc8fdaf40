//! The terminal: the only door to standard output and standard error. Without colour, and it never asks without a terminal.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::exit::Failed;

/// Form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For people with wide screens: every column.
    Wide,
    /// For programs: what the node answered.
    Json,
}

/// A column of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    head: &'static str,
    /// JSON pointer into each row.
    pointer: &'static str,
    is_wide: bool,
}

/// A column that is always shown.
pub(crate) const fn column(head: &'static str, pointer: &'static str) -> Column {
    Column { head, pointer, is_wide: false }
}

/// A column that is shown in the wide form.
pub(crate) const fn wide(head: &'static str, pointer: &'static str) -> Column {
    Column { head, pointer, is_wide: true }
}

/// Prints in one form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    pub(crate) format: Format,
}

impl Ui {
    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints text as it stands.
    pub(crate) fn raw(self, bytes: &[u8]) {
        let mut out = io::stdout().lock();
        // Nobody reads any more when a pipe is closed; there is nobody to tell.
        drop(out.write_all(bytes).and_then(|()| out.flush()));
    }

    /// Prints a body as it stands; on a terminal the next prompt begins in a line of its own.
    pub(crate) fn body(self, bytes: &[u8]) {
        self.raw(bytes);
        if io::stdout().is_terminal() && bytes.last().is_some_and(|last| *last != b'\n') {
            self.raw(b"\n");
        }
    }

    /// Prints a line for people; nothing in the form for programs.
    pub(crate) fn line(self, text: &str) {
        if !self.is_json() {
            self.raw(format!("{text}\n").as_bytes());
        }
    }

    /// Prints a JSON document.
    pub(crate) fn json(self, value: &Value) {
        self.raw(format!("{value:#}\n").as_bytes());
    }

    /// Prints a JSON document in one line.
    pub(crate) fn json_line(self, value: &Value) {
        self.raw(format!("{value}\n").as_bytes());
    }

    /// Prints a list: the document for programs, the chosen columns of its rows for people.
    pub(crate) fn list(self, document: &Value, rows: &[Value], columns: &[Column]) {
        match self.format {
            Format::Json => return self.json(document),
            Format::Table | Format::Wide => {}
        }
        let shown: Vec<&Column> =
            columns.iter().filter(|column| !column.is_wide || self.format == Format::Wide).collect();
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(shown.iter().map(|column| column.head.to_uppercase()));
        for row in rows {
            table.add_row(shown.iter().map(|column| cell(row.pointer(column.pointer).unwrap_or(&Value::Null))));
        }
        for line in table.trim_fmt().lines() {
            self.line(line.strip_prefix(' ').unwrap_or(line));
        }
    }

    /// Prints one thing: the document for programs, its members in lines for people.
    pub(crate) fn record(self, document: &Value) {
        if self.is_json() {
            return self.json(document);
        }
        let mut members = Vec::new();
        flatten("", document, &mut members);
        let width = members.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in members {
            self.line(&format!("{name:width$}  {value}"));
        }
    }

    /// Tells how far long work has come: a line that is overwritten on a terminal, JSON lines for programs, both on
    /// standard error.
    pub(crate) fn progress(self, text: &str, document: &Value) {
        if self.is_json() {
            error_text(&format!("{document}\n"));
        } else if io::stderr().is_terminal() {
            error_text(&format!("\r\x1b[K{text}"));
        }
    }

    /// Ends the line of progress.
    pub(crate) fn progress_over(self) {
        if !self.is_json() && io::stderr().is_terminal() {
            error_text("\r\x1b[K");
        }
    }

    /// Asks for leave to do something that cannot be undone. Without a terminal and without `--yes` the answer is no.
    pub(crate) fn confirm(self, is_agreed: bool, what: &str) -> Result<(), Failed> {
        if is_agreed {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(Failed::usage(format!("this would {what}; say --yes to do it")));
        }
        error_text(&format!("This will {what}. Type yes to go on: "));
        let mut answer = String::new();
        match io::stdin().read_line(&mut answer) {
            Ok(_) if answer.trim() == "yes" => Ok(()),
            Ok(_) | Err(_) => Err(Failed::usage("nothing was done")),
        }
    }
}

/// Tells whether somebody sits at a terminal and sees what is printed.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Shows how far long work came: in place on a terminal, as a line of JSON otherwise.
pub(crate) fn progress(words: &str, document: &Value) {
    if io::stderr().is_terminal() {
        error_text(&format!("\r\u{1b}[K{words}"));
    } else {
        error_text(&format!("{document}\n"));
    }
}

/// Ends what [`progress`] shows in place.
pub(crate) fn progress_end() {
    if io::stderr().is_terminal() {
        error_text("\r\u{1b}[K");
    }
}

/// Prints a line on standard error.
pub(crate) fn error_line(text: &str) {
    error_text(&format!("{text}\n"));
}

fn error_text(text: &str) {
    let mut out = io::stderr().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Shows a value in one cell.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => printable(text),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(_) => printable(&value.to_string()),
    }
}

/// Takes out what would move the cursor or start a control sequence: events come from strangers.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Lists the leaves of a document under their dotted names.
fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, member) in members {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&name, member, out);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&format!("{prefix}.{index}"), item, out);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            out.push((prefix.to_owned(), cell(value)))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_become_lines() {
        let mut out = Vec::new();
        flatten(
            "",
            &json!({"a": 1, "b": {"c": [], "d": null}, "e": [{"f": "x\u{1b}[2J"}], "g": ["h", true]}),
            &mut out,
        );
        let lines: Vec<String> = out.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(lines, ["a=1", "b.c=-", "b.d=-", "e.0.f=x\u{fffd}[2J", "g=h,yes"]);
    }
}

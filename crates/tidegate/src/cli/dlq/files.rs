//! Dead letters in files: written, taken in, and archived before they are forgotten.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Read as _, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::{Value, json};

use super::Place;
use crate::{
    cli::{Agreed, Asking},
    exit::{Exit, Failed},
    ui::{self, cell},
};

/// Bytes of lines that are sent in one request.
const BATCH_BYTES: usize = 2 << 20;
/// Entries of one page.
const PAGE: &str = "500";

/// Write dead letters to a file.
#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    place: Place,
    /// Only in this state: parked, reprocessed, resolved, discarded, expired, or all.
    #[arg(long, default_value = "parked")]
    state: String,
    /// Only of this group.
    #[arg(long)]
    group: Option<String>,
    /// Only those for which this expression is true.
    #[arg(long = "where", value_name = "EXPRESSION")]
    filter: Option<String>,
    /// File; standard output when it is left out.
    #[arg(long)]
    file: Option<PathBuf>,
}

/// Take dead letters in from a file.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// File of JSON lines; `-` reads standard input.
    file: PathBuf,
    /// Stream to take them into; what each line says when it is left out.
    #[arg(long)]
    stream: Option<String>,
}

/// Forget dead letters.
#[derive(Debug, Args)]
pub(crate) struct Purge {
    #[command(flatten)]
    place: Place,
    /// Only in this state: reprocessed, resolved, discarded or expired; all that are not parked when it is left out.
    #[arg(long)]
    state: Option<String>,
    /// Only those buried longer ago than this, such as 30d.
    #[arg(long, value_name = "AGE")]
    older: Option<String>,
    /// Only of this group.
    #[arg(long)]
    group: Option<String>,
    /// Write them to the end of this file first.
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Why.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    agreed: Agreed,
}

fn broken(path: &Path, error: &std::io::Error) -> Failed {
    Failed::new(Exit::No, format!("{}: {error}", path.display()))
}

/// Lists dead letters page by page, oldest first.
struct Pages<'a> {
    cx: &'a Asking,
    stream: &'a str,
    query: Vec<(&'static str, &'a str)>,
    after: Option<String>,
}

impl<'a> Pages<'a> {
    fn new(cx: &'a Asking, stream: &'a str, given: &[(&'static str, Option<&'a str>)]) -> Self {
        let mut query = vec![("limit", PAGE)];
        query.extend(given.iter().filter_map(|(name, value)| value.map(|value| (*name, value))));
        Self { cx, stream, query, after: Some("0".to_owned()) }
    }

    async fn next(&mut self) -> Result<Option<Vec<Value>>, Failed> {
        let Some(after) = self.after.take() else { return Ok(None) };
        let mut query = self.query.clone();
        query.push(("after", &after));
        let mut answer = self.cx.node.get(&["v1", "dlq", self.stream], &query).await?;
        self.after = answer["next"].as_str().map(str::to_owned);
        let entries = answer["entries"].take();
        Ok(Some(if let Value::Array(entries) = entries { entries } else { Vec::new() }))
    }
}

impl Export {
    pub(crate) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let given =
            [("state", Some(self.state.as_str())), ("group", self.group.as_deref()), ("where", self.filter.as_deref())];
        let mut pages = Pages::new(cx, &self.place.stream, &given);
        let mut file = match &self.file {
            Some(path) => Some((path, BufWriter::new(File::create(path).map_err(|error| broken(path, &error))?))),
            None => None,
        };
        let mut count = 0;
        while let Some(entries) = pages.next().await? {
            for entry in entries {
                count += 1;
                let line = format!("{entry}\n");
                match &mut file {
                    Some((path, out)) => out.write_all(line.as_bytes()).map_err(|error| broken(path, &error))?,
                    None => cx.ui.raw(line.as_bytes()),
                }
            }
        }
        if let Some((path, out)) = file {
            let synced = out.into_inner().map_err(std::io::IntoInnerError::into_error).and_then(|file| file.sync_all());
            synced.map_err(|error| broken(path, &error))?;
            cx.ui.record(&json!({ "exported": count, "file": path.display().to_string() }));
        }
        Ok(())
    }
}

impl Import {
    pub(crate) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let mut text = String::new();
        if self.file == Path::new("-") {
            std::io::stdin().read_to_string(&mut text).map_err(|error| broken(&self.file, &error))?;
        } else {
            text = std::fs::read_to_string(&self.file).map_err(|error| broken(&self.file, &error))?;
        }
        let mut batch: (String, usize, String) = Default::default();
        let (mut imported, mut duplicates) = (0, 0);
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let stream = match &self.stream {
                Some(stream) => stream.clone(),
                None => stream_of(line).map_err(|why| Failed::usage(format!("line {}: {why}", index + 1)))?,
            };
            if !batch.2.is_empty() && (batch.0 != stream || batch.2.len() + line.len() > BATCH_BYTES) {
                send(cx, std::mem::take(&mut batch), &mut imported, &mut duplicates).await?;
            }
            if batch.2.is_empty() {
                (batch.0, batch.1) = (stream, index);
            }
            batch.2.push_str(line);
            batch.2.push('\n');
        }
        if !batch.2.is_empty() {
            send(cx, batch, &mut imported, &mut duplicates).await?;
        }
        cx.ui.record(&json!({ "imported": imported, "duplicates": duplicates }));
        Ok(())
    }
}

fn stream_of(line: &str) -> Result<String, String> {
    let document: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    document["stream"].as_str().map(str::to_owned).ok_or_else(|| "no stream; --stream says which".to_owned())
}

async fn send(
    cx: &Asking,
    (stream, first, lines): (String, usize, String),
    imported: &mut u64,
    duplicates: &mut u64,
) -> Result<(), Failed> {
    let headers = [("content-type".to_owned(), "application/x-ndjson".to_owned())];
    let answer = cx.node.publish(&["v1", "dlq", &stream, "import"], headers, lines.into()).await;
    let answer =
        answer.map_err(|failed| Failed::new(failed.exit, format!("after line {first}: {}", failed.message)))?;
    *imported += answer["imported"].as_u64().unwrap_or(0);
    *duplicates += answer["duplicates"].as_u64().unwrap_or(0);
    ui::progress(&format!("{imported} imported, {duplicates} were there"), &answer_counts(*imported, *duplicates));
    ui::progress_end();
    Ok(())
}

fn answer_counts(imported: u64, duplicates: u64) -> Value {
    json!({ "imported": imported, "duplicates": duplicates })
}

impl Purge {
    pub(crate) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let stream = &self.place.stream;
        if !self.dry_run {
            let state = self.state.as_deref().unwrap_or("settled");
            cx.ui.confirm(self.agreed.yes, &format!("forget {state} dead letters of {stream} for good"))?;
        }
        match &self.archive {
            Some(path) if !self.dry_run => self.archived(cx, path).await,
            Some(_) | None => {
                let mut document = json!({ "all": true, "dry_run": self.dry_run, "reason": self.reason });
                let given = [("state", &self.state), ("older", &self.older), ("group", &self.group)];
                for (name, value) in given {
                    if let Some(value) = value {
                        document[name] = json!(value);
                    }
                }
                let answer = super::work::run(cx, stream, "purge", &document).await?;
                cx.ui.record(&answer);
                super::work::judge(&answer)
            }
        }
    }

    /// Writes each page down for good before it is forgotten.
    async fn archived(&self, cx: &Asking, path: &Path) -> Result<(), Failed> {
        if self.state.as_deref() == Some("parked") {
            return Err(Failed::usage("parked dead letters are not purged: discard them first"));
        }
        let failed = |error: std::io::Error| broken(path, &error);
        let mut file = OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
        let given = [
            ("state", Some(self.state.as_deref().unwrap_or("all"))),
            ("older", self.older.as_deref()),
            ("group", self.group.as_deref()),
        ];
        let mut pages = Pages::new(cx, &self.place.stream, &given);
        let (mut archived, mut purged) = (0, 0);
        while let Some(entries) = pages.next().await? {
            let entries: Vec<Value> = entries.into_iter().filter(|entry| entry["state"] != "parked").collect();
            if entries.is_empty() {
                continue;
            }
            let lines: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
            file.write_all(lines.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
            archived += entries.len();
            let ids: Vec<&Value> = entries.iter().map(|entry| &entry["id"]).collect();
            let document = json!({ "ids": ids, "reason": self.reason });
            let answer = super::work::run(cx, &self.place.stream, "purge", &document).await?;
            purged += answer["purged"].as_u64().unwrap_or(0);
            ui::progress(&format!("{purged} forgotten"), &json!({ "archived": archived, "purged": purged }));
        }
        ui::progress_end();
        let file = cell(&json!(path.display().to_string()));
        cx.ui.record(&json!({ "archived": archived, "purged": purged, "archive": file }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_its_stream() {
        assert_eq!(stream_of(r#"{"stream":"orders"}"#), Ok("orders".to_owned()));
        assert!(stream_of("{}").is_err_and(|why| why.contains("--stream")));
        assert!(stream_of("{").is_err());
    }
}

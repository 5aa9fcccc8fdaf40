//! `tidegate schema`: what streams ask of the data of their events.

use std::path::PathBuf;

use clap::{ArgGroup, Subcommand};
use serde_json::{Value, json};

use super::Asking;
use crate::{
    exit::{Exit, Failed},
    ui::column,
};

/// Schemas of streams.
#[derive(Debug, Subcommand)]
pub(super) enum Schema {
    /// Print the schema of a stream.
    Show {
        /// Stream.
        #[arg(long)]
        stream: String,
    },
    /// Check a stored event, or a document in a file, against the schema of a stream; exit code 1 when it does not fit.
    #[command(group = ArgGroup::new("what").required(true).args(["id", "file"]))]
    Check {
        /// Stream.
        #[arg(long)]
        stream: String,
        /// CloudEvents `id` of a stored event.
        #[arg(long)]
        id: Option<String>,
        /// Its CloudEvents `source`; any when it is left out.
        #[arg(long, requires = "id")]
        source: Option<String>,
        /// File with JSON: the data, or a whole CloudEvent; `-` for standard input.
        #[arg(long)]
        file: Option<PathBuf>,
    },
}

impl Schema {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        match self {
            Self::Show { stream } => {
                cx.ui.record(&cx.node.get(&["v1", "streams", &stream, "schema"], &[]).await?);
                Ok(())
            }
            Self::Check { stream, id, source, file } => {
                let ask = match file {
                    Some(file) => json!({ "data": data_of(read(&file)?) }),
                    None => {
                        let mut ask = json!({ "id": id });
                        if let Some(source) = source {
                            ask["source"] = source.into();
                        }
                        ask
                    }
                };
                check(cx, &stream, &ask).await
            }
        }
    }
}

fn read(file: &std::path::Path) -> Result<Value, Failed> {
    let wrong = |why: String| Failed::usage(format!("{}: {why}", file.display()));
    let text =
        if file.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text = text.map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| wrong(format!("is no JSON: {error}")))
}

/// Of a CloudEvent its data, of anything else everything.
fn data_of(mut document: Value) -> Value {
    if document.get("specversion").is_some() { document["data"].take() } else { document }
}

async fn check(cx: &Asking, stream: &str, ask: &Value) -> Result<(), Failed> {
    let answer = cx.node.post(&["v1", "streams", stream, "schema", "check"], ask).await?;
    let events = super::rows(&answer, "events");
    let mut rows = Vec::new();
    for event in events {
        for violation in super::rows(event, "violations") {
            rows.push(json!({
                "position": event["position"], "pointer": violation["pointer"], "message": violation["message"],
            }));
        }
    }
    let valid = answer.get("valid").and_then(Value::as_bool) == Some(true);
    if valid {
        cx.ui.list(&answer, &[], &[]);
        cx.ui.line("valid: the data fits the schema");
        return Ok(());
    }
    let columns = [column("position", "/position"), column("pointer", "/pointer"), column("message", "/message")];
    cx.ui.list(&answer, &rows, &columns);
    Err(Failed::new(Exit::No, format!("the data does not fit the schema of stream {stream}")))
}

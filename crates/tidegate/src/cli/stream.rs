//! `tidegate stream`: streams and their events.

use clap::Subcommand;

use super::Asking;
use crate::{
    exit::Failed,
    ui::{Column, column, wide},
};

pub(super) const COLUMNS: &[Column] = &[
    column("stream", "/name"),
    column("count", "/count"),
    wide("bytes", "/bytes"),
    wide("accepted", "/accepted"),
    column("first", "/first"),
    column("last", "/last"),
    column("groups", "/groups"),
];

/// Streams and their events.
#[derive(Debug, Subcommand)]
pub(super) enum Stream {
    /// List all streams.
    List,
    /// Show one stream.
    Show {
        /// Stream.
        name: String,
    },
    /// Read events, oldest first.
    Read {
        /// Stream.
        name: String,
        /// Position to start at; the oldest kept event when it is left out.
        #[arg(long)]
        from: Option<String>,
        /// Most events.
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Only events of this CloudEvents `type`.
        #[arg(long = "type")]
        kind: Option<String>,
    },
    /// Move a group of a stream to another place, or say what that would mean.
    Seek {
        /// Group.
        #[arg(long)]
        group: String,
        #[command(flatten)]
        seek: super::steer::Seek,
    },
}

impl Stream {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        match self {
            Self::List => {
                let answer = cx.node.get(&["v1", "streams"], &[]).await?;
                cx.ui.list(&answer, super::rows(&answer, "streams"), COLUMNS);
            }
            Self::Show { name } => cx.ui.record(&cx.node.get(&["v1", "streams", &name], &[]).await?),
            Self::Seek { group, seek } => seek.run(cx, &group).await?,
            Self::Read { name, from, limit, kind } => read(cx, &name, from, limit, kind).await?,
        }
        Ok(())
    }
}

async fn read(cx: &Asking, name: &str, from: Option<String>, limit: u32, kind: Option<String>) -> Result<(), Failed> {
    let limit = limit.to_string();
    let mut query = vec![("limit", limit.as_str())];
    query.extend(from.as_deref().map(|from| ("from", from)));
    query.extend(kind.as_deref().map(|kind| ("type", kind)));
    let answer = cx.node.get(&["v1", "streams", name, "events"], &query).await?;
    let columns = [
        column("position", "/position"),
        wide("accepted", "/accepted_at"),
        column("id", "/event/id"),
        column("source", "/event/source"),
        column("type", "/event/type"),
        column("subject", "/event/subject"),
        wide("data", "/event/data"),
    ];
    cx.ui.list(&answer, super::rows(&answer, "events"), &columns);
    if let Some(next) = answer.get("next").and_then(serde_json::Value::as_str) {
        cx.ui.line(&format!("more with --from {next}"));
    }
    Ok(())
}

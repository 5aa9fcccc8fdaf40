//! `tidegate stream`: streams and their events.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Asking;
use crate::{
    exit::{Exit, Failed},
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
    /// List the groups that read a stream: who works, how far each is, what is left.
    Groups {
        /// Stream.
        name: String,
    },
    /// Say how many events of a stream wait for its slowest group, or how many items wait in a list of another Redis that a
    /// source `redis_list` watches.
    Depth {
        /// Stream, or key of the list, such as `rq:queue:flow_tasks`.
        name: String,
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
            Self::Groups { name } => groups(cx, &name).await?,
            Self::Depth { name } => depth(cx, &name).await?,
            Self::Seek { group, seek } => seek.run(cx, &group).await?,
            Self::Read { name, from, limit, kind } => read(cx, &name, from, limit, kind).await?,
        }
        Ok(())
    }
}

/// Lists the groups of a stream. What is lent is pending; what is not settled and not lent is the lag.
async fn groups(cx: &Asking, name: &str) -> Result<(), Failed> {
    let stream = cx.node.get(&["v1", "streams", name], &[]).await?;
    let answer = cx.node.get(&["v1", "groups"], &[]).await?;
    let of_stream = super::rows(&answer, "groups").iter().filter(|group| group["stream"] == name);
    let rows: Vec<Value> = of_stream
        .map(|group| {
            let count = |member: &str| group[member].as_u64().unwrap_or(0);
            json!({
                "group": group["name"], "state": group["state"], "position": group["next"], "last": stream["last"],
                "pending": count("in_flight"), "lag": count("waiting") + count("scheduled"),
                "workers": group["workers"], "busy": group["busy"], "pull": group["pull"],
                "oldest_waiting_age_seconds": group["oldest_waiting_age_seconds"],
            })
        })
        .collect();
    let columns = [
        column("group", "/group"),
        column("state", "/state"),
        column("position", "/position"),
        column("last", "/last"),
        column("pending", "/pending"),
        column("lag", "/lag"),
        column("workers", "/workers"),
        column("busy", "/busy"),
        column("oldest s", "/oldest_waiting_age_seconds"),
    ];
    cx.ui.list(&json!({ "stream": name, "groups": rows }), &rows, &columns);
    Ok(())
}

/// Prints a number and nothing else, as `redis-cli llen` does.
async fn depth(cx: &Asking, name: &str) -> Result<(), Failed> {
    let modules = cx.node.get(&["v1", "modules"], &[]).await?;
    let queues = super::rows(&modules, "modules").iter().map(|module| &module["details"]["queue"]);
    let answer = match queues.into_iter().find(|queue| queue["name"] == name) {
        Some(queue) => {
            if let Some(fault) = queue["fault"].as_str() {
                return Err(Failed::new(Exit::Unavailable, format!("{name}: {fault}")));
            }
            json!({ "name": name, "depth": queue["depth"], "at": queue["counted_at"] })
        }
        None => {
            let stream = cx.node.get(&["v1", "streams", name], &[]).await?;
            json!({ "name": name, "depth": stream["backlog"] })
        }
    };
    match cx.ui.is_json() {
        true => cx.ui.record(&answer),
        false => cx.ui.line(&answer["depth"].to_string()),
    }
    Ok(())
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
    if let Some(next) = answer.get("next").and_then(Value::as_str) {
        cx.ui.line(&format!("more with --from {next}"));
    }
    Ok(())
}

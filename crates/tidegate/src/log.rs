//! The log: one listener turns notices into lines, text or JSON, and holds back floods.

mod files;
mod flood;
mod role;
mod words;

use std::{path::Path, sync::Arc, time::Duration};

use tidegate_core::{
    clock::Clock,
    notice::{Listener, Notice},
};
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

pub(crate) use self::role::RoleLog;
use self::{files::LogFiles, flood::Flood};

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON document a line.
    Json,
}

/// Target of the line that says that the node is ready; it is written at every level.
pub(crate) const READY: &str = "tidegate_ready";

/// Lines of one notice in one stretch of time; the rest is counted.
const LINES_MAX: u32 = 20;
const STRETCH: Duration = Duration::from_secs(1);

/// Starts the log on standard error, and as lines of JSON in files in `dir`; says what is wrong with `level`.
pub(crate) fn start(format: LogFormat, level: &str, dir: &Path) -> Result<(), String> {
    // A bare level is meant for the node; its libraries stay quiet unless they are named.
    let of_the_node = match level {
        "info" | "debug" | "trace" => format!("warn,tidegate={level}"),
        other => other.to_owned(),
    };
    let directives = format!("{of_the_node},{READY}=info");
    let filter = EnvFilter::builder().parse(directives).map_err(|error| format!("log level {level:?}: {error}"))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    let (files, trouble) = match LogFiles::open(dir) {
        Ok(files) => (Some(files), None),
        // A node whose log cannot be kept still runs; it says so where it can.
        Err(error) => (None, Some(error)),
    };
    let kept = files.map(|files| {
        let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
        layer.with_current_span(false).with_span_list(false).with_target(false).with_writer(files)
    });
    let started = tracing_subscriber::registry().with(filter).with(lines).with(kept).try_init();
    started.map_err(|error| error.to_string())?;
    if let Some(error) = trouble {
        tracing::warn!("the log is not kept in {}: {error}", dir.display());
    }
    Ok(())
}

/// Turns notices into lines.
#[derive(Debug)]
pub(crate) struct Log {
    flood: Flood,
}

impl Log {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { flood: Flood::new(clock, LINES_MAX, STRETCH) })
    }
}

impl Listener for Log {
    fn notice(&self, notice: &Notice) {
        // Most notices are of the path of a message: they cost one comparison unless somebody asked for them.
        if words::is_frequent(notice) {
            if tracing::enabled!(tracing::Level::DEBUG) {
                words::frequent(notice);
            }
            return;
        }
        let name = notice.name();
        match self.flood.admit(name) {
            flood::Admit::Line => words::rare(notice),
            flood::Admit::LineAfter(held) => {
                tracing::warn!(notice = name, held, "held back {held} more lines of {name}");
                words::rare(notice);
            }
            flood::Admit::Hold => {}
        }
    }
}

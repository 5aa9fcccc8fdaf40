//! The command line: nouns and verbs, one file for each noun.

mod audit;
mod blocked;
mod check;
mod completions;
mod config;
mod dlq;
mod drained;
mod event;
mod group;
mod ledger;
mod limits;
mod live;
mod look;
mod man;
mod module;
mod outbox;
mod preflight;
mod publish;
mod replay;
mod report;
mod run;
mod schema;
mod steer;
mod store;
mod stream;
mod target;

use std::path::Path;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use serde_json::Value;
use tidegate_core::{
    clock::{Clock, Timestamp},
    config::Time,
};

use crate::{
    client::Node,
    config::Config,
    exit::{Exit, Failed},
    ui::{Format, Ui},
};

/// The runtime for message-driven services.
///
/// Exit codes: 0 done or yes, 1 the answer is no, 2 wrong command line, 3 what was reprocessed failed
/// again, 4 reprocessed already, 69 a needed service is
/// unavailable, 70 internal error, 77 denied, 78 wrong configuration.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Which node to ask, and how to print.
#[derive(Debug, Args)]
struct Global {
    /// Node that the command asks.
    #[arg(long, global = true, env = "TIDEGATE_URL", default_value = "http://127.0.0.1:7300", hide_env_values = true)]
    url: String,
    /// Bearer token for that node.
    #[arg(long, global = true, env = "TIDEGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Form of what is printed.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// The same as `-o json`.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a node.
    Run(run::Run),
    /// Read a configuration, look whether everything fits, and try to reach its targets.
    Check(check::Check),
    /// Tell whether this machine, its data and a configuration fit this program; exit code 1 when they do not.
    Compatibility(preflight::Compatibility),
    /// Show how a node is doing.
    Status(look::Status),
    /// Show rates, delays and limits of the last minute, again and again.
    Top(live::Top),
    /// Follow notices and events as they come.
    Subscribe(live::Subscribe),
    /// Read a node's log.
    Logs(live::Logs),
    /// Figures over time.
    #[command(subcommand)]
    Report(report::Report),
    /// Wait until nothing of a group waits or runs; exit code 1 when that takes too long.
    WaitDrained(drained::WaitDrained),
    /// Tell whether a node is healthy; exit code 1 when it is not.
    Health(look::Health),
    /// Print a node's metrics in Prometheus' text format, or list those that there are.
    Metrics(look::Metrics),
    /// Print the version of this program.
    Version(look::Version),
    /// Publish an event into a stream.
    Publish(publish::Publish),
    /// Tell the life of an event.
    Trace(event::Trace),
    /// Say why an event does not run now, or what became of it; exit code 1 when it is unknown.
    Explain(event::Explain),
    /// Print the result of an event: what a group's handler answered to it; exit code 1 when there is none.
    Result(event::Outcome),
    /// Look at streams and their events.
    #[command(subcommand)]
    Stream(stream::Stream),
    /// Look at the schemas of streams, and check events against them.
    #[command(subcommand)]
    Schema(schema::Schema),
    /// Look at groups, pause, resume, scale, seek and drain them.
    #[command(subcommand)]
    Group(group::Group),
    /// Let all groups finish what is there, then pause; exit code 1 when the time is over before that.
    Drain(steer::Drain),
    /// Pause and resume the intake of events.
    #[command(subcommand)]
    Ingest(steer::Ingest),
    /// Look at dead letters and decide what becomes of them.
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// Look at what a group remembers, and make it forget.
    #[command(subcommand)]
    Ledger(ledger::Ledger),
    /// Account for what went through a node.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Look at targets, close and open their breakers by hand.
    #[command(subcommand)]
    Target(target::Target),
    /// Look at the limits of targets and change them; those of rates are for all nodes together.
    #[command(subcommand)]
    Limits(limits::Limits),
    /// Look at sources and sinks, pause, resume, enable and disable them.
    #[command(subcommand)]
    Module(module::Module),
    /// Look at outbox tables in databases, and print the SQL that makes them.
    #[command(subcommand)]
    Outbox(outbox::Outbox),
    /// Look into the data directory of a stopped node.
    #[command(subcommand)]
    Store(store::Store),
    /// Show what a configuration may hold.
    #[command(subcommand)]
    Config(config::Config),
    /// Print a completion script for a shell.
    Completions(completions::Completions),
    /// Write manual pages into a directory.
    Man(man::Man),
}

/// Reads the command line and does what it says.
pub fn main() -> Exit {
    let Cli { global, command } = Cli::parse();
    let ui = Ui { format: if global.json { Format::Json } else { global.output } };
    match dispatch(command, &global, ui) {
        Ok(()) => Exit::Ok,
        Err(failed) => {
            // Errors of a configuration begin with file and line, where editors look for them.
            let prefix = if failed.exit == Exit::Configuration { "" } else { "tidegate: " };
            if !failed.message.is_empty() {
                crate::ui::error_line(&format!("{prefix}{}", failed.message));
            }
            failed.exit
        }
    }
}

/// Returns the whole command line, for the generated page and for completions.
pub(crate) fn command_line() -> clap::Command {
    Cli::command()
}

fn dispatch(command: Command, global: &Global, ui: Ui) -> Result<(), Failed> {
    let ask = || -> Result<Asking, Failed> { Ok(Asking { ui, node: Node::new(&global.url, global.token.clone())? }) };
    match command {
        Command::Run(run) => run.run(),
        Command::Check(check) => check.run(global, ui),
        Command::Compatibility(compatibility) => compatibility.run(ui),
        Command::Top(top) => wait(top.run(&ask()?)),
        Command::Subscribe(subscribe) => wait(subscribe.run(&ask()?)),
        Command::Logs(logs) => logs.run(global, ui),
        Command::Report(report) => wait(report.run(&ask()?)),
        Command::WaitDrained(drained) => wait(drained.run(&ask()?)),
        Command::Status(status) => wait(status.run(&ask()?)),
        Command::Health(health) => wait(health.run(&ask()?)),
        Command::Metrics(metrics) if metrics.is_list() => metrics.list(ui),
        Command::Metrics(metrics) => wait(metrics.run(&ask()?)),
        Command::Version(version) => version.run(ui),
        Command::Publish(publish) => wait(publish.run(&ask()?)),
        Command::Trace(trace) => wait(trace.run(&ask()?)),
        Command::Explain(explain) => wait(explain.run(&ask()?)),
        Command::Result(result) => wait(result.run(&ask()?)),
        Command::Stream(stream) => wait(stream.run(&ask()?)),
        Command::Schema(schema) => wait(schema.run(&ask()?)),
        Command::Group(group) => wait(group.run(&ask()?)),
        Command::Drain(drain) => wait(drain.run_all(&ask()?)),
        Command::Ingest(ingest) => wait(ingest.run(&ask()?)),
        Command::Dlq(dlq) => wait(dlq.run(&ask()?)),
        Command::Ledger(ledger) => wait(ledger.run(&ask()?)),
        Command::Audit(audit) => wait(audit.run(&ask()?)),
        Command::Target(target) => wait(target.run(&ask()?)),
        Command::Limits(limits) => wait(limits.run(&ask()?)),
        Command::Module(module) => wait(module.run(&ask()?)),
        Command::Outbox(outbox) => outbox.run(ui),
        Command::Store(store) => store.run(ui),
        Command::Config(config) => config.run(ui),
        Command::Completions(completions) => completions.run(ui),
        Command::Man(man) => man.run(ui),
    }
}

/// Reads a configuration.
fn open(path: &Path) -> Result<Config, Failed> {
    Config::open(path).map_err(|fault| Failed::new(Exit::Configuration, fault.to_string()))
}

/// A command that asks a node.
struct Asking {
    ui: Ui,
    node: Node,
}

/// Waits for a command that asks a node, on a runtime of one thread.
fn wait<T, E: Into<Failed>>(command: impl Future<Output = Result<T, E>>) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failed::new(Exit::Internal, format!("cannot start the runtime: {error}")))?;
    runtime.block_on(command).map_err(Into::into)
}

/// Returns the rows under a name of an answer.
fn rows<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Leave to do what cannot be undone.
#[derive(Debug, Args)]
struct Agreed {
    /// Do it without asking.
    #[arg(long)]
    yes: bool,
}

/// Why something is done by hand; it stands in the log and beside the result.
#[derive(Debug, Args)]
struct Because {
    /// Why; kept with the change.
    #[arg(long, default_value = "")]
    reason: String,
}

/// Reads an instant, or a duration from now on.
fn instant(text: &str) -> Result<String, String> {
    if let Ok(time) = text.parse::<Time>() {
        return Ok(Clock::real().now().plus(time.get()).to_string());
    }
    Timestamp::parse(text)
        .map(|at| at.to_string())
        .map_err(|_| format!("{text:?} is neither an instant such as 2026-01-31T08:00:00Z nor a duration such as 30m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn instants_are_absolute_or_from_now() {
        assert_eq!(instant("2026-01-31T09:00:00+01:00").unwrap(), "2026-01-31T08:00:00.000Z");
        let soon = Timestamp::parse(&instant("30m").unwrap()).unwrap();
        let minutes = soon.since(Clock::real().now()).as_secs_f64() / 60.0;
        assert!((29.0..=30.0).contains(&minutes), "{minutes}");
        assert!(instant("noon").is_err());
    }
}

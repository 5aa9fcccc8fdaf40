//! `tidegate run`: a node, from its configuration to its end.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::Config,
    exit::{Exit, Failed},
    log::{self, LogFormat},
    preflight,
    wire::Node,
};

/// Wait for threads that sit in a call of the system when everything else has ended.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// Start a node.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Configuration file.
    config: PathBuf,
    /// Data directory in place of `node.data`.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address in place of those under `listeners`; may be given several times. Port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<SocketAddr>,
    /// Form of the log, which goes to standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, or directives such as `info,tidegate_store=debug`.
    #[arg(long, env = "TIDEGATE_LOG", default_value = "info")]
    log_level: String,
    /// Threads that run the node.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: u16,
}

impl Run {
    pub(super) fn run(self) -> Result<(), Failed> {
        let mut config = super::open(&self.config)?;
        if let Some(data) = self.data {
            config.node.data = data;
        }
        if !self.listen.is_empty() {
            config.listen_on(&self.listen).map_err(|fault| Failed::new(Exit::Configuration, fault.to_string()))?;
        }
        log::start(self.log_format, &self.log_level, &config.node.data.join("logs")).map_err(Failed::usage)?;
        preflight::raise_open_files();
        let checks = preflight::check(&config);
        for warning in checks.iter().filter_map(|one| one.warning.as_ref()) {
            tracing::warn!("{warning}");
        }
        if let Some(wrong) = checks.iter().find(|one| !one.ok) {
            let message = format!("the node does not start: {}", wrong.mismatch());
            tracing::error!("{message}");
            return Err(Failed::new(Exit::Configuration, message));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(usize::from(self.threads))
            .thread_name("tidegate")
            .enable_all()
            .build()
            .map_err(|error| Failed::new(Exit::Internal, format!("cannot start the runtime: {error}")))?;
        let ended = runtime.block_on(live(&config));
        runtime.shutdown_timeout(LAST_WAIT);
        ended
    }
}

/// Opens the node, waits until it is told to stop, stops it.
async fn live(config: &Config) -> Result<(), Failed> {
    let mut signals = Signals::open()?;
    let node = tokio::select! {
        node = Node::open(config) => node?,
        () = signals.stop() => return Err(Failed::new(Exit::No, "told to stop before it was ready")),
    };
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    let addresses = addresses.join(", ");
    tracing::info!(target: log::READY, name = config.node.name, addresses, "tidegate ready on {addresses}");
    tell(&[NotifyState::Ready]);
    signals.stop().await;
    tell(&[NotifyState::Stopping]);
    let hurry = async {
        signals.stop().await;
        tracing::warn!("told to stop a second time: dropping what is held");
    };
    if node.stop(hurry).await { Ok(()) } else { Err(Failed::new(Exit::No, "stopped before everything was finished")) }
}

/// Tells the service manager; without one, nothing happens.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("tell the service manager: {error}");
    }
}

/// The signals that a node listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn open() -> Result<Self, Failed> {
        let open = |kind| {
            signal(kind).map_err(|error| Failed::new(Exit::Internal, format!("cannot listen to signals: {error}")))
        };
        Ok(Self {
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
            reload: open(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal to stop.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.reload.recv() => {
                    tracing::warn!("asked to reload: this version cannot yet; restart it to apply a changed configuration");
                }
            }
        }
    }
}

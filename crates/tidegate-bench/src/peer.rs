//! Servers to compare with, each in a process of its own: a bare one, a bare proxy, and a receiver of webhooks.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::post,
    serve::ListenerExt as _,
};
use clap::Subcommand;
use tokio::net::TcpListener;

use crate::{process::Owned, ui};

/// What a node answers to one event.
const ACCEPTED: &str = r#"{"accepted":[{"id":"0123456789abcdef","position":"1234567","duplicate":false}]}"#;

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Serve {
    /// Reads a body and answers a small JSON document.
    Bare {
        #[arg(long)]
        threads: usize,
    },
    /// Reads a body, forwards it, answers when the other end has answered.
    Proxy {
        #[arg(long)]
        threads: usize,
        #[arg(long)]
        to: SocketAddr,
    },
}

impl Serve {
    fn threads(&self) -> usize {
        match self {
            Self::Bare { threads } | Self::Proxy { threads, .. } => *threads,
        }
    }

    fn words(&self) -> Vec<String> {
        let threads = self.threads().to_string();
        match self {
            Self::Bare { .. } => vec!["bare".to_owned(), "--threads".to_owned(), threads],
            Self::Proxy { to, .. } => {
                ["proxy", "--threads", &threads, "--to", &to.to_string()].map(str::to_owned).to_vec()
            }
        }
    }

    /// Serves until the other end of standard input is closed.
    pub(crate) fn run(self) -> Result<()> {
        let router = match &self {
            Self::Bare { .. } => Router::new().fallback(post(bare)),
            Self::Proxy { to, .. } => {
                tidegate_tls::install();
                let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?;
                Router::new().fallback(post(forward)).with_state((client, format!("http://{to}/hook")))
            }
        };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(self.threads()).enable_all().build()?;
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            ui::line(listener.local_addr()?.to_string());
            let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
            let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
            tokio::select! {
                served = async { axum::serve(listener, router).await } => served?,
                _ = ended => {}
            }
            anyhow::Ok(())
        })?;
        Ok(())
    }
}

async fn bare(body: Bytes) -> impl IntoResponse {
    drop(body);
    ([(header::CONTENT_TYPE, "application/json")], ACCEPTED)
}

async fn forward(
    State((client, to)): State<(reqwest::Client, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let mut request = client.post(&to).body(body);
    for (name, value) in &headers {
        if name.as_str().starts_with("ce-") || name == header::CONTENT_TYPE {
            request = request.header(name, value);
        }
    }
    let sent = async { request.send().await?.error_for_status()?.bytes().await };
    match sent.await {
        Ok(_) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], ACCEPTED),
        Err(_) => (StatusCode::BAD_GATEWAY, [(header::CONTENT_TYPE, "application/json")], "{}"),
    }
}

/// A peer that runs.
pub(crate) struct Peer {
    pub(crate) process: Owned,
    pub(crate) address: SocketAddr,
}

impl Peer {
    pub(crate) fn start(serve: &Serve) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        // Standard input stays open as long as we live: the peer ends with us, whatever becomes of us.
        command.arg("serve").args(serve.words()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Owned::spawn(&mut command)?;
        let out = process.0.stdout.take().context("a peer has no standard output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("a peer said {line:?} in place of its address"))?;
        Ok(Self { process, address })
    }
}

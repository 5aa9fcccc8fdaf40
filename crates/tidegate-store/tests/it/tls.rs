//! Engines whose servers are spoken to over TLS: they work as ever, and with nobody whom they should not trust.

use std::sync::Arc;

use async_trait::async_trait;
use tidegate_core::{
    clock::Clock,
    config::{FileText, Secret, Tls},
    fault::{Fault, Result},
    store::Store,
};
use tidegate_store::{Look, NatsSettings, Opening, PostgresSettings, RedisSettings, look, open_engine};
use tidegate_testkit::{
    Authority, NatsServer, PostgresServer, RedisServer,
    broker_suite::{self, Subject},
};

use crate::places::clock;

/// A server, as a configuration names it, and a name of its own on it.
struct Safe {
    url: String,
    tls: Tls,
    name: String,
    data: tempfile::TempDir,
    clock: Clock,
}

fn trusting(authority: &Authority, shown: Option<&Authority>) -> Tls {
    let file = |text: String| Some(FileText { path: "a.pem".to_owned(), text });
    let papers = shown.map(|authority| authority.client("node"));
    Tls {
        ca: file(authority.certificate()),
        cert: papers.as_ref().and_then(|papers| file(papers.certificate.clone())),
        key: papers.map(|papers| Secret::new(&papers.key)),
    }
}

impl Safe {
    fn new(url: &str, tls: Tls) -> Self {
        let data = tempfile::tempdir().expect("a scratch folder");
        Self { url: url.to_owned(), tls, name: format!("t{:x}", fastrand::u64(..)), data, clock: clock() }
    }

    fn opening(&self) -> Opening {
        let (tls, name) = (&self.tls, &self.name);
        Opening {
            engine: self.url.clone(),
            data: self.data.path().to_owned(),
            disk_reserve: 0,
            node: "tidegate".to_owned(),
            redis: RedisSettings { tls: tls.clone(), prefix: format!("{name}:"), ..RedisSettings::default() },
            postgres: PostgresSettings { tls: tls.clone(), schema: name.clone(), ..PostgresSettings::default() },
            nats: NatsSettings { tls: tls.clone(), prefix: name.clone(), ..NatsSettings::default() },
            clock: self.clock.clone(),
            notices: Default::default(),
        }
    }

    async fn refused(&self) -> String {
        let fault: Fault = open_engine(self.opening()).await.map(drop).expect_err("it is not trusted");
        let found: Look = look(&self.opening()).await.expect("it has a server");
        assert!(!found.ok, "a check says so too: {found:?}");
        fault.to_string()
    }
}

#[async_trait]
impl Subject for Safe {
    async fn open(&self) -> Result<Arc<dyn Store>> {
        open_engine(self.opening()).await
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }
}

/// Works on a server, and is refused by it, or refuses it, where there is no trust.
async fn works(url: &str, ours: &Authority, plain: &str) {
    for concern in ["append::", "claim::"] {
        let summary = broker_suite::run(concern, || Box::new(Safe::new(url, trusting(ours, Some(ours))))).await;
        assert!(!summary.ran.is_empty() && summary.skipped.is_empty(), "{summary:?}");
    }
    let found = look(&Safe::new(url, trusting(ours, Some(ours))).opening()).await.unwrap();
    assert!(found.ok, "{found:?}");
    let other = Authority::new();
    let stranger = Safe::new(url, trusting(&other, Some(ours))).refused().await;
    assert!(stranger.contains("invalid peer certificate"), "a server that is not trusted: {stranger}");
    let nobody = Safe::new(url, trusting(ours, None)).refused().await;
    assert!(!nobody.contains("invalid peer"), "a node that shows nothing: {nobody}");
    let spoken = Safe::new(plain, Tls::default()).refused().await;
    let says = ["rediss://", "no encryption", "UnknownIssuer"];
    assert!(says.iter().any(|why| spoken.contains(why)), "a connection without TLS: {spoken}");
    // The certificate is for an address, not for this name of it.
    let misnamed = url.replace("127.0.0.1", "localhost");
    let misnamed = Safe::new(&misnamed, trusting(ours, Some(ours))).refused().await;
    assert!(misnamed.contains("not valid for name"), "a server under another name: {misnamed}");
}

#[tokio::test]
async fn redis_is_spoken_to_over_tls() {
    let ours = Authority::new();
    let server = RedisServer::start_safe(&ours);
    works(&server.url(), &ours, &server.url().replace("rediss", "redis")).await;
    let careless = Safe::new("redis://127.0.0.1:1", trusting(&ours, None)).refused().await;
    assert!(careless.contains("rediss://"), "{careless}");
}

#[tokio::test]
async fn postgres_is_spoken_to_over_tls() {
    let ours = Authority::new();
    let server = PostgresServer::start_safe(&ours);
    works(&server.url(), &ours, &server.url().replace("?sslmode=verify-full", "")).await;
    let careless = Safe::new("postgres://127.0.0.1:1/d", trusting(&ours, None)).refused().await;
    assert!(careless.contains("sslmode=verify-full"), "{careless}");
}

#[tokio::test]
async fn nats_is_spoken_to_over_tls() {
    let ours = Authority::new();
    let server = NatsServer::start_safe(&ours);
    works(&server.url(), &ours, &server.url().replace("tls", "nats")).await;
}

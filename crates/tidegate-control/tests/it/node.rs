//! A node behind a real listener: streams `orders` and `other`, a pull group `deliver` on the one and a group `inside`
//! with a handler on the other, a target `partner` and an intake on `/shop/orders`.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};
use tidegate_control::{
    Control, ControlParts, Intake, Metrics, Mounted, NodeFacts, Profile, ServeLimits, Token, Tokens, WarnPolicy, serve,
};
use tidegate_core::{
    clock::Clock,
    cloudevents::PlainDefaults,
    decide::RetryPolicy,
    dedupe::DedupeKey,
    delivery::{Delivery, Outcome},
    guard::{Guard, GuardPolicy},
    handler::Handler,
    names::{GroupName, ModuleName, StreamName, TargetName},
    notice::{Notices, Tap},
    service::{Context, Stopper, stop},
    store::{DedupeWindow, Durability, GroupSpec, OnFailure, Retain, Start, Store, StreamSpec},
};
use tidegate_engine::{Desk, GroupPolicy, Groups, Modules, Peers, Publisher, Sides, Supervisor};
use tidegate_testkit::Hooked;
use tokio::net::TcpListener;

use crate::{
    ailing::Ailing,
    client::{Answer, request, send},
};

pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) stopper: Stopper,
    pub(crate) store: Arc<dyn Store>,
    /// What goes wrong with the store.
    pub(crate) ailing: Arc<Ailing>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) supervisor: Supervisor,
    pub(crate) tap: Tap,
    pub(crate) clock: Clock,
    /// Ends the listener when it goes.
    _serving: Stopper,
}

struct Fine;

#[async_trait]
impl Handler for Fine {
    async fn handle(&self, _: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        batch.iter().map(|_| Outcome::DONE).collect()
    }
}

pub(crate) fn stream_spec(name: &str) -> StreamSpec {
    StreamSpec {
        name: StreamName::new(name).unwrap(),
        durability: Durability::Sync,
        retain: Retain::default(),
        max_backlog: None,
        dedupe: Some(DedupeWindow { key: DedupeKey::IDENTITY, window: Duration::from_secs(3600), entries: 10_000 }),
        dead: tidegate_core::store::DeadKeep::default(),
    }
}

pub(crate) fn group(name: &str, stream: &str) -> (GroupSpec, GroupPolicy) {
    let (name, stream) = (GroupName::new(name).unwrap(), StreamName::new(stream).unwrap());
    let spec = GroupSpec {
        name: name.clone(),
        stream: stream.clone(),
        start: Start::Earliest,
        end: None,
        order_by: None,
        on_failure: OnFailure::Skip,
        ledger: Some(Duration::from_secs(86_400)),
        after: true,
        priority_step: None,
        mark_claims: false,
    };
    let policy = GroupPolicy {
        name,
        stream,
        workers: 4,
        timeout: Duration::from_secs(30),
        timeout_max: None,
        lease: Duration::from_secs(60),
        retry: RetryPolicy { attempts: 3, first: Duration::from_millis(1), ..RetryPolicy::default() },
        stages: tidegate_rules::Stages::default(),
        results: None,
    };
    (spec, policy)
}

pub(crate) async fn intake(modules: &Modules, name: &str, path: &str) -> Intake {
    let (module, stream) = (ModuleName::new(name).unwrap(), StreamName::new("orders").unwrap());
    Intake {
        entrance: modules.add_entrance(&module, "http", &stream).await.unwrap(),
        name: ModuleName::new(name).unwrap(),
        path: path.to_owned(),
        stream: StreamName::new("orders").unwrap(),
        defaults: PlainDefaults {
            source: Some("/shop".into()),
            kind: Some("order.placed".into()),
            ..PlainDefaults::default()
        },
        reply: None,
    }
}

/// Makes the parts of a node that listens nowhere yet.
pub(crate) async fn parts(tokens: Vec<Token>) -> (ControlParts, Arc<Ailing>, Stopper) {
    let (clock, notices) = (Clock::real(), Notices::default());
    let store = tidegate_store::open("memory", Path::new("/memory"), clock.clone(), notices.clone()).unwrap();
    let ailing = Arc::new(Ailing::default());
    let store = Hooked::wrap(store, ailing.clone());
    let (stopper, stop) = stop();
    let cx = Context { clock: clock.clone(), stop, notices: notices.clone() };
    let supervisor = Supervisor::new(cx.clone());
    let metrics = Metrics::listening(&notices);
    for name in ["orders", "other"] {
        store.declare_stream(&stream_spec(name)).await.unwrap();
    }
    let groups = Groups::new(store.clone(), cx.clone(), supervisor.clone(), "fingerprint-1".into());
    let (spec, policy) = group("deliver", "orders");
    groups.add(&spec, policy, None).await.unwrap();
    let (spec, policy) = group("inside", "other");
    groups.add(&spec, policy, Some(Arc::new(Fine))).await.unwrap();
    let sides = Sides::new(store.clone(), cx.clone(), supervisor.clone(), groups.clone());
    sides.restore(std::collections::BTreeMap::new()).await.unwrap();
    let publisher = Publisher::new(store.clone(), cx.clone());
    let modules = Modules::new(store.clone(), cx.clone(), supervisor.clone(), publisher.clone(), groups.clone());
    for (group, stream) in [("deliver", "orders"), ("inside", "other")] {
        let (group, stream) = (GroupName::new(group).unwrap(), StreamName::new(stream).unwrap());
        modules.add_sink(&group, "pull", &stream).await.unwrap();
    }
    let target = TargetName::new("partner").unwrap();
    let desk = Desk::start(store.clone(), cx.clone(), &supervisor).await.unwrap();
    let intakes = vec![intake(&modules, "shop", "/shop/orders").await];
    let parts = ControlParts {
        store: store.clone(),
        groups,
        sides,
        desk,
        publisher,
        modules,
        schemas: std::collections::BTreeMap::new(),
        aliases: std::collections::BTreeMap::new(),
        guards: vec![Guard::new(target, GuardPolicy::default(), clock, notices)],
        intakes,
        cx,
        supervisor,
        metrics,
        config: "fingerprint-1".into(),
        peers: Peers::new(store.clone(), "work-1".to_owned()),
        tokens: Tokens::new(tokens),
        node: NodeFacts { name: "harbour".into(), version: "0.0.1".into(), environment: Some("test".into()) },
        data: None,
        warnings: WarnPolicy::default(),
        upstreams: Vec::new(),
    };
    (parts, ailing, stopper)
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::with_tokens(Vec::new()).await
    }

    pub(crate) async fn with_tokens(tokens: Vec<Token>) -> Self {
        let (parts, ailing, stopper) = parts(tokens).await;
        Self::of(parts, ailing, stopper).await
    }

    /// A node whose listener has a profile.
    pub(crate) async fn with_profile(name: &str) -> Self {
        let (parts, ailing, stopper) = parts(Vec::new()).await;
        Self::listening(parts, ailing, stopper, Some(Mounted { profile: Profile::find(name).unwrap(), group: None }))
            .await
    }

    pub(crate) async fn of(parts: ControlParts, ailing: Arc<Ailing>, stopper: Stopper) -> Self {
        Self::listening(parts, ailing, stopper, None).await
    }

    #[expect(clippy::disallowed_methods, reason = "the test plays the supervisor")]
    async fn listening(parts: ControlParts, ailing: Arc<Ailing>, stopper: Stopper, profile: Option<Mounted>) -> Self {
        let (guard, supervisor, clock) = (parts.guards[0].clone(), parts.supervisor.clone(), parts.cx.clock.clone());
        let store = parts.store.clone();
        let tap = parts.cx.notices.tap();
        let router = Control::new(parts).unwrap().router(profile).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (serving, stop) = stop();
        drop(tokio::spawn(serve(listener, router, ServeLimits::default(), stop, clock.clone())));
        Self { address, stopper, store, ailing, guard, supervisor, tap, clock, _serving: serving }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        send(self.address, request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, &[], "")).await
    }

    pub(crate) async fn post(&self, path: &str, document: Value) -> Answer {
        let body = document.to_string();
        self.send(request(Method::POST, path, &[("content-type", "application/json")], body)).await
    }

    /// Waits until so many requests wait for results.
    pub(crate) async fn waits(&self, count: usize) {
        let (line, watch) = (format!("\ntidegate_waiting_requests {count}\n"), self.clock.stopwatch());
        while !self.get("/metrics").await.text().contains(&line) {
            assert!(watch.elapsed() < Duration::from_secs(20), "{count} requests never waited");
            tokio::task::yield_now().await;
        }
    }

    /// Publishes plain bodies with these ids to `orders`.
    pub(crate) async fn publish(&self, ids: &[&str]) {
        for id in ids {
            let headers = [("idempotency-key", *id), ("content-type", "application/json")];
            let body = json!({ "order": id }).to_string();
            self.send(request(Method::POST, "/v1/streams/orders/events", &headers, body)).await.good();
        }
    }

    /// Claims what there is for `deliver`, and returns the deliveries.
    pub(crate) async fn claim(&self, max: usize) -> Vec<Value> {
        let claimed = self.post("/v1/groups/deliver/claim", json!({ "max": max, "wait": "5s" })).await.good();
        claimed["deliveries"].as_array().unwrap().clone()
    }

    /// Settles a delivery of `deliver`.
    pub(crate) async fn settle(&self, delivery: &Value, settlement: Value) {
        let mut settlement = settlement;
        settlement["token"] = delivery["token"].clone();
        let settled = self.post("/v1/groups/deliver/settle", json!({ "settlements": [settlement] })).await.good();
        assert_eq!(settled["results"][0]["status"], "settled", "{settled}");
    }

    /// Buries events with these ids in the dead letters of `orders`.
    pub(crate) async fn bury(&self, ids: &[&str]) {
        for id in ids {
            self.publish(&[id]).await;
            for delivery in self.claim(1).await {
                self.settle(&delivery, json!({ "outcome": "reject", "reason": format!("order {id} is bad") })).await;
            }
        }
    }
}

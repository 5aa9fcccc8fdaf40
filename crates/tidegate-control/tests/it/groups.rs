//! Groups and targets: looking at them, and what an operator does with them.

use serde_json::{Value, json};
use tidegate_core::notice::Notice;

use crate::node::Node;

#[tokio::test]
async fn groups_are_listed_and_shown() {
    let node = Node::start().await;
    node.publish(&["a", "b"]).await;
    let group = node.get("/v1/groups/deliver").await.good();
    for (member, expect) in [
        ("name", json!("deliver")),
        ("stream", json!("orders")),
        ("state", json!("running")),
        ("waiting", json!(2)),
        ("scheduled", json!(0)),
        ("in_flight", json!(0)),
        ("done", json!(0)),
        ("dead", json!(0)),
        ("duplicates", json!(0)),
        ("skipped", json!(0)),
        ("blocked_keys", json!(0)),
        ("paused", Value::Null),
        ("pull", json!(true)),
        ("gate", json!("open")),
    ] {
        assert_eq!(group[member], expect, "{member} in {group}");
    }
    assert!(group["oldest_waiting_age_seconds"].is_number());
    assert_eq!(group["policy"]["lease"], "1m");
    assert_eq!(group["policy"]["retry"]["attempts"], 3);
    let all = node.get("/v1/groups").await.good();
    let names: Vec<&Value> = all["groups"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["deliver", "inside"]);
    node.get("/v1/groups/nobody").await.problem(404, "missing");
}

#[tokio::test]
async fn a_group_is_paused_resumed_and_scaled() {
    let mut node = Node::start().await;
    let until = node.clock.now().plus(std::time::Duration::from_secs(3600)).to_string();
    let paused =
        node.post("/v1/groups/deliver/pause", json!({ "reason": "partner is down", "until": until })).await.good();
    assert_eq!(paused["result"], "paused");
    assert!(!paused["action"].as_str().unwrap().is_empty());
    let group = node.get("/v1/groups/deliver").await.good();
    assert_eq!(group["state"], "paused");
    assert_eq!((&group["paused"]["by"], &group["paused"]["reason"]), (&json!("local"), &json!("partner is down")));
    assert_eq!(group["paused"]["until"], json!(until));
    node.publish(&["a"]).await;
    assert_eq!(node.post("/v1/groups/deliver/claim", json!({})).await.good(), json!({ "deliveries": [] }));
    let told = node.tap.wait_for(|notice| matches!(notice, Notice::GroupPaused { .. })).await.unwrap();
    assert!(matches!(told, Notice::GroupPaused { by, reason, .. } if by == "local" && reason == "partner is down"));

    let resumed = node.post("/v1/groups/deliver/resume", json!({})).await.good();
    assert_eq!((&resumed["result"], &resumed["group"]["state"]), (&json!("resumed"), &json!("running")));
    assert_eq!(node.claim(1).await.len(), 1);

    let scaled = node.post("/v1/groups/inside/scale", json!({ "workers": 9, "reason": "rush" })).await.good();
    assert_eq!((&scaled["result"], &scaled["group"]["workers"]), (&json!("scaled"), &json!(9)));
    for wrong in [json!({ "workers": 0 }), json!({ "workers": 5000 }), json!({}), json!({ "workers": -1 })] {
        node.post("/v1/groups/inside/scale", wrong).await.problem(400, "invalid");
    }
    let past = json!({ "until": "2020-01-01T00:00:00Z" });
    node.post("/v1/groups/deliver/pause", past).await.problem(400, "invalid");
    node.post("/v1/groups/nobody/pause", json!({})).await.problem(404, "missing");
}

#[tokio::test]
async fn a_group_is_sought_and_drained() {
    let mut node = Node::start().await;
    node.publish(&["a", "b", "c"]).await;
    for delivery in node.claim(3).await {
        node.settle(&delivery, json!({ "outcome": "done" })).await;
    }
    let ask = json!({ "to": "-2", "dry_run": true });
    let rehearsed = node.post("/v1/groups/deliver/seek", ask).await.good();
    assert_eq!(
        (&rehearsed["result"], &rehearsed["from"], &rehearsed["to"]),
        (&json!("rehearsed"), &json!("4"), &json!("2"))
    );
    let events = &rehearsed["events"];
    assert_eq!(
        (&events["would_run"], &events["would_skip"], &events["complete"]),
        (&json!(0), &json!(2), &json!(true))
    );
    let moved =
        node.post("/v1/groups/deliver/seek", json!({ "to": "b", "ignore_ledger": true, "reason": "bug" })).await;
    let moved = moved.good();
    assert_eq!(
        (&moved["result"], &moved["to"], &moved["events"]["would_run"]),
        (&json!("moved"), &json!("2"), &json!(2))
    );
    assert_eq!(node.get("/v1/groups/deliver").await.good()["waiting"], 2);
    let held = node.claim(1).await;
    let busy = json!({ "to": "earliest", "wait": "0s" });
    node.post("/v1/groups/deliver/seek", busy).await.problem(409, "conflict");
    node.settle(&held[0], json!({ "outcome": "done" })).await;
    for wrong in [json!({}), json!({ "to": "" }), json!({ "to": "1", "wait": "1h" }), json!({ "to": "1", "rate": "x" })]
    {
        node.post("/v1/groups/deliver/seek", wrong).await.problem(400, "invalid");
    }
    node.post("/v1/groups/deliver/seek", json!({ "to": "nothing-like-it" })).await.problem(404, "missing");

    let drained = node.post("/v1/groups/deliver/drain", json!({ "timeout": "1h", "reason": "move" })).await.good();
    assert_eq!((&drained["result"], &drained["group"]["state"]), (&json!("draining"), &json!("draining")));
    for delivery in node.claim(3).await {
        node.settle(&delivery, json!({ "outcome": "done" })).await;
    }
    let told = node.tap.wait_for(|notice| matches!(notice, Notice::GroupDrained { .. })).await.unwrap();
    assert!(matches!(told, Notice::GroupDrained { left: 0, .. }));
    assert_eq!(node.get("/v1/groups/deliver").await.good()["paused"]["reason"], "drained: move");
    node.post("/v1/groups/deliver/drain", json!({ "timeout": "30d" })).await.problem(400, "invalid");
}

#[tokio::test]
async fn a_range_is_replayed_in_a_side_group() {
    let mut node = Node::start().await;
    node.publish(&["a", "b", "c", "d"]).await;
    for delivery in node.claim(3).await {
        node.settle(&delivery, json!({ "outcome": "done" })).await;
    }
    let ask = json!({ "from": "b", "to": "d", "dry_run": true });
    let rehearsed = node.post("/v1/groups/deliver/replay", ask).await.good();
    assert_eq!((&rehearsed["result"], &rehearsed["action"]), (&json!("rehearsed"), &Value::Null));
    assert_eq!(
        (&rehearsed["from"], &rehearsed["before"], &rehearsed["group"]),
        (&json!("2"), &json!("5"), &Value::Null)
    );
    assert_eq!((&rehearsed["events"]["would_run"], &rehearsed["events"]["complete"]), (&json!(3), &json!(true)));
    assert_eq!(rehearsed["in_group"], json!({ "would_run": 1, "would_skip": 2 }));

    let ask = json!({ "from": "b", "to": "c", "into": "again", "rate": "100/s", "reason": "drill" });
    let started = node.post("/v1/groups/deliver/replay", ask.clone()).await.good();
    assert_eq!(
        (&started["result"], &started["group"], &started["before"]),
        (&json!("started"), &json!("again"), &json!("4"))
    );
    let shown = node.get("/v1/groups/again").await.good();
    assert_eq!((&shown["accepted"], &shown["state"], &shown["pull"]), (&json!(2), &json!("running"), &json!(true)));
    for (member, expect) in [("of", "deliver"), ("with", "deliver"), ("from", "2"), ("before", "4"), ("by", "local")] {
        assert_eq!(shown["side"][member], expect, "{member} in {shown}");
    }
    assert_eq!(node.get("/v1/groups/deliver").await.good()["side"], Value::Null);
    node.post("/v1/groups/deliver/replay", ask).await.problem(409, "conflict");
    let paused = node.post("/v1/groups/again/pause", json!({})).await.good();
    assert_eq!(paused["group"]["state"], "paused");
    node.post("/v1/groups/again/seek", json!({ "to": "a" })).await.problem(409, "conflict");
    node.post("/v1/groups/again/resume", json!({})).await.good();
    let claimed = node.post("/v1/groups/again/claim", json!({ "max": 9, "wait": "5s" })).await.good();
    assert_eq!(claimed["deliveries"].as_array().unwrap().len(), 2, "{claimed}");
    let audit = node.get("/v1/audit/messages").await.good();
    let row = audit["rows"].as_array().unwrap().iter().find(|row| row["group"] == "again").unwrap();
    assert_eq!((&row["accepted"], &row["in_flight"], &audit["balanced"]), (&json!(2), &json!(2), &json!(true)));
    let page = node.get("/metrics").await.text().to_owned();
    assert!(page.contains("tidegate_group_messages{group=\"again\",state=\"in_flight\"} 2"));
    let settlements: Vec<Value> = claimed["deliveries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|delivery| json!({ "token": delivery["token"], "outcome": "done" }))
        .collect();
    node.post("/v1/groups/again/settle", json!({ "settlements": settlements })).await.good();
    let told = node.tap.wait_for(|notice| matches!(notice, Notice::ReplayEnded { .. })).await.unwrap();
    assert!(matches!(told, Notice::ReplayEnded { done: 2, dead: 0, .. }), "{told:?}");
    node.tap.wait_for(|notice| matches!(notice, Notice::GroupRemoved { .. })).await.unwrap();
    node.get("/v1/groups/again").await.problem(404, "missing");
    assert!(!node.get("/metrics").await.text().contains("group=\"again\""), "its meters are gone with it");
    assert_eq!(node.get("/v1/groups/deliver").await.good()["waiting"], 1, "the group never noticed");
}

#[tokio::test]
async fn a_replay_is_refused_or_cancelled() {
    let node = Node::start().await;
    node.publish(&["a", "b"]).await;
    for wrong in [
        json!({}),
        json!({ "from": "" , "into": "again" }),
        json!({ "from": "a" }),
        json!({ "from": "b", "to": "a", "into": "again" }),
        json!({ "from": "latest", "into": "again" }),
        json!({ "from": "a", "into": "no name" }),
        json!({ "from": "a", "into": "again", "rate": "fast" }),
    ] {
        node.post("/v1/groups/deliver/replay", wrong).await.problem(400, "invalid");
    }
    let with = json!({ "from": "a", "into": "again", "with": "nobody", "dry_run": true });
    node.post("/v1/groups/deliver/replay", with).await.problem(404, "missing");
    node.post("/v1/groups/nobody/replay", json!({ "from": "a", "into": "again" })).await.problem(404, "missing");
    let ask = json!({ "from": "a", "into": "again", "keep": true });
    node.post("/v1/groups/deliver/replay", ask).await.good();
    let removed = node.post("/v1/groups/again/remove", json!({ "reason": "enough" })).await.good();
    assert_eq!((&removed["result"], &removed["unsettled"]), (&json!("removed"), &json!(2)));
    node.get("/v1/groups/again").await.problem(404, "missing");
    node.post("/v1/groups/deliver/remove", json!({})).await.problem(409, "conflict");
}

#[tokio::test]
async fn the_intake_is_paused_and_the_node_is_not_ready_meanwhile() {
    let node = Node::start().await;
    node.publish(&["a"]).await;
    let paused = node.post("/v1/intake/pause", json!({ "reason": "flood" })).await.good();
    assert_eq!(paused["result"], "paused");
    node.get("/readyz").await.problem(503, "unavailable");
    let refused = node.post("/v1/streams/orders/events", json!({})).await;
    refused.problem(503, "unavailable");
    assert_eq!(node.claim(5).await.len(), 1, "what is there is worked on");
    let health = node.get("/health/detailed").await.good();
    let parts = health["components"].as_array().unwrap();
    let intake = parts.iter().find(|part| part["component"] == "intake").unwrap();
    assert_eq!((&intake["state"], &health["status"]), (&json!("paused"), &json!("healthy")));
    node.post("/v1/intake/resume", json!({})).await.good();
    node.get("/readyz").await.good();
    node.publish(&["b"]).await;
}

#[tokio::test]
async fn a_node_drains_all_its_groups() {
    let node = Node::start().await;
    node.post("/v1/groups/inside/pause", json!({})).await.good();
    let drained = node.post("/v1/drain", json!({ "timeout": "20s" })).await.good();
    assert_eq!((&drained["draining"], &drained["paused"]), (&json!(["deliver"]), &json!(["inside"])));
}

#[tokio::test]
async fn a_group_that_nobody_runs_is_shown_and_removed() {
    let node = Node::start().await;
    let name = tidegate_core::names::GroupName::new("gone").unwrap();
    let spec = tidegate_core::store::GroupSpec::new(name, tidegate_core::names::StreamName::new("orders").unwrap());
    node.store.declare_group(&spec).await.unwrap();
    node.publish(&["a"]).await;
    let listed = node.get("/v1/groups").await.good();
    assert_eq!(listed["unconfigured"], json!([{ "name": "gone", "stream": "orders", "unsettled": 1 }]));
    let removed = node.post("/v1/groups/gone/remove", json!({ "reason": "renamed" })).await.good();
    assert_eq!((&removed["result"], &removed["unsettled"]), (&json!("removed"), &json!(1)));
    assert_eq!(node.get("/v1/groups").await.good()["unconfigured"], json!([]));
    node.post("/v1/groups/deliver/remove", json!({})).await.problem(409, "conflict");
    node.post("/v1/groups/gone/remove", json!({})).await.problem(404, "missing");
}

#[tokio::test]
async fn a_target_is_tripped_reset_and_limited() {
    let node = Node::start().await;
    let target = node.get("/v1/targets/partner").await.good();
    assert_eq!((&target["name"], &target["breaker"]["state"]), (&json!("partner"), &json!("closed")));
    assert_eq!(target["last_error"], Value::Null);
    assert_eq!(node.get("/v1/targets").await.good()["targets"][0]["name"], "partner");

    let tripped = node.post("/v1/targets/partner/trip", json!({ "reason": "they asked us to" })).await.good();
    assert_eq!(tripped["target"]["breaker"]["state"], "open");
    assert_eq!(tripped["target"]["by_hand"]["by"], "local");
    assert_eq!(tripped["target"]["by_hand"]["reason"], "they asked us to");
    let reset = node.post("/v1/targets/partner/reset", json!({})).await.good();
    assert_eq!((&reset["result"], &reset["target"]["gate"]), (&json!("reset"), &json!("open")));

    let limited = node.post("/v1/targets/partner/limit", json!({ "concurrency": 3, "rate": "10/m" })).await.good();
    assert_eq!(
        (&limited["target"]["concurrency"]["limit"], &limited["target"]["rate"]["limit"]),
        (&json!(3), &json!("10/m"))
    );
    let back = node.post("/v1/targets/partner/limit", json!({})).await.good();
    assert_eq!((&back["target"]["concurrency"]["limit"], &back["target"]["rate"]["limit"]), (&json!(16), &Value::Null));
    for wrong in [json!({ "concurrency": 0 }), json!({ "rate": "fast" }), json!({ "speed": 1 })] {
        node.post("/v1/targets/partner/limit", wrong).await.problem(400, "invalid");
    }
    for path in ["/v1/targets/nobody/trip", "/v1/targets/nobody/reset", "/v1/targets/nobody/limit"] {
        node.post(path, json!({})).await.problem(404, "missing");
    }
    node.get("/v1/targets/nobody").await.problem(404, "missing");
}

#[tokio::test]
async fn everything_is_accounted_for() {
    let node = Node::start().await;
    node.publish(&["a", "b", "c"]).await;
    node.settle(&node.claim(1).await[0], json!({ "outcome": "done" })).await;
    node.settle(&node.claim(1).await[0], json!({ "outcome": "reject" })).await;
    let audit = node.get("/v1/audit/messages").await.good();
    assert_eq!(audit["balanced"], true);
    let rows = audit["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["group"] == "deliver").unwrap();
    assert_eq!(
        *row,
        json!({
            "stream": "orders", "group": "deliver", "accepted": 3, "done": 1, "skipped": 0, "waiting": 1, "scheduled": 0,
            "in_flight": 0, "dead": 1, "expired": 0, "dropped": 0, "difference": 0,
        })
    );
    node.ailing.ail(crate::ailing::Illness::Unbalanced);
    let audit = node.get("/v1/audit/messages").await.good();
    assert_eq!((&audit["balanced"], &audit["rows"][0]["difference"]), (&json!(false), &json!(1)));
}

#[tokio::test]
async fn the_ledger_forgets_what_it_is_told_to() {
    let node = Node::start().await;
    node.publish(&["a"]).await;
    node.settle(&node.claim(1).await[0], json!({ "outcome": "done" })).await;
    assert_eq!(node.get("/v1/ledger/deliver").await.good()["entries"], 1);
    let forget = json!({ "source": "/", "id": "a", "reason": "run it again" });
    let forgotten = node.post("/v1/ledger/deliver/forget", forget.clone()).await.good();
    assert_eq!((&forgotten["forgotten"], &forgotten["id"]), (&json!(true), &json!("a")));
    node.post("/v1/ledger/deliver/forget", forget).await.problem(404, "missing");
    node.post("/v1/ledger/deliver/forget", json!({ "id": "a" })).await.problem(400, "invalid");
    node.get("/v1/ledger/nobody").await.problem(404, "missing");
}

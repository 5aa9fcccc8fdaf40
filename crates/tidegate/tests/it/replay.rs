//! A range is handled once more by a real node, over kills, and nothing of the group changes.

use serde_json::Value;

use crate::{
    node::{Berth, Node, SAMPLE, until},
    receiver::Receiver,
};

const SIDE: &str = "deliver.again";

async fn ready(berth: &Berth, receiver: &Receiver, count: usize) -> Node {
    let node = berth.start().await;
    for id in 0..count {
        node.publish("orders", &format!("e{id}"), &format!("s{}", id % 7), "1").await;
    }
    node.group_has("deliver", "done", count as u64).await;
    assert_eq!(receiver.ids().len(), count);
    node
}

/// Removes what changes by itself.
fn counts(group: &Value) -> Value {
    let mut group = group.clone();
    for member in ["oldest_waiting_age_seconds", "busy", "leases_lost"] {
        group[member] = Value::Null;
    }
    group
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replay_goes_on_and_ends_by_itself() {
    let receiver = Receiver::start().await;
    let berth = Berth::new(&SAMPLE.replace("https://partner.example/hook", &receiver.url).replace("50/s", "5000/s"));
    let mut node = ready(&berth, &receiver, 60).await;
    let before = counts(&node.get("/v1/groups/deliver").await);
    let (exit, out, err) = node.cli(&["group", "replay", "deliver", "--from", "e10", "--to", "e49", "--dry-run"]);
    assert_eq!((exit, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "a side group would handle 40 events of deliver, from 11 on and before 51; \
         deliver itself would run 0 and skip 40 as done\n"
    );
    receiver.hold().await;
    let args = ["group", "replay", "deliver", "--from", "e10", "--to", "e49", "--into", SIDE, "--reason", "drill"];
    let (exit, out, err) = node.cli(&args);
    assert_eq!((exit, err.as_str()), (0, ""));
    assert!(out.starts_with("deliver.again handles 40 events of deliver, from 11 on and before 51"), "{out}");
    for round in 1..=3_u64 {
        receiver.release(8);
        until("some of it is done", || async {
            (node.get("/v1/groups/deliver.again").await["done"].as_u64() >= Some(round * 8)).then_some(())
        })
        .await;
        node.kill().await;
        node = berth.start().await;
        let side = node.get("/v1/groups/deliver.again").await;
        assert_eq!((&side["side"]["of"], &side["accepted"]), (&"deliver".into(), &40.into()), "{side}");
    }
    receiver.release(1000);
    let (exit, _, _) = node.cli(&["group", "wait-drained", "--group", SIDE, "--timeout", "20s"]);
    assert!(exit == 0 || exit == 1, "it may be gone by then");
    until("the side group is gone", || async {
        let gone = node.client.get(format!("{}/v1/groups/{SIDE}", node.url)).send().await.unwrap();
        (gone.status().as_u16() == 404).then_some(())
    })
    .await;
    let again = |id: &usize| receiver.ids().iter().filter(|seen| **seen == format!("e{id}")).count() > 1;
    assert_eq!((0..60).filter(again).collect::<Vec<_>>(), (10..50).collect::<Vec<_>>());
    let mut after = counts(&node.get("/v1/groups/deliver").await);
    after["busy"] = before["busy"].clone();
    assert_eq!(after, before, "the group never noticed");
    assert_eq!(node.json(&["audit", "messages"])["balanced"], true);
    let log = node.log.text();
    assert!(log.contains("deliver.again has handled its range of deliver: 40 done, 0 dead"), "{log}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_waited_for_and_one_with_dead_letters_stays() {
    let receiver = Receiver::start().await;
    let berth = Berth::new(&SAMPLE.replace("https://partner.example/hook", &receiver.url).replace("50/s", "5000/s"));
    let node = ready(&berth, &receiver, 5).await;
    let replay = |into: &'static str| ["group", "replay", "deliver", "--from", "earliest", "--into", into, "--wait"];
    let (exit, out, _) = node.cli(&replay("fine"));
    assert_eq!(exit, 0, "{out}");
    assert!(out.ends_with("fine has handled its range\n"), "{out}");
    receiver.answer(422);
    let (exit, out, err) = node.cli(&replay("bad"));
    assert_eq!(exit, 1, "{out}{err}");
    assert!(err.contains("bad has handled its range: 0 done, 5 dead"), "{err}");
    assert_eq!(node.json(&["group", "show", "bad"])["state"], "ended");
    receiver.answer(200);
    let (exit, _, err) = node.cli(&["dlq", "reprocess", "--stream", "orders", "--all"]);
    assert_eq!(exit, 0, "{err}");
    until("the side group is gone", || async {
        let all = node.get("/v1/groups").await;
        let names = all["groups"].as_array().unwrap().iter().map(|group| group["name"].clone()).collect::<Vec<_>>();
        (names == ["deliver"]).then_some(())
    })
    .await;
    assert_eq!(receiver.ids().len(), 5 + 5 + 5 + 5);
    assert_eq!(node.json(&["audit", "messages"])["balanced"], true);
    node.stop().await;
}

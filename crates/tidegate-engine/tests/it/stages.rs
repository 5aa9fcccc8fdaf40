//! Stages: what gets to a handler, as what, and what becomes of the rest.

use std::time::Duration;

use serde_json::json;
use tidegate_core::{
    delivery::Outcome,
    event::{Data, Event},
    fault::FaultClass,
    notice::Notice,
};

use crate::scene::*;

fn order(id: u32) -> Event {
    event(id).with_data(Data::Json(json!({ "total": id * 10, "items": [id] }).to_string().into()))
}

#[tokio::test(start_paused = true)]
async fn what_the_stages_hold_off_is_done_without_an_attempt() {
    let mut scene = Scene::new().await;
    let handled = log();
    let handler = batches(16, {
        let handled = handled.clone();
        move |batch| {
            handled.lock().extend(batch.iter().map(|delivery| delivery.event.id.to_string()));
            let outcomes = vec![Outcome::DONE; batch.len()];
            async { outcomes }
        }
    });
    scene.publish((0..100).map(order)).await;
    scene.add(asked("deliver").stages(json!([{"where": "data.total % 30 == 0"}])), handler).await;
    scene.until_settled("deliver", "skipped", 66).await;
    scene.until_settled("deliver", "done", 34).await;
    assert_eq!(handled.lock().len(), 34);
    let status = scene.status("deliver").await;
    assert_eq!((status.done, status.skipped, status.waiting), (100, 66, 0));
    assert_eq!(count(scene.look(), "attempt.started"), 34);
    let status = scene.finish().await.restart().await.status("deliver").await;
    assert_eq!((status.done, status.skipped), (100, 66), "the counts outlive a restart");
}

#[tokio::test(start_paused = true)]
async fn a_map_is_for_the_handler_only() {
    let mut scene = Scene::new().await;
    let seen = log();
    let handler = each({
        let seen = seen.clone();
        move |delivery| {
            seen.lock().push((delivery.event.kind.to_string(), delivery.event.data.clone()));
            async { fail(FaultClass::Invalid) }
        }
    });
    let map = json!([{"map": {"data": "{'sum': data.total + 1}", "type": "'mapped'"}}, {"where": "data.sum > 0"}]);
    scene.add(asked("deliver").stages(map), handler).await;
    scene.publish([order(7)]).await;
    scene.until_settled("deliver", "dead", 1).await;
    assert_eq!(*seen.lock(), [("mapped".to_owned(), Data::Json(r#"{"sum":71}"#.into()))]);
    let dead = scene.dead().await;
    assert_eq!(dead[0].event, order(7), "the dead letter keeps the event as it came");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_expression_that_fails_is_invalid_and_says_which() {
    let mut scene = Scene::new().await;
    let stages = json!([{"where": "data.customer.id == 1"}]);
    scene.add(asked("deliver").stages(stages), each(|_| async { Outcome::DONE })).await;
    scene.publish([order(1)]).await;
    scene.until_settled("deliver", "dead", 1).await;
    let dead = scene.dead().await;
    assert_eq!(dead[0].class, FaultClass::Invalid);
    assert_eq!(&*dead[0].message, "expression `data.customer.id == 1`: there is no key \"customer\"");
    assert_eq!(dead[0].attempts.len(), 1);
    assert!(scene.look().iter().any(|notice| matches!(notice, Notice::AttemptFailed { .. })));
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn each_group_takes_its_own_of_one_stream() {
    let mut scene = Scene::new().await;
    let routes = [
        ("prefix", "subject.startsWith('!')", "!help !42"),
        ("pattern", "subject.matches('^![0-9]+$')", "!42"),
        ("list", "subject in ['hello', '!help']", "!help hello"),
        ("rest", "!subject.startsWith('!')", "hello"),
    ];
    let taken = log();
    for (name, filter, _) in routes {
        let taken = taken.clone();
        let handler = each(move |delivery| {
            taken.lock().push((name, delivery.event.subject.unwrap_or_default().to_string()));
            async { Outcome::DONE }
        });
        scene.add(asked(name).workers(1).stages(json!([{ "where": filter }])), handler).await;
    }
    scene.publish(["!help", "!42", "hello"].into_iter().enumerate().map(|(id, subject)| keyed(id, subject))).await;
    for (name, _, expect) in routes {
        let count = expect.split(' ').count() as u64;
        scene.until_settled(name, "done", count).await;
        scene.until_settled(name, "skipped", 3 - count).await;
        let taken = taken.lock();
        let took: Vec<&str> = taken.iter().filter(|(of, _)| *of == name).map(|(_, subject)| subject.as_str()).collect();
        assert_eq!(took.join(" "), expect, "{name}");
    }
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn workers_outside_get_what_the_stages_let_through() {
    let scene = Scene::new().await;
    let stages = json!([{"where": "data.total >= 24980"}, {"map": "data.items"}]);
    scene.add_pull(asked("outside").stages(stages)).await;
    scene.publish((0..2500).map(order)).await;
    let name = group("outside");
    let deliveries = scene.groups.claim(&name, "test", 10, Duration::from_secs(5)).await.unwrap();
    let got: Vec<_> = deliveries.iter().map(|delivery| delivery.event.data.clone()).collect();
    assert_eq!(got, [Data::Json("[2498]".into()), Data::Json("[2499]".into())]);
    let outcomes = deliveries.iter().map(|delivery| (delivery.lease.token, Outcome::DONE)).collect();
    scene.groups.settle(&name, outcomes).await.unwrap();
    let status = scene.status("outside").await;
    assert_eq!((status.done, status.skipped), (2500, 2498));
    scene.finish().await;
}

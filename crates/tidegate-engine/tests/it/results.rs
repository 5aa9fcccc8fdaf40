//! What handlers answer is kept in the commit that settles.

use tidegate_core::{
    delivery::{Outcome, Position},
    event::{Data, Event},
    fault::FaultClass,
    notice::Notice,
    result::{Answer, RESULT_KIND, ResultsPolicy, result_source},
    store::Stored,
    whereabouts::Find,
};

use crate::scene::*;

fn keeping(name: &str) -> Asked {
    let mut wanted = asked(name);
    wanted.policy.results = Some(ResultsPolicy::new(60 * MINUTE));
    wanted
}

async fn kept(scene: &Scene, name: &str) -> Vec<Stored> {
    scene.store.read(&stream(&format!("{name}.results")), Position::START, 100).await.unwrap().items
}

/// Looks one up as the API does: by an index, without looking at any event.
async fn looked_up(scene: &Scene, name: &str, id: &str) -> Option<Event> {
    let (source, stream) = (result_source(&group(name), "/test"), stream(&format!("{name}.results")));
    let ask = Find { id: id.into(), source: Some(source), stream: Some(stream), look_max: 0 };
    let found = scene.store.find(&ask).await.unwrap().sightings;
    found.into_iter().find_map(|sighting| sighting.stored).map(|stored| stored.event)
}

fn told(seen: &[Notice]) -> Vec<&str> {
    fn of(notice: &Notice) -> Option<&str> {
        if let Notice::ResultKept { event, .. } = notice { Some(event) } else { None }
    }
    seen.iter().filter_map(of).collect()
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_there_when_its_event_is_settled() {
    let mut scene = Scene::new().await;
    let handler = each(|delivery| async move {
        match &*delivery.event.id {
            "silent" => Outcome::DONE,
            "bad" => fail(FaultClass::Invalid),
            id => Outcome::answered(Answer::text(format!("answer to {id}"))),
        }
    });
    scene.add(keeping("answer"), handler).await;
    scene.publish([event("a").with_subject("c-17"), event("silent"), event("bad")]).await;
    scene.until_settled("answer", "done", 2).await;
    scene.until_settled("answer", "dead", 1).await;
    let answer = looked_up(&scene, "answer", "a").await.unwrap();
    assert_eq!((&answer.data, &*answer.kind), (&Data::Text("answer to a".into()), RESULT_KIND));
    assert_eq!(answer.subject.as_deref(), Some("c-17"));
    // Whoever waits learns that it is done, whatever the handler had to say.
    assert_eq!(looked_up(&scene, "answer", "silent").await.map(|event| event.data), Some(Data::None));
    assert_eq!(looked_up(&scene, "answer", "bad").await, None);
    let mut names = told(scene.look());
    names.sort_unstable();
    assert_eq!(names, ["a", "silent"]);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn without_the_wish_nothing_is_kept() {
    let mut scene = Scene::new().await;
    let handler = each(|_| async { Outcome::answered(Answer::text("x")) });
    scene.add(asked("answer"), handler).await;
    scene.publish([event("a")]).await;
    scene.until_settled("answer", "done", 1).await;
    assert!(scene.store.read(&stream("answer.results"), Position::START, 1).await.is_err());
    assert!(told(scene.look()).is_empty());
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_stays_over_runs_and_restarts() {
    let mut scene = Scene::new().await;
    let runs = log();
    let handler = || {
        let runs = runs.clone();
        each(move |_| {
            runs.lock().push(());
            let number = runs.lock().len();
            async move { Outcome::answered(Answer::json(&number).unwrap()) }
        })
    };
    scene.add(keeping("answer"), handler()).await;
    // The group of these tests has no ledger: the same event runs as often as it comes.
    for run in 1..=2 {
        scene.publish([event("a")]).await;
        scene.until_settled("answer", "done", run).await;
    }
    let mut scene = scene.finish().await.restart().await;
    scene.add(keeping("answer"), handler()).await;
    scene.publish([event("a")]).await;
    scene.until_settled("answer", "done", 1).await;
    assert_eq!(runs.lock().len(), 3);
    assert_eq!(kept(&scene, "answer").await.len(), 1);
    assert_eq!(looked_up(&scene, "answer", "a").await.unwrap().data, Data::Json("1".into()));
    scene.world.clock.sleep(61 * MINUTE).await;
    assert_eq!(looked_up(&scene, "answer", "a").await, None, "it is no longer kept");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn workers_outside_answer_too() {
    let scene = Scene::new().await;
    scene.add_pull(keeping("pull")).await;
    scene.publish([event("a").with_data(Data::Text("question".into())).with_subject("c-17")]).await;
    let lent = scene.groups.claim(&group("pull"), "tester", 1, SECOND).await.unwrap();
    let outcome = Outcome::answered(Answer::json(&[1]).unwrap());
    scene.groups.settle(&group("pull"), vec![(lent[0].lease.token, outcome.clone())]).await.unwrap();
    let answer = looked_up(&scene, "pull", "a").await.unwrap();
    assert_eq!((answer.data, answer.subject.as_deref()), (Data::Json("[1]".into()), Some("c-17")));
    // A settle that comes too late answers nothing.
    scene.publish([event("b")]).await;
    let lent = scene.groups.claim(&group("pull"), "tester", 1, SECOND).await.unwrap();
    scene.world.clock.sleep(MINUTE).await;
    drop(scene.groups.claim(&group("pull"), "other", 1, SECOND).await.unwrap());
    scene.groups.settle(&group("pull"), vec![(lent[0].lease.token, outcome)]).await.unwrap();
    assert_eq!(looked_up(&scene, "pull", "b").await, None);
    scene.abort().await;
}

#[tokio::test(start_paused = true)]
async fn groups_of_one_stream_answer_each_for_themselves() {
    let mut scene = Scene::new().await;
    for name in ["first", "second"] {
        scene.add(keeping(name), each(move |_| async move { Outcome::answered(Answer::text(name)) })).await;
    }
    scene.publish([event("a")]).await;
    for name in ["first", "second"] {
        scene.until_settled(name, "done", 1).await;
        assert_eq!(looked_up(&scene, name, "a").await.unwrap().data, Data::Text(name.into()));
    }
    scene.finish().await;
}

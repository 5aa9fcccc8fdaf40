//! Takes orders into a stream on disk, handles each once, and stops cleanly: `cargo run -p tidegate-example-embed -- DIR`

use std::{io::Write as _, path::PathBuf, time::Duration};

use tidegate_core::{
    clock::Clock,
    delivery::{Delivery, Outcome},
    event::Event,
    fault::{Failure, FaultClass, Result},
    handler,
    names::{GroupName, StreamName},
    notice::{Notice, Notices},
    store::{GroupSpec, StreamSpec},
};
use tidegate_engine::{GroupPolicy, Node};

#[tokio::main]
async fn main() -> Result<()> {
    let dir = std::env::args().nth(1).map_or_else(|| PathBuf::from("data"), PathBuf::from);
    let (orders, shipping) = (StreamName::new("orders")?, GroupName::new("shipping")?);
    let (clock, notices) = (Clock::real(), Notices::default());
    let mut settled = notices.tap();

    let store = tidegate_store::open("embedded", &dir, clock.clone(), notices.clone())?;
    store.declare_stream(&StreamSpec::new(orders.clone())).await?;
    let node = Node::start(store.clone(), clock, notices, "example".into());
    let (spec, policy) =
        (GroupSpec::new(shipping.clone(), orders.clone()), GroupPolicy::new(shipping.clone(), orders.clone()));
    node.groups.add(&spec, policy, Some(handler::from_fn(ship))).await?;

    // Durable when the answer is there; a repeat of the same source and id is answered and not stored again.
    let order = |id: &str| Event::new(id.to_owned(), "/shop", "order.placed");
    let accepted = node.publisher.publish(&orders, vec![order("1").with_subject("c-17"), order("2")]).await?;
    say(format!("accepted {} orders", accepted.iter().filter(|one| !one.duplicate).count()));

    while store.group(&shipping).await?.done + store.group(&shipping).await?.dead < 2 {
        settled.wait_for(|notice| matches!(notice, Notice::Settled { .. })).await;
    }
    let status = store.group(&shipping).await?;
    say(format!("done {}, dead {}, unaccounted {}", status.done, status.dead, status.difference()));
    node.drain(Duration::from_secs(5), std::future::pending()).await;
    node.close(|| {}).await.map(drop)
}

async fn ship(delivery: Delivery) -> Outcome {
    match delivery.event.subject {
        Some(ref customer) => say(format!("order {} goes to {customer}", delivery.event.id)),
        None => return Outcome::Reject(Failure::new(FaultClass::Invalid, "the order names no customer")),
    }
    Outcome::DONE
}

fn say(line: String) {
    // A closed terminal is no reason to stop.
    drop(writeln!(std::io::stdout(), "{line}"));
}

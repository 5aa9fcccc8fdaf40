//! What the node that leads does for another one.

use std::{sync::Arc, time::Duration};

use async_nats::Subject;
use tidegate_core::{
    fault::{Fault, Result},
    store::Broker as _,
};
use tokio::sync::mpsc;

use super::{
    Shared,
    calls::{Request, VERSION, What},
    lead::Leading,
    verbs::{Call, Told, ToldFault, Verb as _, read, written},
};

/// Longest time that a node waits for work in one call.
pub(super) const WAIT: Duration = Duration::from_secs(4);

/// Carries out what a node wants, and writes the answer down.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    leading: &Arc<Leading>,
    reply: &Subject,
    body: &[u8],
    replace: &mpsc::Sender<()>,
) -> Option<Vec<u8>> {
    let answer = match read::<Request>(body) {
        Ok(request) if request.node == shared.options.node && request.boot != shared.boot => {
            // Whoever comes later under our name takes our place. Once is enough.
            let _told = replace.try_send(());
            return not_leading();
        }
        Ok(request) => attend(shared, leading, reply, request).await,
        Err(_) => Err(other_version()),
    };
    written(&answer.map_or_else(|fault| Told::Fault(ToldFault::from(&fault)), Told::Done)).ok()
}

/// The answer of a node that leads no longer.
pub(super) fn not_leading() -> Option<Vec<u8>> {
    written(&Told::NotLeading).ok()
}

fn other_version() -> Fault {
    Fault::conflict(
        "the node that leads is of another version of Tidegate: stop the nodes of one version before those of the other start",
    )
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all other verbs need nothing beside")]
async fn attend(shared: &Arc<Shared>, leading: &Arc<Leading>, reply: &Subject, request: Request) -> Result<Vec<u8>> {
    let Request { version, node, boot, unheard, what } = request;
    if version != VERSION {
        return Err(other_version());
    }
    let store = &leading.store;
    let now = shared.options.clock.now();
    let back = shared.sessions.lock().hear(&node, boot, now)?;
    shared.give_back(store, back).await;
    let back = shared.sessions.lock().unheard(&node, &unheard);
    shared.give_back(store, back).await;
    match what {
        What::Hello => Ok(Vec::new()),
        What::Meet(work) => written(&shared.sessions.lock().meet(&node, work)),
        What::Leave => {
            let back = shared.sessions.lock().leave(&node, boot, now);
            shared.give_back(store, back).await;
            Ok(Vec::new())
        }
        What::Verb(call) => match *call {
            Call::Lend(lend) => {
                let marked = store.marks_claims(&lend.ask.group);
                let claimed = lend.run(store).await?;
                let number = reply.rsplit('.').next().and_then(|number| number.parse().ok()).unwrap_or_default();
                shared.sessions.lock().lent(&node, number, marked, &claimed.deliveries);
                written(&claimed)
            }
            Call::Settle(settle) => {
                let tokens: Vec<_> = settle.settled.iter().map(|one| one.token).collect();
                let statuses = settle.run(store).await?;
                shared.sessions.lock().settled(&tokens);
                written(&statuses)
            }
            Call::Extend(extend) => {
                shared.sessions.lock().extended(&node, &extend.tokens, extend.until);
                written(&extend.run(store).await?)
            }
            Call::Wait(wait) => {
                drop(tokio::time::timeout(WAIT, store.wait(&wait.group, wait.until)).await);
                Ok(Vec::new())
            }
            call => call.run(store).await,
        },
    }
}

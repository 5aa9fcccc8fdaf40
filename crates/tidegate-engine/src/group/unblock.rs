//! Deliveries that wait for other events, let go or rejected by hand.

use bytestring::ByteString;
use tidegate_core::{
    delivery::Position,
    fault::{Failure, FaultClass, Result},
    notice::Notice,
    store::{Unblock, UnblockHow},
};

use super::Group;

/// What somebody wants of deliveries that wait for other events.
#[derive(Debug, Clone)]
pub struct UnblockAsk {
    /// Where they stand, and the ids of their events.
    pub chosen: Vec<(Position, ByteString)>,
    /// Into the dead letters; otherwise they run.
    pub reject: bool,
    /// Who wants it.
    pub by: String,
    /// Why.
    pub reason: String,
}

impl Group {
    /// Lets deliveries go that wait, or buries them; false for each that does not wait.
    pub(crate) async fn unblock(&self, ask: &UnblockAsk) -> Result<Vec<bool>> {
        let UnblockAsk { chosen, reject, by, reason } = ask;
        let failure = Failure::new(
            FaultClass::Invalid,
            match reason.as_str() {
                "" => format!("rejected by {by} while it waited for other events"),
                reason => format!("rejected by {by} while it waited for other events: {reason}"),
            },
        );
        let how = match reject {
            true => UnblockHow::Bury { failure: failure.clone(), config: self.config.clone() },
            false => UnblockHow::Run,
        };
        let positions = chosen.iter().map(|(position, _)| *position).collect();
        let (group, said) = (self.name.clone(), (by.as_str().into(), reason.as_str().into()));
        let freed = self.store.unblock(&Unblock { group, positions, how, by: said.0, reason: said.1 }).await?;
        let mut count = 0;
        for ((position, event), _) in chosen.iter().zip(&freed).filter(|(_, freed)| **freed) {
            count += 1;
            self.cx.notices.emit(&Notice::Unblocked {
                group: self.name.clone(),
                event: event.clone(),
                position: *position,
                rejected: *reject,
                by: by.clone(),
                reason: reason.clone(),
            });
            if *reject {
                self.cx.notices.emit(&Notice::DeadLettered {
                    stream: self.stream.clone(),
                    group: self.name.clone(),
                    event: event.clone(),
                    class: failure.class,
                    message: failure.message.clone(),
                    attempts: 0,
                });
            }
        }
        if *reject && count > 0 {
            self.cx.notices.emit(&Notice::Settled { group: self.name.clone(), outcome: "dead", count });
        }
        Ok(freed)
    }
}

//! What operators told other nodes of a group: taken over from the store, and told here as if it were told here.

use std::sync::Arc;

use tidegate_core::{fault::Result, notice::Notice};

use super::{Group, desired};
use crate::peers::{ELSEWHERE, Round};

impl Group {
    /// Does what is wanted by now, when that is not what this node knows.
    pub(crate) async fn heed(self: &Arc<Self>, round: &Round) -> Result<()> {
        self.pacer.share(round.share.of);
        let wanted = desired::told(&round.told, &self.name, self.policy.workers)?;
        let is_known = {
            let known = self.desired.borrow();
            *known == desired::Desired { moving: known.moving, ..wanted }
        };
        if is_known {
            return Ok(());
        }
        let _changing = self.changing.lock().await;
        self.take_over().await
    }

    /// Takes over what the store has; called by whoever holds `changing`, so that nothing newer is known here.
    pub(super) async fn take_over(self: &Arc<Self>) -> Result<()> {
        let wanted = desired::restore(&*self.store, &self.name, self.policy.workers).await?;
        let known = self.desired.borrow().clone();
        self.desired.send_modify(|desired| {
            *desired = desired::Desired { moving: desired.moving, ..wanted.clone() };
        });
        self.hire();
        let (emit, group) = (|notice| self.cx.notices.emit(&notice), || self.name.clone());
        if wanted.workers != known.workers {
            let (workers, by) = (wanted.workers as u64, wanted.scaled_by.unwrap_or_else(|| ELSEWHERE.to_owned()));
            emit(Notice::GroupScaled { group: group(), workers, by });
        }
        if let Some(drain) = wanted.drain.filter(|drain| known.drain.as_ref() != Some(drain)) {
            emit(Notice::GroupDraining { group: group(), by: drain.by, reason: drain.reason, until: drain.until });
        }
        match wanted.paused {
            Some(pause) if known.paused.as_ref() != Some(&pause) => {
                emit(Notice::GroupPaused { group: group(), by: pause.by, reason: pause.reason, until: pause.until });
            }
            None if known.paused.is_some() => {
                emit(Notice::GroupResumed { group: group(), by: ELSEWHERE.to_owned() });
            }
            Some(_) | None => {}
        }
        Ok(())
    }
}

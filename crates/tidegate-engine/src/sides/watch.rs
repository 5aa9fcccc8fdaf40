//! Looks after one side group: says when its range is handled, and lets it go when nothing of it is left to decide.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tidegate_core::{
    fault::{FaultKind, Result},
    names::GroupName,
    service::{Context, Service},
};

use super::Inner;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) struct Watch {
    pub(super) sides: Arc<Inner>,
    pub(super) name: GroupName,
}

#[async_trait]
impl Service for Watch {
    fn name(&self) -> String {
        format!("group/{}/replay", self.name)
    }

    async fn run(&self, cx: Context) -> Result<()> {
        loop {
            if self.look().await? {
                return Ok(());
            }
            tokio::select! {
                () = cx.clock.sleep(LOOK_EVERY) => {}
                () = cx.stop.draining() => return Ok(()),
            }
        }
    }
}

impl Watch {
    /// Looks once; true when there is nothing more to look after.
    async fn look(&self) -> Result<bool> {
        let sides = &self.sides;
        let Some(kept) = sides.live.lock().get(&self.name).map(|live| live.kept.clone()) else { return Ok(true) };
        let (has_ended, keep) = (kept.ended_at.is_some(), kept.ask.keep);
        if kept.over {
            // Whoever removes it now holds the lock, and has removed it when he is done.
            sides.let_go(&self.name).await?;
            return Ok(true);
        }
        if has_ended && keep {
            return Ok(false);
        }
        let status = match sides.store.group(&self.name).await {
            Err(fault) if fault.kind == FaultKind::Missing => return Ok(false),
            status => status?,
        };
        if status.waiting + status.scheduled + status.in_flight > 0 {
            return Ok(false);
        }
        if !has_ended {
            sides.ended(&self.name).await?;
        }
        // Dead letters are sent back to their group: while any waits for somebody, the group has to be there.
        if keep || status.parked > 0 {
            return Ok(false);
        }
        let _changing = sides.changing.lock().await;
        sides.end(&self.name, "tidegate", "all of its range is handled").await?;
        Ok(false)
    }
}

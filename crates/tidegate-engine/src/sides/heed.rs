//! Side groups that another node began, ended or removed.

use std::sync::{Arc, atomic::Ordering};

use async_trait::async_trait;
use tidegate_core::{
    fault::{Fault, FaultKind, Result},
    names::GroupName,
    notice::Notice,
};

use super::{FINISH, Inner, Kept, PREFIX, SideAsk, Sides, key, read};
use crate::peers::{ELSEWHERE, Heed, ROUND_EVERY, Round};

#[async_trait]
impl Heed for Sides {
    fn prefix(&self) -> &'static str {
        PREFIX
    }

    async fn heed(&self, round: &Round) -> Result<()> {
        let inner = &self.0;
        inner.has_peers.store(round.nodes.len() > 1, Ordering::Relaxed);
        for (key, value) in &round.told {
            let (name, wanted) = read(key, value)?;
            let known = inner.live.lock().get(&name).map(|live| live.kept.clone());
            match known {
                Some(known) if known == wanted => {}
                Some(_) => inner.take_in(&name).await?,
                None if wanted.over => {}
                None => inner.begun(name).await?,
            }
        }
        let known: Vec<GroupName> = inner.live.lock().keys().cloned().collect();
        for name in known.iter().filter(|name| !round.told.contains_key(&key(name))) {
            inner.take_in(name).await?;
        }
        Ok(())
    }
}

impl Inner {
    async fn stored(&self, name: &GroupName) -> Result<Option<Kept>> {
        let key = key(name);
        let states = self.store.states(&key).await?;
        let found = states.iter().find(|(found, _)| *found == key);
        found.map(|(key, value)| read(key, value).map(|(_, kept)| kept)).transpose()
    }

    /// Changes what is kept, here and in the store, if it is what is known here; false when it is not.
    pub(super) async fn swap(&self, name: &GroupName, known: &Kept, kept: Kept) -> Result<bool> {
        let write =
            |kept: &Kept| serde_json::to_vec(kept).map_err(|err| Fault::bug("write what a side group is").because(err));
        if !self.store.swap_state(&key(name), Some(&write(known)?), Some(&write(&kept)?)).await? {
            return Ok(false);
        }
        if let Some(live) = self.live.lock().get_mut(name) {
            live.kept = kept;
        }
        Ok(true)
    }

    /// Starts a side group that another node began.
    async fn begun(self: &Arc<Self>, name: GroupName) -> Result<()> {
        let _changing = self.changing.lock().await;
        if self.live.lock().contains_key(&name) {
            return Ok(());
        }
        match self.stored(&name).await?.filter(|kept| !kept.over) {
            Some(kept) => {
                self.open(name.clone(), kept.clone()).await?;
                let SideAsk { of, with, from, before, by, reason, .. } = kept.ask;
                self.cx.notices.emit(&Notice::ReplayStarted { group: name, of, with, from, before, by, reason });
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Takes over what the store has of a side group that is here. What is over is let go by its watch, which has the time.
    pub(super) async fn take_in(&self, name: &GroupName) -> Result<()> {
        let stored = self.stored(name).await?;
        let mut all = self.live.lock();
        let Some(live) = all.get_mut(name) else { return Ok(()) };
        match stored {
            Some(kept) => live.kept = kept,
            None => live.kept.over = true,
        }
        // Nothing of it runs here that would have to be watched.
        if live.kept.over && live.stopper.is_none() {
            all.remove(name);
        }
        Ok(())
    }

    /// Lets go of a side group that is over: for good where that was written here, and else as another node says.
    pub(super) async fn let_go(&self, name: &GroupName) -> Result<()> {
        let _changing = self.changing.lock().await;
        let Some(forgets) = self.live.lock().get(name).map(|live| live.forgets) else { return Ok(()) };
        if forgets {
            return self.wipe(name).await;
        }
        self.wind_down(name).await;
        self.groups.leave(name);
        // What still runs of it is dropped with the stopper.
        self.live.lock().remove(name);
        let (group, by) = (name.clone(), ELSEWHERE.to_owned());
        self.cx.notices.emit(&Notice::GroupRemoved { group, by, reason: String::new() });
        Ok(())
    }

    /// Waits until the other nodes have let go of a side group, if that is soon.
    pub(super) async fn others_let_go(&self, name: &GroupName) -> Result<()> {
        if !self.has_peers.load(Ordering::Relaxed) {
            return Ok(());
        }
        let clock = &self.cx.clock;
        let (heard_at, until) = (clock.now().plus(ROUND_EVERY * 2), clock.now().plus(ROUND_EVERY * 2 + FINISH));
        clock.sleep_until(heard_at).await;
        while clock.now() < until {
            match self.store.group(name).await {
                Err(fault) if fault.kind == FaultKind::Missing => break,
                Ok(status) if status.in_flight == 0 => break,
                Ok(_) => clock.sleep(ROUND_EVERY / 10).await,
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }
}

//! Jobs of other nodes: seen here, ended from here, and driven on when their node is gone.

use std::collections::BTreeMap;

use async_trait::async_trait;
use tidegate_core::{
    fault::{Fault, Result},
    notice::Notice,
};

use super::{
    Cancel, Desk, Inner, Live, PREFIX,
    job::{JobAsk, JobProgress, ask_key, cancel_key, progress_key, read, write},
};
use crate::peers::{Heed, Round, States};

#[async_trait]
impl Heed for Desk {
    fn prefix(&self) -> &'static str {
        PREFIX
    }

    async fn heed(&self, round: &Round) -> Result<()> {
        *self.0.nodes.lock() = Some(round.nodes.clone());
        self.0.take_in(&round.told, None)?;
        let gone: Vec<String> = {
            let jobs = self.0.jobs.lock();
            let is_away = |(id, live): &(&String, &Live)| {
                !live.ask.dry_run && !live.is_driven && !round.told.contains_key(&ask_key(id))
            };
            jobs.iter().filter(is_away).map(|(id, _)| id.clone()).collect()
        };
        for id in gone {
            // It may have begun after the others were read.
            if self.0.store.states(&ask_key(&id)).await?.is_empty() {
                self.0.jobs.lock().remove(&id);
            }
        }
        self.0.came.send_modify(|count| *count += 1);
        Ok(())
    }
}

impl Inner {
    /// Name of this node among those on its engine; empty where there can be only one.
    pub(super) fn own(&self) -> String {
        self.store.node().unwrap_or_default().to_owned()
    }

    /// Reads what is written of all jobs but one.
    pub(super) async fn learn(&self, but: Option<&str>) -> Result<()> {
        let told: States = self.store.states(PREFIX).await?.into_iter().collect();
        self.take_in(&told, but)
    }

    /// Takes in what is written of jobs that are not driven here.
    fn take_in(&self, told: &States, but: Option<&str>) -> Result<()> {
        let mut written: BTreeMap<&str, (JobAsk, JobProgress, Option<Cancel>)> = BTreeMap::new();
        for (key, ask) in told {
            let Some(id) = key.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix("/ask")) else { continue };
            let Some(progress) = told.get(&progress_key(id)).filter(|_| but != Some(id)) else { continue };
            let cancel = told.get(&cancel_key(id)).map(|value| read(id, value)).transpose()?;
            written.insert(id, (read(id, ask)?, read(id, progress)?, cancel));
        }
        let mut jobs = self.jobs.lock();
        let mut is_wanted_otherwise = false;
        for (id, (ask, progress, cancel)) in written {
            let live = jobs.entry(id.to_owned()).or_insert_with(|| Live::new(ask, progress.clone()));
            if !live.is_driven {
                live.progress = progress;
            }
            is_wanted_otherwise |= live.is_driven && live.cancel.is_none() && cancel.is_some();
            live.cancel = live.cancel.or(cancel);
        }
        drop(jobs);
        if is_wanted_otherwise {
            self.ended.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    /// Drives a job no more, if another node does by now; false when it is still this node's.
    pub(super) async fn is_lost(&self, id: &str) -> Result<bool> {
        let key = progress_key(id);
        let states = self.store.states(&key).await?;
        let Some((_, value)) = states.iter().find(|(name, _)| *name == key) else {
            self.jobs.lock().remove(id);
            return Ok(true);
        };
        let progress: JobProgress = read(id, value)?;
        let is_lost = progress.node != self.own();
        if let Some(live) = self.jobs.lock().get_mut(id).filter(|_| is_lost) {
            (live.is_driven, live.progress) = (false, progress);
        }
        Ok(is_lost)
    }

    /// Makes a job this node's own, as it is written; returns how it is written then.
    pub(super) async fn own_it(
        &self,
        id: &str,
        ask: &JobAsk,
        stored: Vec<u8>,
        job: &mut JobProgress,
    ) -> Result<Vec<u8>> {
        if ask.dry_run || stored.is_empty() || job.node == self.own() {
            return Ok(stored);
        }
        let from = std::mem::replace(&mut job.node, self.own());
        let value = write(job)?;
        if !self.store.swap_state(&progress_key(id), Some(&stored), Some(&value)).await? {
            return Err(Fault::conflict(format!("job {id} is taken up by another node")));
        }
        let (job, stream) = (id.to_owned(), ask.stream.clone());
        self.cx.notices.emit(&Notice::DeskJobTakenOver { job, stream, from });
        Ok(value)
    }
}

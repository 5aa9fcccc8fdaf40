//! What operators want of a group: paused or not, how many workers. Kept in the store, so that it survives restarts.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tidegate_core::{
    clock::Timestamp,
    fault::{Fault, Result},
    names::GroupName,
    store::Store,
};

use super::{Drain, Pace};
use crate::peers::States;

/// Why a group does not claim or a source does not bring, at somebody's wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Who paused it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
    /// When it goes on by itself; none = when somebody resumes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Whether it is off for good: it goes on only when somebody enables it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}

/// What is wanted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) workers: usize,
    /// Who set that number; none = the configuration.
    pub(crate) scaled_by: Option<String>,
    pub(crate) paused: Option<Pause>,
    pub(crate) drain: Option<Drain>,
    pub(crate) pace: Option<Pace>,
    /// It is being moved and claims nothing meanwhile; not kept.
    pub(crate) moving: bool,
}

/// A number of workers set by hand.
#[derive(Debug, Serialize, Deserialize)]
struct Scaled {
    workers: usize,
    /// What the configuration asked for then: when that is changed, the change is what somebody wants now.
    configured: usize,
    by: String,
    at: Timestamp,
}

fn key(group: &GroupName, what: &str) -> String {
    format!("group/{group}/{what}")
}

/// Returns what is wanted as the store has it.
pub(crate) async fn restore(store: &dyn Store, group: &GroupName, configured: usize) -> Result<Desired> {
    let states = store.states(&key(group, "")).await?.into_iter().collect();
    told(&states, group, configured)
}

/// Finds what is wanted of a group.
pub(crate) fn told(states: &States, group: &GroupName, configured: usize) -> Result<Desired> {
    let find = |what: &str| states.get(&key(group, what)).map(Vec::as_slice);
    let scaled: Option<Scaled> = read(group, find("workers"))?;
    let scaled = scaled.filter(|scaled| scaled.configured == configured);
    Ok(Desired {
        workers: scaled.as_ref().map_or(configured, |scaled| scaled.workers),
        scaled_by: scaled.map(|scaled| scaled.by),
        paused: read(group, find("paused"))?,
        drain: read(group, find("drain"))?,
        pace: read(group, find("pace"))?,
        moving: false,
    })
}

/// Forgets a pause, if it is still the one that is known; false when something else is wanted by now.
pub(crate) async fn end_pause(store: &dyn Store, group: &GroupName, pause: &Pause) -> Result<bool> {
    forget_if(store, &key(group, "paused"), |value| {
        read::<Pause>(group, Some(value)).ok().flatten().as_ref() == Some(pause)
    })
    .await
}

/// Takes a piece of control state away, if it is as expected.
pub(crate) async fn forget_if(store: &dyn Store, key: &str, is_it: impl Fn(&[u8]) -> bool) -> Result<bool> {
    let states = store.states(key).await?;
    match states.iter().find(|(name, _)| name == key) {
        Some((_, value)) if is_it(value) => store.swap_state(key, Some(value), None).await,
        Some(_) | None => Ok(false),
    }
}

fn read<T: DeserializeOwned>(group: &GroupName, value: Option<&[u8]>) -> Result<Option<T>> {
    let value = value.map(serde_json::from_slice).transpose();
    value.map_err(|err| Fault::corrupt(format!("stored state of group {group} is not readable")).because(err))
}

/// Keeps one wish; none = nobody wishes it any more.
pub(crate) async fn keep<T: Serialize>(
    store: &dyn Store,
    group: &GroupName,
    what: &str,
    wish: Option<&T>,
) -> Result<()> {
    let value = wish.map(write).transpose()?;
    store.put_state(&key(group, what), value.as_deref()).await
}

/// Keeps a pace for a group that is about to be started.
pub(crate) async fn keep_pace(store: &dyn Store, group: &GroupName, pace: &Pace) -> Result<()> {
    keep(store, group, "pace", Some(pace)).await
}

/// Forgets everything that was wanted of a group.
pub(crate) async fn forget_wishes(store: &dyn Store, group: &GroupName) -> Result<()> {
    for (key, _) in store.states(&key(group, "")).await? {
        store.put_state(&key, None).await?;
    }
    Ok(())
}

impl Desired {
    /// Whether nothing is claimed, at somebody's wish.
    pub(crate) fn holds_back(&self) -> bool {
        self.paused.is_some() || self.moving
    }
}

pub(crate) async fn keep_workers(
    store: &dyn Store,
    group: &GroupName,
    workers: usize,
    configured: usize,
    by: &str,
    at: Timestamp,
) -> Result<()> {
    let scaled = write(&Scaled { workers, configured, by: by.to_owned(), at })?;
    store.put_state(&key(group, "workers"), Some(&scaled)).await
}

fn write<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|err| Fault::bug("state of a group cannot be written as JSON").because(err))
}

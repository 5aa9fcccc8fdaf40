//! What a group remembers of what is done.

use async_trait::async_trait;
use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    fault::Result,
    names::GroupName,
    store::{Ledger, LedgerEntry, LedgerStatus},
};

use super::{RedisStore, registry::GroupHead, script::SCRIPTS};

/// Bytes that Redis takes for one entry, about: mark, text and node in a hash, time and mark in a list.
const ENTRY_BYTES: u64 = 170;
/// Most entries that one step forgets.
const CLEAN_MAX: u64 = 5_000;

/// One entry of a ledger, with the number of its event.
pub(crate) struct Mark {
    pub(crate) entry: LedgerEntry,
    pub(crate) number: u64,
}

/// What a ledger says.
pub(crate) struct Marks {
    pub(crate) marks: Vec<Option<Mark>>,
    entries: u64,
    /// Events up to this number run again whatever was done up to this time.
    pub(crate) again: (u64, i64),
}

impl RedisStore {
    /// Asks the ledger of a group, and forgets what it says if that is wanted.
    pub(crate) async fn marks(
        &self,
        head: &GroupHead,
        events: &[(ByteString, ByteString)],
        forget: bool,
    ) -> Result<Marks> {
        let mut ask = self.ask(&SCRIPTS.ledger);
        let now = self.options.clock.now().as_millis();
        ask.number(head.id).number(now).number(u8::from(forget)).number(events.len());
        for (source, id) in events {
            ask.bytes(&self.mark(source, id));
        }
        let mut answer = self.run(ask, &format!("ask the ledger of group {:?}", head.spec.name.as_str())).await?;
        let marks = answer.list()?.each(|one| {
            let mut one = one.list()?;
            if one.is_empty() {
                return Ok(None);
            }
            let entry = LedgerEntry { position: one.position()?, at: one.time()? };
            Ok(Some(Mark { entry, number: one.number()? }))
        })?;
        Ok(Marks { marks, entries: answer.number()?, again: (answer.number()?, answer.number()?) })
    }

    /// Forgets what a group did before a time; returns how much that was.
    pub(crate) async fn clean_before(&self, head: &GroupHead, before: Timestamp) -> Result<u64> {
        let mut cleaned = 0;
        loop {
            let mut ask = self.ask(&SCRIPTS.clean_ledger);
            ask.number(head.id).number(before.as_millis()).number(CLEAN_MAX);
            let mut answer = self.run(ask, "clean a ledger").await?;
            let (seen, gone): (u64, u64) = (answer.number()?, answer.number()?);
            cleaned += gone;
            if seen < CLEAN_MAX {
                return Ok(cleaned);
            }
        }
    }
}

#[async_trait]
impl Ledger for RedisStore {
    async fn done(&self, group: &GroupName, events: &[(ByteString, ByteString)]) -> Result<Vec<bool>> {
        let head = self.group_head(group).await?;
        let answer = self.marks(&head, events, false).await?;
        Ok(answer.marks.iter().map(Option::is_some).collect())
    }

    async fn forget(&self, group: &GroupName, source: &str, id: &str) -> Result<bool> {
        let head = self.group_head(group).await?;
        let answer = self.marks(&head, &[(source.into(), id.into())], true).await?;
        Ok(answer.marks.iter().any(Option::is_some))
    }

    async fn ledger_entry(&self, group: &GroupName, source: &str, id: &str) -> Result<Option<LedgerEntry>> {
        let head = self.group_head(group).await?;
        let answer = self.marks(&head, &[(source.into(), id.into())], false).await?;
        Ok(answer.marks.into_iter().flatten().next().map(|mark| mark.entry))
    }

    async fn clean_ledger(&self, group: &GroupName, before: Timestamp) -> Result<u64> {
        let head = self.group_head(group).await?;
        self.clean_before(&head, before).await
    }

    async fn ledger_status(&self, group: &GroupName) -> Result<LedgerStatus> {
        let head = self.group_head(group).await?;
        let entries = self.marks(&head, &[], false).await?.entries;
        Ok(LedgerStatus { entries, disk_bytes: 0, memory_bytes: entries * ENTRY_BYTES })
    }
}

//! What a group remembers of what is done.

use async_trait::async_trait;
use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    fault::Result,
    names::GroupName,
    store::{Ledger, LedgerEntry, LedgerStatus},
};

use super::{
    PostgresStore,
    link::Lane,
    row::{count, get, position},
};
use crate::served::declared::GroupHead;

/// Bytes that one entry takes on disk with its indexes, about.
const ENTRY_BYTES: u64 = 160;
/// Most entries that one step forgets.
const CLEAN_MAX: i64 = 5_000;

impl PostgresStore {
    /// Asks the ledger of a group.
    pub(crate) async fn entries(
        &self,
        head: &GroupHead,
        events: &[(ByteString, ByteString)],
    ) -> Result<Vec<Option<LedgerEntry>>> {
        let (id, now) = (head.id.cast_signed(), self.now());
        let marks: Vec<Vec<u8>> = events.iter().map(|(source, id)| self.mark(source, id)).collect();
        let what = format!("ask the ledger of group {:?}", head.spec.name.as_str());
        let statement = "SELECT l.n, l.at FROM unnest($3::bytea[]) WITH ORDINALITY u(f, i) LEFT JOIN LATERAL (SELECT l.n, l.at \
                         FROM groups g JOIN ledger l ON l.gid = g.id WHERE g.id = $1 AND l.f = u.f AND NOT l.skipped AND \
                         l.at + g.led > $2 OFFSET 0) l ON true ORDER BY u.i";
        let rows = self.ask(Lane::Look, &what, statement, &[&id, &now, &marks]).await?;
        let entry = |row: &tokio_postgres::Row| {
            let number: Option<i64> = get(row, "n")?;
            let at = super::row::time(row, "at")?;
            Ok(number.zip(at).map(|(number, at)| LedgerEntry { position: position(number), at }))
        };
        rows.iter().map(entry).collect()
    }

    /// Forgets what a group did before a time; returns how much that was.
    pub(crate) async fn clean_before(&self, head: &GroupHead, before: Timestamp) -> Result<u64> {
        let (id, before) = (head.id.cast_signed(), before.as_millis());
        let mut cleaned = 0;
        loop {
            let statement = "SELECT tg_clean_ledger($1, $2, $3) AS gone";
            let row = self.ask_one(Lane::Look, "clean a ledger", statement, &[&id, &before, &CLEAN_MAX]).await?;
            let gone: i64 = get(&row, "gone")?;
            cleaned += count(gone);
            if gone < CLEAN_MAX {
                return Ok(cleaned);
            }
        }
    }
}

#[async_trait]
impl Ledger for PostgresStore {
    async fn done(&self, group: &GroupName, events: &[(ByteString, ByteString)]) -> Result<Vec<bool>> {
        let head = self.group_head(group).await?;
        Ok(self.entries(&head, events).await?.iter().map(Option::is_some).collect())
    }

    async fn forget(&self, group: &GroupName, source: &str, id: &str) -> Result<bool> {
        let head = self.group_head(group).await?;
        let (number, now, mark) = (head.id.cast_signed(), self.now(), self.mark(&source.into(), &id.into()));
        let statement = "DELETE FROM ledger l USING groups g WHERE g.id = $1 AND l.gid = g.id AND l.f = $3 AND NOT l.skipped \
                         AND l.at + g.led > $2 RETURNING l.n";
        let gone = self.ask(Lane::Look, "forget an entry", statement, &[&number, &now, &mark]).await?;
        Ok(!gone.is_empty())
    }

    async fn ledger_entry(&self, group: &GroupName, source: &str, id: &str) -> Result<Option<LedgerEntry>> {
        let head = self.group_head(group).await?;
        Ok(self.entries(&head, &[(source.into(), id.into())]).await?.into_iter().flatten().next())
    }

    async fn clean_ledger(&self, group: &GroupName, before: Timestamp) -> Result<u64> {
        let head = self.group_head(group).await?;
        self.clean_before(&head, before).await
    }

    async fn ledger_status(&self, group: &GroupName) -> Result<LedgerStatus> {
        let id = self.group_head(group).await?.id.cast_signed();
        let statement = "SELECT count(*) AS entries FROM ledger WHERE gid = $1";
        let entries = count(get(&self.ask_one(Lane::Look, "count a ledger", statement, &[&id]).await?, "entries")?);
        Ok(LedgerStatus { entries, disk_bytes: entries * ENTRY_BYTES, memory_bytes: 0 })
    }
}

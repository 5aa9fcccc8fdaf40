//! The seam, carried out by the engine on PostgreSQL.

use std::ops::Range;

use async_trait::async_trait;
use tidegate_core::{
    clock::Timestamp,
    delivery::{LeaseToken, Position, SettleStatus, Settled},
    event::Event,
    fault::Result,
    names::{GroupName, StreamName},
    seek::{Rehearsal, SeekTo, Sought},
    store::{
        Appended, Blocked, Broker, Claim, Claimed, GroupSpec, GroupStatus, Page, Peer, Promises, StoreStatus, Stored,
        StreamSpec, StreamStatus, Unblock,
    },
    whereabouts::{Find, Finding, Standing, Steps},
};

use super::{
    PostgresStore,
    link::{Lane, Values},
    row::{get, number, text},
};
use crate::served::declared::{check_name, dead_spec};

#[async_trait]
impl Broker for PostgresStore {
    fn promises(&self) -> Promises {
        self.promised()
    }

    async fn declare_stream(&self, spec: &StreamSpec) -> Result<()> {
        check_name(spec)?;
        self.declare_one(spec).await?;
        self.declare_one(&dead_spec(spec)).await
    }

    async fn declare_group(&self, spec: &GroupSpec) -> Result<()> {
        self.declare_one_group(spec).await
    }

    async fn remove_group(&self, group: &GroupName) -> Result<()> {
        let id = self.group_head(group).await?.id.cast_signed();
        self.registry.write().groups.remove(group);
        self.ask(Lane::Settle, "remove a group", "SELECT tg_remove_group($1)", &[&id]).await.map(drop)
    }

    async fn locate(&self, group: &GroupName, place: &SeekTo) -> Result<Position> {
        self.find_place(&*self.group_head(group).await?, place).await
    }

    async fn seek(&self, group: &GroupName, to: Position, again: bool) -> Result<Sought> {
        self.move_group(&*self.group_head(group).await?, to, again).await
    }

    async fn rehearse(&self, group: &GroupName, range: Range<Position>, max: usize) -> Result<Rehearsal> {
        self.count_ahead(&*self.group_head(group).await?, range, max).await
    }

    async fn append(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        self.append_all(stream, events).await
    }

    async fn shed(&self, stream: &StreamName, room: u64) -> Result<u64> {
        self.make_room(stream, room).await
    }

    async fn read(&self, stream: &StreamName, from: Position, max: usize) -> Result<Page<Stored>> {
        self.read_page(stream, from, max).await
    }

    async fn claim(&self, ask: &Claim) -> Result<Claimed> {
        self.claim_some(ask).await
    }

    async fn extend(&self, tokens: &[LeaseToken], until: Timestamp) -> Result<Vec<bool>> {
        let groups: Vec<i32> = tokens.iter().map(|token| token.group.cast_signed()).collect();
        let numbers: Vec<i64> = tokens.iter().map(|token| number(token.position)).collect();
        let epochs: Vec<i64> = tokens.iter().map(|token| token.epoch.cast_signed()).collect();
        let owners: Vec<i64> = tokens.iter().map(|token| token.owner.cast_signed()).collect();
        let statement = "SELECT tg_extend($1, $2, $3, $4, $5) AS held";
        let values: Values<'_> = &[&until.as_millis(), &groups, &numbers, &epochs, &owners];
        let row = self.ask_one(Lane::Claim, "extend leases", statement, values).await?;
        Ok(get::<Option<Vec<bool>>>(&row, "held")?.unwrap_or_default())
    }

    async fn unsettled(&self, group: &GroupName, positions: &[Position]) -> Result<Vec<Option<u32>>> {
        let id = self.group_head(group).await?.id.cast_signed();
        let numbers: Vec<i64> = positions.iter().map(|position| number(*position)).collect();
        let statement = "SELECT CASE WHEN d.n IS NOT NULL THEN d.a WHEN u.n > g.cur AND u.n <= s.acc AND u.n < \
                         coalesce(g.end_n, u.n + 1) AND NOT EXISTS (SELECT 1 FROM ahead a WHERE a.gid = g.id AND a.n = u.n) \
                         THEN 0 END AS spent FROM groups g JOIN streams s ON s.id = g.sid \
                         CROSS JOIN unnest($2::bigint[]) WITH ORDINALITY u(n, i) \
                         LEFT JOIN deliveries d ON d.gid = g.id AND d.n = u.n WHERE g.id = $1 ORDER BY u.i";
        let rows = self.ask(Lane::Look, "ask what is not settled", statement, &[&id, &numbers]).await?;
        let spent = |row| Ok(get::<Option<i32>>(row, "spent")?.map(|spent| u32::try_from(spent).unwrap_or(0)));
        rows.iter().map(spent).collect()
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<Vec<SettleStatus>> {
        self.settle_all(settled).await
    }

    async fn blocked(&self, group: &GroupName, from: Position, max: usize) -> Result<Page<Blocked>> {
        self.list_blocked(&*self.group_head(group).await?, from, max).await
    }

    async fn unblock(&self, ask: &Unblock) -> Result<Vec<bool>> {
        self.unblock_some(&*self.group_head(&ask.group).await?, ask).await
    }

    async fn wait(&self, group: &GroupName, until: Timestamp) {
        if let Ok(head) = self.group_head(group).await {
            self.wait_for_work(&head, until).await;
        }
    }

    async fn streams(&self) -> Result<Vec<StreamStatus>> {
        self.stream_statuses().await
    }

    async fn groups(&self) -> Result<Vec<GroupStatus>> {
        self.group_statuses().await
    }

    async fn group(&self, group: &GroupName) -> Result<GroupStatus> {
        self.group_status_of(&*self.group_head(group).await?).await
    }

    async fn find(&self, ask: &Find) -> Result<Finding> {
        self.find_event(ask).await
    }

    async fn standing(&self, group: &GroupName, position: Position) -> Result<Standing> {
        self.standing_of(&*self.group_head(group).await?, position).await
    }

    async fn steps(&self, stream: &StreamName, position: Position) -> Result<Steps> {
        self.steps_of(&*self.stream_head(stream).await?, position).await
    }

    fn node(&self) -> Option<&str> {
        Some(&self.options.node)
    }

    async fn put_state(&self, key: &str, value: Option<&[u8]>) -> Result<()> {
        let statement = match value {
            Some(_) => {
                "INSERT INTO states (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
            }
            None => "DELETE FROM states WHERE key = $1 AND $2::bytea IS NULL",
        };
        self.ask(Lane::Settle, "keep control state", statement, &[&text(key), &value]).await.map(drop)
    }

    async fn swap_state(&self, key: &str, was: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool> {
        let statement = match (was, value) {
            (Some(_), Some(_)) => "UPDATE states SET value = $3 WHERE key = $1 AND value = $2 RETURNING 1",
            (Some(_), None) => "DELETE FROM states WHERE key = $1 AND value = $2 AND $3::bytea IS NULL RETURNING 1",
            (None, Some(_)) => {
                "INSERT INTO states (key, value) SELECT $1, $3 WHERE $2::bytea IS NULL ON CONFLICT DO NOTHING RETURNING 1"
            }
            (None, None) => {
                "SELECT 1 WHERE $2::bytea IS NULL AND $3::bytea IS NULL \
                 AND NOT EXISTS (SELECT 1 FROM states WHERE key = $1)"
            }
        };
        let values: Values<'_> = &[&text(key), &was, &value];
        Ok(!self.ask(Lane::Settle, "change control state", statement, values).await?.is_empty())
    }

    async fn states(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let statement = "SELECT key, value FROM states WHERE starts_with(key, $1)";
        let rows = self.ask(Lane::Look, "read control state", statement, &[&text(prefix)]).await?;
        let mut all = rows.iter().map(|row| Ok((get(row, "key")?, get(row, "value")?))).collect::<Result<Vec<_>>>()?;
        all.sort();
        Ok(all)
    }

    async fn meet(&self, work: &str) -> Result<Vec<Peer>> {
        // A session is there as long as its node shows signs of life.
        let statement = "WITH own AS (UPDATE sessions SET work = $3 WHERE node = $1 AND owner = $2 RETURNING node, work) \
                         SELECT node, work FROM own UNION ALL \
                         SELECT node, work FROM sessions WHERE node <> $1 AND work IS NOT NULL";
        let values: Values<'_> = &[&self.options.node, &self.owner.cast_signed(), &work];
        let rows = self.ask(Lane::Look, "meet the other nodes", statement, values).await?;
        rows.iter().map(|row| Ok(Peer { node: get(row, "node")?, work: get(row, "work")? })).collect()
    }

    async fn upkeep(&self) -> Result<()> {
        let tended = self.tend().await;
        // The loop is alive even while the server is not; that it is not is told apart from it.
        self.show_progress();
        tended
    }

    fn status(&self) -> StoreStatus {
        let told = self.told.lock();
        let damage = self.server.read().faults().into_iter().chain(told.lost.clone()).collect();
        StoreStatus { refusing: self.link.outage(), damage, ..told.status.clone() }
    }

    async fn close(&self) -> Result<()> {
        self.shut().await
    }
}

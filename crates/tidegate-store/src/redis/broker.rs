//! The seam, carried out by the engine on Redis.

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

use super::{RedisStore, hex, reply::Reply, script::SCRIPTS};
use crate::served::declared::{check_name, dead_spec};

#[async_trait]
impl Broker for RedisStore {
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
        let head = self.group_head(group).await?;
        let mut ask = self.ask(&SCRIPTS.remove_group);
        ask.number(head.id);
        self.registry.write().groups.remove(group);
        self.run(ask, "remove a group").await.map(drop)
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
        let mut ask = self.ask(&SCRIPTS.extend);
        ask.number(until.as_millis()).number(tokens.len());
        for token in tokens {
            ask.number(token.group).position(token.position).number(token.epoch).text(&hex(token.owner));
        }
        self.run(ask, "extend leases").await?.each(Reply::flag)
    }

    async fn unsettled(&self, group: &GroupName, positions: &[Position]) -> Result<Vec<Option<u32>>> {
        let head = self.group_head(group).await?;
        let mut ask = self.ask(&SCRIPTS.unsettled);
        ask.number(head.id).number(positions.len());
        for position in positions {
            ask.position(*position);
        }
        let mut answer = self.run(ask, "ask what is not settled").await?;
        answer.each(|spent| Ok(u32::try_from(spent.number::<i64>()?).ok()))
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
        let mut ask = self.ask(&SCRIPTS.put_state);
        ask.text(key).number(u8::from(value.is_some())).bytes(value.unwrap_or_default());
        self.run(ask, "keep control state").await.map(drop)
    }

    async fn swap_state(&self, key: &str, was: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool> {
        let mut ask = self.ask(&SCRIPTS.swap_state);
        ask.text(key);
        for one in [was, value] {
            ask.number(u8::from(one.is_some())).bytes(one.unwrap_or_default());
        }
        self.run(ask, "change control state").await?.flag()
    }

    async fn states(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let mut ask = self.ask(&SCRIPTS.states);
        ask.text(prefix);
        let mut answer = self.run(ask, "read control state").await?;
        let mut all = answer.each(|pair| Ok((pair.text()?, pair.bytes()?.to_vec())))?;
        all.sort();
        Ok(all)
    }

    async fn meet(&self, work: &str) -> Result<Vec<Peer>> {
        let mut ask = self.ask(&SCRIPTS.meet);
        ask.text(&self.options.node).text(work);
        let mut answer = self.run(ask, "meet the other nodes").await?;
        answer.each(|peer| Ok(Peer { node: peer.text()?, work: peer.text()? }))
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

//! Claiming: one call lends. For a group with order keys, what it has not looked at is read before, because its keys stand in
//! the events.

use std::sync::atomic::Ordering;

use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::{Delivery, Lease, LeaseToken, Position},
    event::Event,
    fault::{FaultKind, Result},
    limits,
    store::{Claim, Claimed},
};
use tokio_postgres::Row;

use super::{
    PostgresStore,
    link::{Lane, Values},
    registry::time,
    row::{event, get, number, odd, position},
};
use crate::served::{
    declared::GroupHead,
    lines::attempts,
    patience::{Work, rest},
};

/// How long an event waits whose twin is being processed right now, in milliseconds.
const TWIN_WAIT: i64 = 200;
/// Most events that are shown at a time.
const PAGE: usize = 1_000;
/// Most looks of one claim: enough to see past as many blocked deliveries as a group may have.
const LOOKS_MAX: usize = 2 * limits::ORDER_LOOKAHEAD_MAX / PAGE + 2;

/// A claim on its way.
struct Claiming<'a> {
    head: &'a GroupHead,
    ask: &'a Claim,
    now: Timestamp,
    /// A position up to which the group looks in any case.
    reach: Option<i64>,
    out: Claimed,
    bytes: usize,
}

/// Events and their order keys.
type Shown = (Vec<i64>, Vec<Option<i64>>);

impl Claiming<'_> {
    fn room(&self) -> usize {
        self.ask.max.min(limits::CLAIM_MAX).saturating_sub(self.out.deliveries.len())
    }

    fn stop(&self) -> Option<i64> {
        self.ask.before.map(number)
    }

    fn what(&self) -> String {
        format!("claim for group {:?}", self.ask.group.as_str())
    }
}

/// The order key of an event in a group.
pub(crate) fn key_of(head: &GroupHead, event: &Event) -> Option<i64> {
    head.spec.order_by.as_ref().and_then(|order| order.key(event)).map(u64::cast_signed)
}

impl PostgresStore {
    pub(crate) async fn claim_some(&self, ask: &Claim) -> Result<Claimed> {
        let head = self.group_head(&ask.group).await?;
        let now = self.options.clock.now();
        let mut claiming = Claiming { head: &head, ask, now, reach: None, out: Claimed::default(), bytes: 0 };
        let is_ordered = head.spec.order_by.is_some();
        let is_ranked = head.spec.priority_step.is_some();
        let mut page = if is_ranked { PAGE } else { claiming.room() };
        for _ in 0..LOOKS_MAX {
            let shown = if is_ordered { self.show(&claiming, page.min(PAGE)).await? } else { Shown::default() };
            // By rank, what is lent first is known when all that may be lent is.
            let is_all = !is_ordered || !is_ranked || shown.0.len() < PAGE;
            let room = if is_all { claiming.room() } else { 0 };
            claiming.reach = if is_all { None } else { shown.0.last().copied() };
            let is_more = self.take(&mut claiming, &shown, room).await?;
            if is_all && (!is_more || claiming.room() == 0) {
                break;
            }
            // What was shown could mostly not be lent: a wider look finds sooner what can be.
            page = (page * 2).clamp(16, PAGE);
        }
        if !claiming.out.deliveries.is_empty() {
            claiming.out.next_due = None;
        }
        Ok(claiming.out)
    }

    /// Lets a group look at everything up to a position, as far as it looks at all.
    pub(crate) async fn look_up_to(&self, head: &GroupHead, last: Position) -> Result<()> {
        let ask = Claim {
            group: head.spec.name.clone(),
            max: 0,
            lease: std::time::Duration::ZERO,
            before: Some(Position { low: last.low.saturating_add(1), ..last }),
        };
        let mut claiming = Claiming {
            head,
            ask: &ask,
            now: self.options.clock.now(),
            reach: Some(number(last)),
            out: Claimed::default(),
            bytes: 0,
        };
        for _ in 0..LOOKS_MAX {
            let mut shown = Shown::default();
            if head.spec.order_by.is_some() {
                shown = self.show(&claiming, PAGE).await?;
            }
            self.take(&mut claiming, &shown, 0).await?;
            if shown.0.len() < PAGE {
                break;
            }
        }
        Ok(())
    }

    async fn show(&self, claiming: &Claiming<'_>, page: usize) -> Result<Shown> {
        let (id, stop) = (claiming.head.id.cast_signed(), claiming.stop());
        let room = i32::try_from(claiming.room().max(1)).unwrap_or(i32::MAX);
        let page = i32::try_from(page.max(1)).unwrap_or(i32::MAX);
        let bytes = i64::try_from(limits::CLAIM_BYTES_MAX).unwrap_or(i64::MAX);
        let statement = "SELECT n, body FROM tg_show($1, $2, $3, $4, $5)";
        let rows = self.ask(Lane::Claim, &claiming.what(), statement, &[&id, &stop, &room, &page, &bytes]).await?;
        let mut shown = Shown::default();
        for row in rows {
            shown.0.push(get(&row, "n")?);
            shown.1.push(key_of(claiming.head, &event(get(&row, "body")?)?));
        }
        Ok(shown)
    }

    /// Lends; returns whether the group should be asked for more.
    async fn take(&self, claiming: &mut Claiming<'_>, shown: &Shown, room: usize) -> Result<bool> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let (id, owner, epoch) = (claiming.head.id.cast_signed(), self.owner.cast_signed(), call.cast_signed());
        let (now, room) = (claiming.now.as_millis(), i32::try_from(room).unwrap_or(i32::MAX));
        let (lease, stop) = (time(claiming.ask.lease), claiming.stop());
        let (unheard, ends) = {
            let mut told = self.told.lock();
            (told.unheard(claiming.head.id, claiming.now), told.looks_for_ends(claiming.head.id, claiming.now))
        };
        let unheard: Vec<i64> = unheard.into_iter().map(u64::cast_signed).collect();
        let most = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
        let bytes = most(limits::CLAIM_BYTES_MAX.saturating_sub(claiming.bytes));
        let (flight, line) = (most(limits::IN_FLIGHT_MAX), most(limits::ORDER_LOOKAHEAD_MAX));
        let has_some = !claiming.out.deliveries.is_empty();
        let statement =
            "SELECT * FROM tg_take($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)";
        let values: Values<'_> = &[
            &id,
            &self.options.node,
            &owner,
            &now,
            &room,
            &lease,
            &epoch,
            &unheard,
            &stop,
            &claiming.reach,
            &shown.0,
            &shown.1,
            &bytes,
            &flight,
            &line,
            &TWIN_WAIT,
            &has_some,
            &ends,
        ];
        let row = self.ask_one(Lane::Claim, &claiming.what(), statement, values).await.inspect_err(|fault| {
            if matches!(fault.kind, FaultKind::Unavailable | FaultKind::Timeout) {
                let ends_at = claiming.now.plus(claiming.ask.lease);
                self.told.lock().lost_answer(claiming.head.id, call, ends_at);
            }
        })?;
        if ends {
            self.told.lock().next_end(claiming.head.id, super::row::time(&row, "o_ends")?);
        }
        self.lent(claiming, call, &row)?;
        let lost = u32::try_from(get::<i32>(&row, "o_lost")?).unwrap_or(0);
        if lost > 0 {
            claiming.out.leases_lost += lost;
            *self.told.lock().leases_lost.entry(claiming.head.id).or_default() += u64::from(lost);
        }
        claiming.out.duplicates += u32::try_from(get::<i32>(&row, "o_dup")?).unwrap_or(0);
        claiming.out.expired += u32::try_from(get::<i32>(&row, "o_exp")?).unwrap_or(0);
        claiming.out.next_due = super::row::time(&row, "o_due")?;
        get(&row, "o_more")
    }

    fn lent(&self, claiming: &mut Claiming<'_>, call: u64, row: &Row) -> Result<()> {
        fn list<'r, T: tokio_postgres::types::FromSql<'r>>(row: &'r Row, name: &str) -> Result<std::vec::IntoIter<T>> {
            Ok(get::<Option<Vec<T>>>(row, name)?.unwrap_or_default().into_iter())
        }
        let (mut times, mut spent, mut crashes) =
            (list(row, "o_at")?, list::<i32>(row, "o_a")?, list::<i32>(row, "o_c")?);
        let (mut histories, mut bodies) = (list::<&str>(row, "o_hist")?, list::<Vec<u8>>(row, "o_body")?);
        for number in list::<i64>(row, "o_n")? {
            let (Some(at), Some(spent), Some(crashes)) = (times.next(), spent.next(), crashes.next()) else {
                return Err(odd());
            };
            let (Some(history), Some(body)) = (histories.next(), bodies.next()) else { return Err(odd()) };
            claiming.bytes += body.len() + 48;
            let position = position(number);
            let token = LeaseToken { owner: self.owner, group: claiming.head.id, position, epoch: call };
            claiming.out.deliveries.push(Delivery {
                event: event(body)?,
                stream: claiming.head.spec.stream.clone(),
                position,
                accepted_at: Timestamp::from_millis(at),
                attempt: u32::try_from(spent).unwrap_or(0) + 1,
                crashes: u32::try_from(crashes).unwrap_or(0),
                history: attempts(history),
                lease: Lease { token, expires_at: claiming.now.plus(claiming.ask.lease) },
            });
        }
        Ok(())
    }

    /// By what ledgers recognise an event.
    pub(crate) fn mark(&self, source: &ByteString, id: &ByteString) -> Vec<u8> {
        self.key.of(source, id).to_le_bytes().to_vec()
    }

    /// Returns when the group may have work, at the latest at `until`.
    pub(crate) async fn wait_for_work(&self, head: &GroupHead, until: Timestamp) {
        let bell = self.wake.bell(head.id);
        loop {
            let mut notified = std::pin::pin!(bell.notified());
            notified.as_mut().enable();
            let found = self.peek(head).await;
            if !rest(&self.options.clock, notified, self.options.poll, until, found).await {
                return;
            }
        }
    }

    async fn peek(&self, head: &GroupHead) -> Result<Work> {
        let (id, line) = (head.id.cast_signed(), i64::try_from(limits::ORDER_LOOKAHEAD_MAX).unwrap_or(i64::MAX));
        let statement = "SELECT o_work, o_due, o_ends FROM tg_peek($1, $2)";
        let row = self.ask_one(Lane::Look, "look for work", statement, &[&id, &line]).await?;
        if get(&row, "o_work")? {
            return Ok(Work::Now);
        }
        let (due, ends) = (super::row::time(&row, "o_due")?, super::row::time(&row, "o_ends")?);
        if ends.is_some_and(|ends| ends <= self.options.clock.now()) {
            self.told.lock().knows_end(head.id);
        }
        Ok(Work::At([due, ends]))
    }
}

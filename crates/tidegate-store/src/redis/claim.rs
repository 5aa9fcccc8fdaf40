//! Claiming: what may be lent is shown by one script, judged here, and lent by a second one if it still may be.

use std::sync::atomic::Ordering;

use bytestring::ByteString;
use tidegate_core::{
    after,
    clock::Timestamp,
    delivery::{Delivery, Lease, LeaseToken, Position},
    event::{DELIVER_AT, EXPIRY_TIME, Event},
    fault::{FaultKind, Result},
    limits, priority,
    store::{Claim, Claimed},
};

use super::{
    RedisStore,
    entry::{Parsed, attempts, parse},
    hex,
    packed::Packed,
    registry::{GroupHead, millis},
    reply::{behind, id_text},
    script::{Ask, SCRIPTS},
};
pub(crate) use crate::served::facts::instant;
use crate::served::patience::{Work, rest};

/// How long an event waits whose twin is being processed right now, in milliseconds.
const TWIN_WAIT: u64 = 200;
/// Most events that are looked at in one step.
const PAGE: usize = 512;
/// Most looks of one claim: enough to see past as many blocked deliveries as a group may have.
const LOOKS_MAX: usize = 2 * limits::ORDER_LOOKAHEAD_MAX / PAGE;

/// What one look showed.
struct Shown {
    generation: u64,
    /// How many of those shown may have no rank yet; they come first.
    fresh: usize,
    /// Whether some of them may be lent: in the order of ranks, only when all have one.
    lends: bool,
    /// Whether there may be more than was shown.
    more: bool,
    due: Option<Timestamp>,
    found: Vec<Parsed>,
}

/// A claim on its way.
struct Claiming<'a> {
    head: &'a GroupHead,
    ask: &'a Claim,
    now: Timestamp,
    out: Claimed,
    bytes: usize,
}

impl Claiming<'_> {
    fn room(&self) -> usize {
        self.ask.max.min(limits::CLAIM_MAX).saturating_sub(self.out.deliveries.len())
    }
}

/// The order key of an event in a group, as the scripts know it; empty when it has none.
pub(crate) fn key_text(head: &GroupHead, event: &Event) -> String {
    let key = head.spec.order_by.as_ref().and_then(|order| order.key(event));
    key.map_or_else(String::new, |key| format!("{key:016x}"))
}

impl RedisStore {
    pub(crate) async fn claim_some(&self, ask: &Claim) -> Result<Claimed> {
        let head = self.group_head(&ask.group).await?;
        let turn = usize::try_from(head.id).unwrap_or_default() % self.turns.len();
        // While the server is silent nobody's turn comes: then each goes without and has its own deadline.
        let _turn = match self.turns.get(turn) {
            Some(turn) => tokio::time::timeout(self.options.timeout, turn.lock()).await.ok(),
            None => None,
        };
        let now = self.options.clock.now();
        let mut claiming = Claiming { head: &head, ask, now, out: Claimed::default(), bytes: 0 };
        // By rank, what is lent first is known when all that may be lent is.
        let mut page = if head.spec.priority_step.is_some() { PAGE } else { claiming.room() };
        for _ in 0..LOOKS_MAX {
            let shown = self.look(&mut claiming, page.min(PAGE)).await?;
            claiming.out.next_due = shown.due;
            if shown.found.is_empty() || !self.lend(&mut claiming, &shown).await? {
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

    /// Lets a group look at everything before a position or at it, as far as it looks at all, and lends nothing.
    pub(crate) async fn look_up_to(&self, head: &GroupHead, last: Position) -> Result<()> {
        let lease = std::time::Duration::ZERO;
        let ask = Claim { group: head.spec.name.clone(), max: 0, lease, before: Some(behind(last)) };
        let now = self.options.clock.now();
        let mut claiming = Claiming { head, ask: &ask, now, out: Claimed::default(), bytes: 0 };
        for _ in 0..limits::ORDER_LOOKAHEAD_MAX / PAGE {
            let shown = self.look(&mut claiming, PAGE).await?;
            if shown.found.is_empty() || !self.lend(&mut claiming, &shown).await? {
                break;
            }
        }
        Ok(())
    }

    fn of_session(&self, ask: &mut Ask, claiming: &Claiming<'_>) {
        ask.number(claiming.head.id).text(&self.options.node).text(&hex(self.owner)).number(claiming.now.as_millis());
    }

    async fn look(&self, claiming: &mut Claiming<'_>, page: usize) -> Result<Shown> {
        let mut ask = self.ask(&SCRIPTS.look);
        self.of_session(&mut ask, claiming);
        ask.number(page)
            .number(claiming.room())
            .number(millis(claiming.ask.lease))
            .maybe_position(claiming.ask.before)
            .number(limits::CLAIM_BYTES_MAX)
            .number(limits::IN_FLIGHT_MAX)
            .number(limits::ORDER_LOOKAHEAD_MAX);
        let unheard = self.told.lock().unheard(claiming.head.id, claiming.now);
        ask.number(unheard.len());
        for number in unheard {
            ask.number(number);
        }
        let mut answer = self.run(ask, &format!("claim for group {:?}", claiming.ask.group.as_str())).await?;
        let lost: u32 = answer.number()?;
        if lost > 0 {
            claiming.out.leases_lost += lost;
            *self.told.lock().leases_lost.entry(claiming.head.id).or_default() += u64::from(lost);
        }
        let generation = answer.number()?;
        let (fresh, lends, more) = (answer.number()?, answer.flag()?, answer.flag()?);
        let due = answer.maybe_time()?;
        let stream = &claiming.head.spec.stream;
        let found = answer.list()?.each(|entry| parse(&entry.entry()?, stream))?;
        Ok(Shown { generation, fresh, lends, more: more || answer.flag()?, due, found })
    }

    /// Lends what still may be lent of what was shown; returns whether there may be more.
    async fn lend(&self, claiming: &mut Claiming<'_>, shown: &Shown) -> Result<bool> {
        let mut ask = self.ask(&SCRIPTS.lend);
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        self.of_session(&mut ask, claiming);
        ask.number(claiming.room())
            .number(millis(claiming.ask.lease))
            .number(call)
            .number(shown.generation)
            .number(limits::CLAIM_BYTES_MAX)
            .number(claiming.bytes)
            .number(limits::ORDER_LOOKAHEAD_MAX)
            .number(TWIN_WAIT)
            .number(shown.fresh)
            .number(u8::from(shown.lends));
        let mut packed = Packed::default();
        packed.list(shown.found.len());
        for parsed in &shown.found {
            self.candidate(&mut packed, claiming.head, parsed);
        }
        ask.bytes(packed.as_bytes());
        let ran = self.run(ask, &format!("claim for group {:?}", claiming.ask.group.as_str())).await;
        let mut answer = ran.inspect_err(|fault| {
            if matches!(fault.kind, FaultKind::Unavailable | FaultKind::Timeout) {
                let ends_at = claiming.now.plus(claiming.ask.lease);
                self.told.lock().lost_answer(claiming.head.id, call, ends_at);
            }
        })?;
        let mut lent = answer.list()?;
        while !lent.is_empty() {
            let mut one = lent.list()?;
            let index: usize = one.number()?;
            let Some(parsed) = shown.found.get(index.saturating_sub(1)) else { continue };
            let (epoch, spent, crashes): (u64, u32, u32) = (one.number()?, one.number()?, one.number()?);
            let history = attempts(&one.text()?);
            let token = LeaseToken { owner: self.owner, group: claiming.head.id, position: parsed.position, epoch };
            claiming.bytes += parsed.event.size();
            claiming.out.deliveries.push(Delivery {
                event: parsed.event.clone(),
                stream: claiming.head.spec.stream.clone(),
                position: parsed.position,
                accepted_at: parsed.accepted_at(),
                attempt: spent + 1,
                crashes,
                history,
                lease: Lease { token, expires_at: claiming.now.plus(claiming.ask.lease) },
            });
        }
        claiming.out.duplicates += answer.number::<u32>()?;
        claiming.out.expired += answer.number::<u32>()?;
        claiming.out.next_due = answer.maybe_time()?;
        let (is_full, is_left) = (answer.flag()?, answer.flag()?);
        Ok(!is_full && (shown.more || is_left))
    }

    fn candidate(&self, packed: &mut Packed, head: &GroupHead, parsed: &Parsed) {
        let event = &parsed.event;
        let (group, past) = (parsed.head.group, &parsed.head.past);
        let time = |name| instant(event, name).map(Timestamp::as_millis);
        packed
            .list(12)
            .text(&id_text(parsed.position))
            .maybe(parsed.number.map(|number| i64::try_from(number).unwrap_or(i64::MAX)))
            .bytes(&self.mark(&event.source, &event.id))
            .text(&key_text(head, event));
        match group {
            0 => packed.flag(false),
            group => packed.text(&group.to_string()),
        };
        packed
            .flag(parsed.head.forced)
            .maybe(time(EXPIRY_TIME))
            .maybe(time(DELIVER_AT))
            .count(event.size())
            .text(past)
            // What was stored before the attribute had its meaning may be no number.
            .number(i64::from(priority::of(event).unwrap_or(priority::PRIORITY_USUAL)))
            .bytes(&self.named(event));
    }

    /// By what ledgers recognise the events that one names, one behind the other.
    pub(crate) fn named(&self, event: &Event) -> Vec<u8> {
        // Nor may it be a list: then it names nobody.
        let names = after::names(event).unwrap_or_default();
        names.iter().flat_map(|name| self.mark(&name.source, &name.id)).collect()
    }

    /// By what ledgers recognise an event.
    pub(crate) fn mark(&self, source: &ByteString, id: &ByteString) -> [u8; 16] {
        self.key.of(source, id).to_le_bytes()
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
        let mut ask = self.ask(&SCRIPTS.peek);
        ask.number(head.id).number(limits::ORDER_LOOKAHEAD_MAX);
        let mut answer = self.run(ask, "look for work").await?;
        if answer.flag()? {
            return Ok(Work::Now);
        }
        Ok(Work::At([answer.maybe_time()?, answer.maybe_time()?]))
    }
}

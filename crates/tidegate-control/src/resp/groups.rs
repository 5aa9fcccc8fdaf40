//! Commands on consumer groups. A group is one of the configuration whose sink is `pull`; what a consumer reads it holds under
//! a lease, and XACK settles it.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::{LeaseToken, Outcome, Position},
    fault::FaultKind,
    limits,
    names::{GroupName, StreamName},
    seek::SeekTo,
    store::{GroupStatus, Stored},
};
use tidegate_engine::{PullStatus, SeekAsk};

use super::{
    args::{Args, Refusal, Result, id, id_text},
    lent::Loan,
    streams::{entry, status},
    talk::Talk,
    wire::Reply,
};
use crate::api::Api;

/// Entries of an answer when the request does not say.
const COUNT_DEFAULT: usize = 100;
/// How long what is in flight may take to finish before a group is moved.
const SEEK_WAIT: Duration = Duration::from_secs(5);

/// Reads the stream and the group that a command is about.
fn stream_and_group(talk: &Talk, args: &mut Args) -> Result<(StreamName, GroupName)> {
    let (stream, group) = (args.stream()?, args.group()?);
    check_group(&talk.api, &stream, &group)?;
    Ok((stream, group))
}

fn check_group(api: &Api, stream: &StreamName, group: &GroupName) -> Result<()> {
    let refuse = |why: String| Err(Refusal(format!("NOGROUP {why}")));
    match api.groups.glance(group) {
        Ok(glance) if glance.stream == *stream && glance.pull => Ok(()),
        Ok(glance) if glance.stream == *stream => {
            refuse(format!("group {group} has its workers inside of the node: its sink is not pull"))
        }
        Ok(glance) => refuse(format!("group {group} reads stream {}, not {stream}", glance.stream)),
        Err(fault) if fault.kind == FaultKind::Missing => refuse(format!(
            "there is no group {group}: put it into the configuration, with from: {stream} and sink: pull"
        )),
        Err(fault) => Err(fault.into()),
    }
}

pub(super) async fn xgroup(talk: &Talk, mut args: Args) -> Result<Reply> {
    if args.takes("CREATE") {
        stream_and_group(talk, &mut args)?;
        return Err(Refusal("BUSYGROUP the group is there: it is made by the configuration".to_owned()));
    }
    if args.takes("CREATECONSUMER") || args.takes("DELCONSUMER") {
        stream_and_group(talk, &mut args)?;
        // Consumers are who reads; a lease ends by itself.
        return Ok(Reply::Number(0));
    }
    if args.takes("SETID") {
        let (_, group) = stream_and_group(talk, &mut args)?;
        let to = args.text()?;
        let place = match to.as_str() {
            "$" => SeekTo::Latest,
            "0" | "0-0" => SeekTo::Earliest,
            text => match id(text, 0) {
                // It names the last one that is not read again.
                Some(position) => SeekTo::At(Position { low: position.low.saturating_add(1), ..position }),
                None => return Err(args.wrong(&format!("takes an id or $, not {text:?}"))),
            },
        };
        let to = talk.api.groups.locate(&group, &place).await?;
        let ask = SeekAsk {
            again: false,
            rate: None,
            wait: SEEK_WAIT,
            by: talk.actor()?.to_string(),
            reason: "XGROUP SETID over the Redis protocol".to_owned(),
        };
        talk.api.groups.seek(&group, to, &ask).await?;
        return Ok(Reply::OK);
    }
    Err(args.wrong("knows CREATE, SETID, CREATECONSUMER and DELCONSUMER; groups are removed from the configuration"))
}

/// What XREADGROUP asks for.
struct Reading {
    stream: StreamName,
    group: GroupName,
    consumer: ByteString,
    count: usize,
    /// How long it waits for what is new; none = not at all, zero = for ever.
    block: Option<Duration>,
    /// The id behind which it reads what it holds; none = what is new.
    behind: Option<Position>,
}

fn reading(talk: &Talk, args: &mut Args) -> Result<Reading> {
    if !args.takes("GROUP") {
        return Err(args.missing());
    }
    let (group, consumer) = (args.group()?, args.text()?.into());
    let (mut count, mut block) = (COUNT_DEFAULT, None);
    while !args.takes("STREAMS") {
        if args.takes("COUNT") {
            count = args.number::<usize>()?.clamp(1, limits::CLAIM_MAX);
        } else if args.takes("BLOCK") {
            block = Some(Duration::from_millis(args.number()?));
        } else if args.takes("NOACK") {
            return Err(args.wrong("NOACK would lose what a consumer has not finished: acknowledge with XACK"));
        } else if args.left() == 0 {
            return Err(args.missing());
        } else {
            args.end()?;
        }
    }
    if args.left() != 2 {
        return Err(args.wrong("reads one stream: that of the group"));
    }
    let (stream, from) = (args.stream()?, args.text()?);
    check_group(&talk.api, &stream, &group)?;
    let behind = match from.as_str() {
        ">" => None,
        text => Some(id(text, 0).ok_or_else(|| args.wrong(&format!("takes > or an id, not {text:?}")))?),
    };
    Ok(Reading { stream, group, consumer, count, block, behind })
}

pub(super) async fn xreadgroup(talk: &Talk, mut args: Args) -> Result<Reply> {
    let ask = reading(talk, &mut args)?;
    let Some(behind) = ask.behind else { return read_new(talk, &ask).await };
    let now = talk.api.cx.clock.now();
    let mut loans = talk.api.lent.from(&ask.group, Bound::Excluded(behind), now);
    loans.retain(|loan| loan.consumer == ask.consumer);
    loans.truncate(ask.count);
    let entries = held(&talk.api, &ask.stream, &loans).await?;
    Ok(of_stream(&ask.stream, entries))
}

fn of_stream(stream: &StreamName, entries: Vec<Reply>) -> Reply {
    Reply::List(vec![Reply::List(vec![Reply::text(stream.as_str()), Reply::List(entries)])])
}

async fn read_new(talk: &Talk, ask: &Reading) -> Result<Reply> {
    let api = &talk.api;
    let clock = &api.cx.clock;
    let until = ask.block.filter(|block| !block.is_zero()).map(|block| clock.now().plus(block));
    loop {
        let wait = match (ask.block, until) {
            (None, _) => Duration::ZERO,
            (Some(_), None) => limits::CLAIM_WAIT_MAX,
            (Some(_), Some(until)) => until.since(clock.now()).min(limits::CLAIM_WAIT_MAX),
        };
        let deliveries = api.groups.claim(&ask.group, &ask.consumer, ask.count, wait).await?;
        if !deliveries.is_empty() {
            api.lent.add(&ask.group, &ask.consumer, &deliveries, clock.now());
            let entries = deliveries
                .iter()
                .map(|delivery| entry(delivery.position, &delivery.event, &ask.stream, delivery.accepted_at));
            return Ok(of_stream(&ask.stream, entries.collect()));
        }
        let is_over = until.map_or(ask.block.is_none(), |until| clock.now() >= until);
        if is_over || talk.is_ending() {
            return Ok(Reply::Nothing);
        }
    }
}

/// The events of loans, as entries. One that retention removed has no fields.
async fn held(api: &Arc<Api>, stream: &StreamName, loans: &[Loan]) -> Result<Vec<Reply>> {
    let mut entries = Vec::with_capacity(loans.len());
    for loan in loans {
        let page = api.store.read(stream, loan.position, 1).await?;
        let found: Option<Stored> = page.items.into_iter().next().filter(|stored| stored.position == loan.position);
        entries.push(match found {
            Some(stored) => entry(stored.position, &stored.event, stream, stored.accepted_at),
            None => Reply::List(vec![Reply::text(id_text(loan.position)), Reply::Nothing]),
        });
    }
    Ok(entries)
}

/// Settles what was read as done; counts what is durably so now. What nobody holds any more is not counted.
pub(super) async fn xack(talk: &Talk, mut args: Args) -> Result<Reply> {
    let (_, group) = stream_and_group(talk, &mut args)?;
    let ids = args.ids()?;
    let loans = talk.api.lent.of(&group, &ids);
    if loans.is_empty() {
        return Ok(Reply::Number(0));
    }
    let outcomes = loans.iter().map(|loan| (loan.token, Outcome::DONE)).collect();
    let settled = talk.api.groups.settle(&group, outcomes).await?;
    talk.api.lent.forget(&group, &loans);
    Ok(Reply::count(settled.iter().filter(|status| **status == PullStatus::Settled).count()))
}

/// Hands loans to a consumer, with new leases; returns those whose leases were not lost.
async fn hand_over(api: &Api, group: &GroupName, loans: Vec<Loan>, to: &ByteString) -> Result<Vec<Loan>> {
    let Some(lease) = loans.iter().map(|loan| loan.lease).max() else { return Ok(loans) };
    let tokens: Vec<LeaseToken> = loans.iter().map(|loan| loan.token).collect();
    let extended = api.groups.extend(group, &tokens, lease).await?;
    let (mut kept, mut lost) = (Vec::new(), Vec::new());
    for (loan, is_kept) in loans.into_iter().zip(extended) {
        if is_kept { kept.push(loan) } else { lost.push(loan) }
    }
    api.lent.hand_over(group, &kept, to, api.cx.clock.now());
    api.lent.forget(group, &lost);
    Ok(kept)
}

fn is_idle(loan: &Loan, idle: Duration, now: Timestamp) -> bool {
    now.since(loan.since) >= idle
}

/// Takes over what is held for long enough, whoever holds it, and begins its lease anew.
pub(super) async fn xclaim(talk: &Talk, mut args: Args) -> Result<Reply> {
    let (stream, group) = stream_and_group(talk, &mut args)?;
    let (consumer, idle): (ByteString, _) = (args.text()?.into(), Duration::from_millis(args.number()?));
    let (mut ids, mut only_ids) = (Vec::new(), false);
    while args.left() > 0 {
        if args.takes("JUSTID") {
            only_ids = true;
        } else if args.takes("IDLE") || args.takes("TIME") || args.takes("RETRYCOUNT") || args.takes("LASTID") {
            // The lease says how long, and the node counts attempts.
            args.word()?;
        } else if !args.takes("FORCE") {
            ids.push(args.id()?);
        }
    }
    let now = talk.api.cx.clock.now();
    let mut loans = talk.api.lent.of(&group, &ids);
    loans.retain(|loan| is_idle(loan, idle, now));
    let loans = hand_over(&talk.api, &group, loans, &consumer).await?;
    Ok(Reply::List(claimed(talk, &stream, &loans, only_ids).await?))
}

async fn claimed(talk: &Talk, stream: &StreamName, loans: &[Loan], only_ids: bool) -> Result<Vec<Reply>> {
    if only_ids {
        return Ok(loans.iter().map(|loan| Reply::text(id_text(loan.position))).collect());
    }
    held(&talk.api, stream, loans).await
}

/// The same for all from an id on. What has lost its lease is new again, and read with XREADGROUP.
pub(super) async fn xautoclaim(talk: &Talk, mut args: Args) -> Result<Reply> {
    let (stream, group) = stream_and_group(talk, &mut args)?;
    let (consumer, idle): (ByteString, _) = (args.text()?.into(), Duration::from_millis(args.number()?));
    let start = match args.text()?.as_str() {
        "-" => Position::START,
        text => id(text, 0).ok_or_else(|| args.wrong(&format!("takes an id, not {text:?}")))?,
    };
    let count = if args.takes("COUNT") { args.number::<usize>()?.clamp(1, limits::CLAIM_MAX) } else { COUNT_DEFAULT };
    let only_ids = args.takes("JUSTID");
    args.end()?;
    let now = talk.api.cx.clock.now();
    let mut loans = talk.api.lent.from(&group, Bound::Included(start), now);
    loans.retain(|loan| is_idle(loan, idle, now));
    let next = loans.get(count).map_or(Position::START, |loan| loan.position);
    loans.truncate(count);
    let loans = hand_over(&talk.api, &group, loans, &consumer).await?;
    let entries = claimed(talk, &stream, &loans, only_ids).await?;
    Ok(Reply::List(vec![Reply::text(id_text(next)), Reply::List(entries), Reply::List(Vec::new())]))
}

pub(super) async fn xpending(talk: &Talk, mut args: Args) -> Result<Reply> {
    let (_, group) = stream_and_group(talk, &mut args)?;
    let now = talk.api.cx.clock.now();
    if args.left() == 0 {
        return Ok(summary(&talk.api.lent.from(&group, Bound::Unbounded, now)));
    }
    let idle = if args.takes("IDLE") { Duration::from_millis(args.number()?) } else { Duration::ZERO };
    let (from, to) = (args.text()?, args.text()?);
    let count: usize = args.number()?;
    let consumer = if args.left() > 0 { Some(args.text()?) } else { None };
    args.end()?;
    let bound = |text: &str, otherwise: u64| match text {
        "-" => Some(Bound::Unbounded),
        "+" => Some(Bound::Included(Position { high: u64::MAX, low: u64::MAX })),
        text => match text.strip_prefix('(') {
            Some(text) => id(text, otherwise).map(Bound::Excluded),
            None => id(text, otherwise).map(Bound::Included),
        },
    };
    let (Some(first), Some(last)) = (bound(&from, 0), bound(&to, u64::MAX)) else {
        return Err(args.wrong("takes ids, - and +"));
    };
    let is_before_end = |position: Position| match last {
        Bound::Included(last) => position <= last,
        Bound::Excluded(last) => position < last,
        Bound::Unbounded => false,
    };
    let mut loans = talk.api.lent.from(&group, first, now);
    loans.retain(|loan| {
        is_before_end(loan.position)
            && is_idle(loan, idle, now)
            && consumer.as_ref().is_none_or(|consumer| *consumer == *loan.consumer)
    });
    loans.truncate(count);
    let one = |loan: &Loan| {
        let idle = now.since(loan.since).as_millis();
        Reply::List(vec![
            Reply::text(id_text(loan.position)),
            Reply::text(loan.consumer.to_string()),
            Reply::count(idle),
            Reply::Number(loan.attempt.into()),
        ])
    };
    Ok(Reply::List(loans.iter().map(one).collect()))
}

fn by_consumer(loans: &[Loan]) -> BTreeMap<&ByteString, Vec<&Loan>> {
    let mut all: BTreeMap<&ByteString, Vec<&Loan>> = BTreeMap::new();
    for loan in loans {
        all.entry(&loan.consumer).or_default().push(loan);
    }
    all
}

fn summary(loans: &[Loan]) -> Reply {
    let (Some(first), Some(last)) = (loans.first(), loans.last()) else {
        return Reply::List(vec![Reply::Number(0), Reply::Nothing, Reply::Nothing, Reply::Nothing]);
    };
    let consumers = by_consumer(loans).into_iter().map(|(consumer, loans)| {
        Reply::List(vec![Reply::text(consumer.to_string()), Reply::text(loans.len().to_string())])
    });
    Reply::List(vec![
        Reply::count(loans.len()),
        Reply::text(id_text(first.position)),
        Reply::text(id_text(last.position)),
        Reply::List(consumers.collect()),
    ])
}

/// Names and values as a flat list.
fn pairs<const N: usize>(pairs: [(&'static str, Reply); N]) -> Reply {
    Reply::List(pairs.into_iter().flat_map(|(name, value)| [Reply::text(name), value]).collect())
}

pub(super) async fn xinfo(talk: &Talk, mut args: Args) -> Result<Reply> {
    if args.takes("STREAM") {
        return about_stream(talk, args.stream()?).await;
    }
    if args.takes("GROUPS") {
        let stream = args.stream()?;
        args.end()?;
        let groups = talk.api.store.groups().await?;
        let of_stream = groups.iter().filter(|group| group.stream == stream);
        return Ok(Reply::List(of_stream.map(|group| about_group(&talk.api, group)).collect()));
    }
    if args.takes("CONSUMERS") {
        let (_, group) = stream_and_group(talk, &mut args)?;
        args.end()?;
        let now = talk.api.cx.clock.now();
        let loans = talk.api.lent.from(&group, Bound::Unbounded, now);
        let one = |(consumer, loans): (&ByteString, Vec<&Loan>)| {
            let idle = loans.iter().map(|loan| now.since(loan.since)).min().unwrap_or_default();
            pairs([
                ("name", Reply::text(consumer.to_string())),
                ("pending", Reply::count(loans.len())),
                ("idle", Reply::count(idle.as_millis())),
            ])
        };
        return Ok(Reply::List(by_consumer(&loans).into_iter().map(one).collect()));
    }
    Err(args.wrong("knows STREAM, GROUPS and CONSUMERS"))
}

fn about_group(api: &Api, group: &GroupStatus) -> Reply {
    let loans = api.lent.from(&group.name, Bound::Unbounded, api.cx.clock.now());
    // The one before the first that it has not looked at.
    let last = Position { low: group.next.low.saturating_sub(1), ..group.next };
    pairs([
        ("name", Reply::text(group.name.as_str())),
        ("consumers", Reply::count(by_consumer(&loans).len())),
        ("pending", Reply::count(group.in_flight)),
        ("last-delivered-id", Reply::text(id_text(last))),
        ("entries-read", Reply::count(group.accepted.saturating_sub(group.unseen))),
        ("lag", Reply::count(group.unseen)),
    ])
}

async fn about_stream(talk: &Talk, name: StreamName) -> Result<Reply> {
    let Some(found) = status(&talk.api, &name).await? else { return Err(Refusal::new("no such key")) };
    let mut ends = [Reply::Nothing, Reply::Nothing];
    for (slot, position) in ends.iter_mut().zip([found.first, found.last]) {
        let Some(position) = position.filter(|_| !name.is_dead_letters()) else { continue };
        if let Some(stored) = talk.api.store.read(&name, position, 1).await?.items.into_iter().next() {
            *slot = entry(stored.position, &stored.event, &name, stored.accepted_at);
        }
    }
    let [first, last] = ends;
    Ok(pairs([
        ("length", Reply::count(found.count)),
        ("last-generated-id", Reply::text(id_text(found.last.unwrap_or_default()))),
        ("entries-added", Reply::count(found.accepted)),
        ("groups", Reply::count(found.groups.len())),
        ("first-entry", first),
        ("last-entry", last),
    ]))
}

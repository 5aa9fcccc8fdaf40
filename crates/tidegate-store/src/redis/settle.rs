//! Settling: one script for a part of the settlements that fits one step, with everything that follows from them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Serialize;
use tidegate_core::{
    clock::Timestamp,
    delivery::{LeaseToken, Position, SettleStatus, Settled, Settlement},
    event::Event,
    fault::{Failure, Fault, Result},
    names::StreamName,
    signature,
};

use super::{
    RedisStore,
    entry::{self, Fields},
    hex,
    registry::GroupHead,
    script::{Ask, SCRIPTS},
};
use crate::served::facts::{check_outputs, step_len};

/// What is known of a dead letter beside its event and its past, as the scripts take it.
#[derive(Debug, Serialize)]
pub(crate) struct Letter<'a> {
    /// Number of the class.
    pub(crate) c: u8,
    pub(crate) msg: &'a str,
    pub(crate) sig: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) cfg: &'a str,
    pub(crate) eid: &'a str,
    pub(crate) src: &'a str,
    /// The rest is set for imported ones only: state, group, origin, burial, change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) st: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) g: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ch: Option<Change<'a>>,
}

/// Who changed a dead letter, as the scripts take it.
#[derive(Debug, Serialize)]
pub(crate) struct Change<'a> {
    pub(crate) at: i64,
    pub(crate) by: &'a str,
    pub(crate) note: &'a str,
    pub(crate) job: &'a str,
}

/// Writes a letter as the scripts take it.
pub(crate) fn letter_json(letter: &Letter<'_>) -> Result<String> {
    serde_json::to_string(letter).map_err(|error| Fault::bug(format!("write a dead letter: {error}")))
}

/// Writes a dead letter as an entry that other programs read.
pub(crate) fn letter_fields(
    event: &Event,
    message: &str,
    attempts: usize,
    at: Timestamp,
    created: Timestamp,
) -> Fields {
    let created = event.time.as_ref().map_or_else(|| created.to_string(), ToString::to_string);
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let mut fields = Fields::new(entry::own(event, None, false));
    fields.put("original_event_id", text(&event.id));
    fields.put("event_type", text(&event.kind));
    fields.put("aggregate_id", entry::aggregate(event));
    fields.put("payload", entry::payload(event));
    fields.put("error_message", text(message));
    fields.put("attempts", attempts.to_string());
    fields.put("failed_at", at.to_string());
    fields.put("created_at", created);
    fields
}

/// What is looked up before anything is settled.
#[derive(Default)]
struct Prepared {
    /// Numbers of the streams of outputs and of dead letters.
    streams: BTreeMap<StreamName, u32>,
    /// Events that are buried.
    buried: BTreeMap<(u32, Position), Event>,
}

impl RedisStore {
    pub(crate) async fn settle_all(&self, settled: Vec<Settled>) -> Result<Vec<SettleStatus>> {
        let prepared = self.prepare(&settled).await?;
        let mut statuses = Vec::with_capacity(settled.len());
        let mut rest = settled.as_slice();
        while !rest.is_empty() {
            let (part, more) = rest.split_at(step_len(rest));
            statuses.extend(self.settle_part(part, &prepared).await?);
            rest = more;
        }
        let lost = settled.iter().zip(&statuses).filter(|(_, status)| **status == SettleStatus::LeaseLost);
        let groups: BTreeSet<u32> = settled.iter().map(|one| one.token.group).collect();
        {
            let mut told = self.told.lock();
            for (one, _) in lost {
                *told.leases_lost.entry(one.token.group).or_default() += 1;
            }
        }
        self.wake.ring(&groups.into_iter().collect::<Vec<_>>());
        Ok(statuses)
    }

    async fn prepare(&self, settled: &[Settled]) -> Result<Prepared> {
        let mut prepared = Prepared::default();
        for one in settled {
            match &one.settlement {
                Settlement::Done(outputs) => self.prepare_outputs(outputs, &mut prepared).await?,
                Settlement::Bury { .. } => self.prepare_burial(&one.token, &mut prepared).await?,
                Settlement::Skip | Settlement::Release | Settlement::RetryAt { .. } => {}
            }
        }
        Ok(prepared)
    }

    async fn prepare_outputs(&self, outputs: &[(StreamName, Event)], prepared: &mut Prepared) -> Result<()> {
        for (name, event) in outputs {
            event.check()?;
            if !prepared.streams.contains_key(name) {
                prepared.streams.insert(name.clone(), self.stream_head(name).await?.id);
            }
        }
        check_outputs(outputs)
    }

    async fn prepare_burial(&self, token: &LeaseToken, prepared: &mut Prepared) -> Result<()> {
        let Some(group) = self.group_by_id(token.group) else { return Ok(()) };
        let dead = group.spec.stream.dead_letters();
        if !prepared.streams.contains_key(&dead) {
            prepared.streams.insert(dead.clone(), self.stream_head(&dead).await?.id);
        }
        let stream = self.stream_head(&group.spec.stream).await?;
        // Without it there is no lease either: the delivery is lost and its settlement is refused.
        if let Some(parsed) = self.kept_at(&stream, token.position).await? {
            prepared.buried.insert((token.group, token.position), parsed.event);
        }
        Ok(())
    }

    /// Returns a group by its number.
    pub(crate) fn group_by_id(&self, id: u32) -> Option<std::sync::Arc<GroupHead>> {
        self.registry.read().group_by_id(id)
    }

    async fn settle_part(&self, part: &[Settled], prepared: &Prepared) -> Result<Vec<SettleStatus>> {
        let now = self.options.clock.now();
        let mut ask = self.ask(&SCRIPTS.settle);
        ask.number(now.as_millis()).number(prepared.streams.len());
        for id in prepared.streams.values() {
            ask.number(*id);
        }
        let mut by_group: BTreeMap<u32, Vec<Position>> = BTreeMap::new();
        for one in part {
            by_group.entry(one.token.group).or_default().push(one.token.position);
        }
        ask.number(by_group.len());
        for (group, positions) in by_group {
            ask.number(group).number(positions.len());
            for position in positions {
                ask.position(position);
            }
        }
        ask.number(part.len());
        for one in part {
            self.pass(&mut ask, one, prepared, now)?;
        }
        let mut answer = self.run(ask, "settle").await?;
        answer.each(|held| Ok(if held.flag()? { SettleStatus::Settled } else { SettleStatus::LeaseLost }))
    }

    fn pass(&self, ask: &mut Ask, one: &Settled, prepared: &Prepared, now: Timestamp) -> Result<()> {
        let token = one.token;
        ask.number(token.group).position(token.position).number(token.epoch).text(&hex(token.owner));
        let attempt = one.attempt.as_ref().map(entry::line).unwrap_or_default();
        match &one.settlement {
            Settlement::Done(outputs) => {
                ask.text("D").number(outputs.len());
                for (name, event) in outputs {
                    let head = self.registry.read().streams.get(name).map(std::sync::Arc::clone);
                    let mark = head.map_or_else(Vec::new, |head| self.window_mark(&head, event));
                    ask.maybe(prepared.streams.get(name)).bytes(&mark);
                    entry::fields(event, name, now, None).pass(ask);
                }
            }
            Settlement::Skip => {
                ask.text("S");
            }
            Settlement::Release => {
                ask.text("L");
            }
            Settlement::RetryAt { at, attempts, crashes } => {
                ask.text("R").number(at.as_millis()).number(*attempts).number(*crashes).text(&attempt);
            }
            Settlement::Bury { failure, config } => {
                let event = prepared.buried.get(&(token.group, token.position));
                let dead = self.group_by_id(token.group).map(|group| group.spec.stream.dead_letters());
                match event.zip(dead) {
                    Some((event, dead)) => {
                        ask.text("B").maybe(prepared.streams.get(&dead)).text(&attempt);
                        pass_letter(ask, event, failure, config, token.position, now)?;
                    }
                    // Nothing is held under it.
                    None => {
                        ask.text("L");
                    }
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn pass_letter(
    ask: &mut Ask,
    event: &Event,
    failure: &Failure,
    config: &str,
    position: Position,
    now: Timestamp,
) -> Result<()> {
    let letter = Letter {
        c: failure.class.code(),
        msg: &failure.message,
        sig: &signature(&failure.message),
        kind: &event.kind,
        cfg: config,
        eid: &event.id,
        src: &event.source,
        st: None,
        g: None,
        p: None,
        at: None,
        ch: None,
    };
    ask.text(&letter_json(&letter)?);
    letter_fields(event, &failure.message, 0, now, entry::accepted_at(position)).pass(ask);
    Ok(())
}

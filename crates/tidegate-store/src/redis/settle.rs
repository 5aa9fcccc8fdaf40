//! Settling: one script for a part of the settlements that fits one step, with everything that follows from them.

use std::collections::{BTreeMap, BTreeSet};

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
    packed::Packed,
    registry::GroupHead,
    reply::id_text,
    script::SCRIPTS,
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
        let mut packed = Packed::default();
        packed.list(2).list(prepared.streams.len());
        for id in prepared.streams.values() {
            packed.text(&id.to_string());
        }
        packed.list(part.len());
        for one in part {
            self.pack(&mut packed, one, prepared, now)?;
        }
        let mut ask = self.ask(&SCRIPTS.settle);
        ask.number(now.as_millis()).bytes(packed.as_bytes());
        let mut answer = self.run(ask, "settle").await?;
        answer.each(|held| Ok(if held.flag()? { SettleStatus::Settled } else { SettleStatus::LeaseLost }))
    }

    fn pack(&self, packed: &mut Packed, one: &Settled, prepared: &Prepared, now: Timestamp) -> Result<()> {
        let token = one.token;
        let begin = |packed: &mut Packed, kind: &str, more: usize| {
            packed.list(5 + more).text(&token.group.to_string()).text(&id_text(token.position));
            packed.number(i64::try_from(token.epoch).unwrap_or(i64::MAX)).text(&hex(token.owner)).text(kind);
        };
        let attempt = one.attempt.as_ref().map(entry::line).unwrap_or_default();
        let number_of = |name: &StreamName| prepared.streams.get(name).map_or_else(String::new, ToString::to_string);
        match &one.settlement {
            Settlement::Done(outputs) => {
                begin(packed, "D", 1);
                packed.list(outputs.len());
                for (name, event) in outputs {
                    let head = self.registry.read().streams.get(name).map(std::sync::Arc::clone);
                    let mark = head.map_or_else(Vec::new, |head| self.window_mark(&head, event));
                    let fields = entry::fields(event, name, now, None);
                    packed.list(4).text(&number_of(name)).bytes(&mark);
                    fields.pack(packed);
                    packed.count(fields.bytes());
                }
            }
            Settlement::Skip => begin(packed, "S", 0),
            Settlement::Release => begin(packed, "L", 0),
            Settlement::RetryAt { at, attempts, crashes } => {
                begin(packed, "R", 4);
                packed.number(at.as_millis()).number((*attempts).into()).number((*crashes).into()).text(&attempt);
            }
            Settlement::Bury { failure, config } => {
                let event = prepared.buried.get(&(token.group, token.position));
                let dead = self.group_by_id(token.group).map(|group| group.spec.stream.dead_letters());
                match event.zip(dead) {
                    Some((event, dead)) => {
                        let (letter, fields) = letter(event, failure, config, token.position, now)?;
                        begin(packed, "B", 4);
                        packed.text(&number_of(&dead)).text(&attempt).text(&letter);
                        fields.pack(packed);
                    }
                    // Nothing is held under it.
                    None => begin(packed, "L", 0),
                }
            }
        }
        Ok(())
    }
}

/// What is known of an event that is buried, and its entry in the stream of dead letters.
pub(crate) fn letter(
    event: &Event,
    failure: &Failure,
    config: &str,
    position: Position,
    now: Timestamp,
) -> Result<(String, Fields)> {
    let known = Letter {
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
    let fields = entry::letter_fields(event, &failure.message, 0, (now, entry::accepted_at(position)));
    Ok((letter_json(&known)?, fields))
}

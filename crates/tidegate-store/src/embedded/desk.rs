//! The desk of dead letters: reads them, and moves them in one commit with what the move brings about.

mod import;
mod moves;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    event::{Event, Reader},
    fault::{Fault, Result},
    limits,
    names::{GroupName, StreamName},
    signature,
    store::{
        Appended, DeadEntry, DeadImport, DeadLetter, DeadLetters, DeadQuery, DeadReport, DeadStep, DeadStepStatus, Page,
    },
};

use super::{Embedded, body::DeadHead, broker::only_numbers, stream::Stream};

/// Names of groups by number, each looked up once.
#[derive(Default)]
struct GroupNames(BTreeMap<u32, GroupName>);

impl GroupNames {
    fn get(&mut self, embedded: &Embedded, id: u32) -> Result<GroupName> {
        if let Some(name) = self.0.get(&id) {
            return Ok(name.clone());
        }
        let name = match embedded.group_by_id(id) {
            Some(group) => group.name.clone(),
            None => GroupName::new("removed")?,
        };
        self.0.insert(id, name.clone());
        Ok(name)
    }
}

impl Embedded {
    fn load_dead(&self, stream: &Stream, seq: u64, names: &mut GroupNames) -> Result<DeadLetter> {
        let missing = || Fault::missing(format!("there is no dead letter {seq} in {:?}", stream.name.as_str()));
        let entry = {
            let inner = stream.inner.lock();
            inner.dead.as_ref().and_then(|dead| dead.entries.get(&seq)).cloned().ok_or_else(missing)?
        };
        let found = stream.read_one(seq, entry.at, &self.state.reader, &self.state.open)?;
        let mut read = Reader { bytes: found.body.clone() };
        let head = DeadHead::read(&mut read)?;
        Ok(DeadLetter {
            id: Position::number(seq),
            stream: self.state.stream_name(entry.origin).unwrap_or_else(|| stream.name.origin()),
            group: names.get(self, entry.group)?,
            position: Position::number(entry.origin_seq),
            state: entry.state,
            event: Event::decode(read.bytes)?,
            class: entry.class,
            signature: signature(&head.message).into(),
            message: head.message,
            attempts: head.attempts,
            failed_at: head.failed_at,
            config: head.config,
            changed: entry.change(),
        })
    }

    /// Returns the sequence numbers that a query asks for, and where the next page goes on.
    fn select_dead(&self, stream: &Stream, query: &DeadQuery) -> Result<(Vec<u64>, Option<Position>)> {
        let group = match &query.group {
            None => None,
            Some(name) => Some(self.state.group(name)?.id),
        };
        let query = DeadQuery { limit: query.limit.clamp(1, limits::PAGE_MAX), ..query.clone() };
        let (seqs, more) = {
            let inner = stream.inner.lock();
            inner.dead.as_ref().map(|dead| dead.select(&query, group)).unwrap_or_default()
        };
        let next = seqs.last().filter(|_| more).map(|seq| Position::number(*seq));
        Ok((seqs, next))
    }
}

#[async_trait]
impl DeadLetters for Embedded {
    async fn dead_letters(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadLetter>> {
        let stream = self.state.dead_stream(stream)?;
        let (seqs, next) = self.select_dead(&stream, query)?;
        let mut names = GroupNames::default();
        let items = seqs.iter().map(|seq| self.load_dead(&stream, *seq, &mut names)).collect::<Result<_>>()?;
        Ok(Page { items, next })
    }

    async fn dead_entries(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadEntry>> {
        let stream = self.state.dead_stream(stream)?;
        let (seqs, next) = self.select_dead(&stream, query)?;
        let known: Vec<_> = {
            let inner = stream.inner.lock();
            let Some(dead) = &inner.dead else { return Ok(Page { items: Vec::new(), next: None }) };
            seqs.iter().filter_map(|seq| Some((*seq, dead.entries.get(seq)?.clone()))).collect()
        };
        let mut names = GroupNames::default();
        let told = |(seq, entry): (u64, super::dead::DeadEntry)| {
            Ok(DeadEntry {
                id: Position::number(seq),
                group: names.get(self, entry.group)?,
                position: Position::number(entry.origin_seq),
                state: entry.state,
                class: entry.class,
                failed_at: entry.failed_at,
            })
        };
        Ok(Page { items: known.into_iter().map(told).collect::<Result<_>>()?, next })
    }

    async fn dead_letter(&self, stream: &StreamName, id: Position) -> Result<DeadLetter> {
        let stream = self.state.dead_stream(stream)?;
        // A position of another engine is the id of nothing here.
        let missing = |_| Fault::missing(format!("there is no dead letter {id}"));
        self.load_dead(&stream, only_numbers(id).map_err(missing)?, &mut GroupNames::default())
    }

    async fn move_dead(&self, step: &DeadStep) -> Result<Vec<DeadStepStatus>> {
        self.move_all(step).await
    }

    async fn dead_report(&self, stream: &StreamName, since: Timestamp, until: Timestamp) -> Result<DeadReport> {
        let stream = self.state.dead_stream(stream)?;
        let (mut report, groups, parked) = {
            let inner = stream.inner.lock();
            let Some(dead) = &inner.dead else { return Ok(DeadReport::default()) };
            let (report, groups) = dead.report(since, until);
            (report, groups, dead.parked.clone())
        };
        let named = |counts: BTreeMap<u32, u64>| {
            let name = |id: u32| self.group_by_id(id).map(|group| group.name.clone());
            counts.into_iter().filter_map(|(id, count)| Some((name(id)?, count))).collect()
        };
        report.groups = named(groups);
        report.parked = named(parked);
        Ok(report)
    }

    async fn import_dead(&self, stream: &StreamName, letters: Vec<DeadImport>) -> Result<Vec<Appended>> {
        let dead: Arc<Stream> = self.state.dead_stream(stream)?;
        self.take_in(&dead, letters).await
    }
}

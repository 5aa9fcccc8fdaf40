//! Counting dead letters: the server counts them in parts, and the parts are added up here.

use std::collections::BTreeMap;

use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    fault::{FaultClass, Result},
    names::GroupName,
    store::{DeadReport, DeadState},
};

use super::{super::registry::StreamHead, RedisStore, state_of};
use crate::redis::{
    reply::{Reply, odd},
    script::SCRIPTS,
};

/// Letters that are counted in one step.
const PART: usize = 5_000;

/// Counts by word, with the newest example of those that have one.
type Counts = BTreeMap<String, (u64, Position)>;

fn add(counts: &mut Counts, part: &mut Reply) -> Result<()> {
    while !part.is_empty() {
        let mut one = part.list()?;
        let (word, count, newest) = (one.text()?, one.number::<u64>()?, one.maybe_position()?.unwrap_or_default());
        let slot = counts.entry(word).or_default();
        *slot = (slot.0 + count, slot.1.max(newest));
    }
    Ok(())
}

fn numbered<T>(counts: Counts, read: impl Fn(usize) -> Result<T>) -> Result<Vec<(T, u64)>> {
    counts.into_iter().map(|(word, (count, _))| Ok((read(word.parse().map_err(|_| odd())?)?, count))).collect()
}

impl RedisStore {
    pub(super) async fn report(&self, head: &StreamHead, since: Timestamp, until: Timestamp) -> Result<DeadReport> {
        // By state, signature, kind, group, class and part of the time.
        let mut counts: [Counts; 6] = Default::default();
        let mut report = DeadReport { trend: vec![0; DeadReport::PARTS], ..DeadReport::default() };
        loop {
            let mut ask = self.ask(&SCRIPTS.dead_report);
            ask.number(head.id).number(since.as_millis()).number(until.as_millis());
            ask.number(DeadReport::PARTS).number(report.total).number(PART);
            let mut answer = self.run(ask, "count dead letters").await?;
            let counted: u64 = answer.number()?;
            report.total += counted;
            for slot in &mut counts {
                add(slot, &mut answer.list()?)?;
            }
            report.oldest = answer.maybe_time()?;
            report.parked = self.parked(&mut answer.list()?)?;
            if counted < PART as u64 {
                break;
            }
        }
        let [states, signatures, kinds, groups, classes, trend] = counts;
        report.states = numbered(states, state_of)?;
        report.states.retain(|(state, _): &(DeadState, u64)| DeadState::ALL.contains(state));
        report.classes =
            numbered(classes, |code| FaultClass::from_code(u8::try_from(code).map_err(|_| odd())?).ok_or_else(odd))?;
        for (part, count) in numbered(trend, Ok)? {
            if let Some(slot) = report.trend.get_mut(part) {
                *slot += count;
            }
        }
        let named = |id: usize| Ok(u32::try_from(id).ok().and_then(|id| self.group_name(id)));
        let groups: Vec<(Option<GroupName>, u64)> = numbered(groups, named)?;
        report.groups = groups.into_iter().filter_map(|(name, count)| Some((name?, count))).collect();
        let worded = |(word, (count, newest)): (String, (u64, Position))| (ByteString::from(word), count, newest);
        report.signatures = signatures.into_iter().map(worded).collect();
        report.signatures.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
        report.kinds = kinds.into_iter().map(|(word, (count, _))| (ByteString::from(word), count)).collect();
        report.kinds.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
        Ok(report)
    }

    fn parked(&self, pairs: &mut Reply) -> Result<Vec<(GroupName, u64)>> {
        let mut parked = Vec::new();
        while !pairs.is_empty() {
            let (id, count): (u32, i64) = (pairs.number()?, pairs.number()?);
            parked.extend(self.group_name(id).map(|name| (name, count.max(0).unsigned_abs())));
        }
        Ok(parked)
    }
}

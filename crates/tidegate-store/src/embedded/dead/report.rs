//! Counting dead letters: one walk over the index, without a look-up for any entry.

use std::collections::BTreeMap;

use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    fault::FaultClass,
    store::{DeadReport, DeadState},
};

use super::DeadIndex;

impl DeadIndex {
    /// Counts what was buried in a time. Groups are numbers here.
    pub(crate) fn report(&self, since: Timestamp, until: Timestamp) -> (DeadReport, BTreeMap<u32, u64>) {
        let mut report = DeadReport { trend: vec![0; DeadReport::PARTS], ..DeadReport::default() };
        let mut signatures = vec![(0_u64, 0_u64); self.words.len()];
        let mut kinds = vec![0_u64; self.words.len()];
        let mut groups: BTreeMap<u32, u64> = BTreeMap::new();
        let mut classes = [0_u64; FaultClass::ALL.len()];
        let mut states = [0_u64; DeadState::ALL.len()];
        let part = (until.since(since).as_millis() / DeadReport::PARTS as u128).max(1);
        // Neighbours mostly died in one group.
        let mut run = (0, 0);
        for (seq, entry) in &self.entries {
            if entry.state == DeadState::Parked && report.oldest.is_none_or(|oldest| entry.failed_at < oldest) {
                report.oldest = Some(entry.failed_at);
            }
            if entry.failed_at < since || entry.failed_at >= until {
                continue;
            }
            report.total += 1;
            let slot = &mut signatures[entry.signature as usize];
            *slot = (slot.0 + 1, *seq);
            kinds[entry.kind as usize] += 1;
            classes[usize::from(entry.class.code())] += 1;
            states[entry.state as usize] += 1;
            let at = (entry.failed_at.since(since).as_millis() / part).min(DeadReport::PARTS as u128 - 1);
            report.trend[at as usize] += 1;
            if entry.group != run.0 {
                *groups.entry(run.0).or_default() += run.1;
                run = (entry.group, 0);
            }
            run.1 += 1;
        }
        *groups.entry(run.0).or_default() += run.1;
        groups.retain(|_, count| *count > 0);
        report.signatures = self.named(signatures.into_iter().map(|slot| (slot.0, slot)));
        report.signatures.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
        report.kinds = self
            .named(kinds.into_iter().map(|count| (count, (count, 0))))
            .into_iter()
            .map(|(kind, count, _)| (kind, count))
            .collect();
        report.kinds.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
        report.classes = FaultClass::ALL.into_iter().zip(classes).filter(|(_, count)| *count > 0).collect();
        report.states = DeadState::ALL.into_iter().zip(states).filter(|(_, count)| *count > 0).collect();
        (report, groups)
    }

    /// Gives counts by number of word the texts of the words.
    fn named(&self, counts: impl Iterator<Item = (u64, (u64, u64))>) -> Vec<(ByteString, u64, Position)> {
        let counted = counts.enumerate().filter(|(_, (count, _))| *count > 0);
        counted
            .map(|(number, (_, (count, newest)))| {
                (ByteString::from(self.words.text(number as u32)), count, Position::number(newest))
            })
            .collect()
    }
}

//! Moving a group to another place in its stream, and counting beforehand what that would mean.

use std::ops::Range;

use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    event::EXPIRY_TIME,
    fault::{Fault, Result},
    limits,
    seek::{Rehearsal, SeekTo, Sought},
};

use super::{
    RedisStore,
    claim::instant,
    link::Trouble,
    registry::GroupHead,
    reply::{Reply, behind},
    script::SCRIPTS,
};

/// Most events that a place may lie back.
const BACK_STEP: usize = limits::PAGE_MAX;

impl RedisStore {
    pub(crate) async fn find_place(&self, head: &GroupHead, place: &SeekTo) -> Result<Position> {
        let stream = self.stream_head(&head.spec.stream).await?;
        let from = match place {
            SeekTo::Earliest | SeekTo::Latest => None,
            SeekTo::At(position) => Some(*position),
            SeekTo::Since(at) => Some(Position { high: at.as_millis().max(0).unsigned_abs(), low: 0 }),
            SeekTo::Back(count) => return self.find_back(head, *count).await,
            SeekTo::Event(_) => return Err(Fault::bug("an engine was asked to look for an event")),
        };
        let slice = self.slice(&stream, from, false, 1, 1).await?;
        let found = slice.found.first().map(|first| first.position).filter(|_| *place != SeekTo::Latest);
        let found = found.unwrap_or_else(|| behind(slice.last));
        Ok(head.spec.end.map_or(found, |end| end.min(found)))
    }

    /// Finds the event that lies so many before the first one that the group has not looked at.
    async fn find_back(&self, head: &GroupHead, count: u64) -> Result<Position> {
        let stream = self.stream_head(&head.spec.stream).await?;
        let mut found = self.group_status_of(head).await?.next;
        let mut left = count;
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(BACK_STEP);
            // The first one that is read may be the one from which it goes back.
            let slice = self.slice(&stream, Some(found), true, step + 1, limits::CLAIM_BYTES_MAX).await?;
            let before: Vec<Position> = slice
                .found
                .iter()
                .map(|parsed| parsed.position)
                .filter(|position| *position < found)
                .take(step)
                .collect();
            let Some(last) = before.last() else { break };
            found = *last;
            left -= before.len() as u64;
        }
        Ok(found)
    }

    pub(crate) async fn move_group(&self, head: &GroupHead, to: Position, again: bool) -> Result<Sought> {
        if head.spec.end.is_some() {
            let note = format!("group {:?} has an end and is not moved", head.spec.name.as_str());
            return Err(Fault::conflict(note));
        }
        let mut ask = self.ask(&SCRIPTS.seek);
        ask.number(head.id).number(self.options.clock.now().as_millis()).position(to).number(u8::from(again));
        let name = head.spec.name.as_str();
        let from = match self.link.run_again(&ask).await {
            Ok(answer) => Reply::new(answer).position()?,
            Err(Trouble::Told { code, detail }) if code == "TGINVALID" => {
                let (first, last) = detail.split_once(' ').unwrap_or((&detail, ""));
                let stream = head.spec.stream.as_str();
                return Err(Fault::invalid(format!(
                    "position {to} is not kept: stream {stream:?} has {first} to {last}, and one behind it stands \
                     behind the newest"
                )));
            }
            Err(Trouble::Told { code, detail }) if code == "TGCONFLICT" => {
                return Err(Fault::new(
                    tidegate_core::fault::FaultKind::Conflict,
                    tidegate_core::fault::Origin::Caller,
                    tidegate_core::fault::Retry::Later,
                    format!("group {name:?} has {detail} deliveries in flight and stays where it is"),
                ));
            }
            Err(trouble) => return Err(trouble.fault(&format!("move group {name:?}"))),
        };
        self.wake.ring(&[head.id]);
        Ok(Sought { from, to })
    }

    pub(crate) async fn count_ahead(&self, head: &GroupHead, range: Range<Position>, max: usize) -> Result<Rehearsal> {
        let now = self.options.clock.now();
        let stream = self.stream_head(&head.spec.stream).await?;
        let max = max.clamp(1, limits::PAGE_MAX);
        let end = head.spec.end.map_or(range.end, |end| end.min(range.end));
        let mut slice = self.slice(&stream, Some(range.start), false, max, limits::CLAIM_BYTES_MAX).await?;
        let next =
            slice.found.last().map(|last| behind(last.position)).filter(|next| *next < end.min(behind(slice.last)));
        slice.found.retain(|parsed| parsed.position < end);
        let names: Vec<(ByteString, ByteString)> =
            slice.found.iter().map(|parsed| (parsed.event.source.clone(), parsed.event.id.clone())).collect();
        let ledger = self.marks(head, &names, false).await?;
        let (again_before, again_at) = ledger.again;
        let mut counted = Rehearsal::default();
        for (parsed, mark) in slice.found.iter().zip(&ledger.marks) {
            let number = parsed.number.unwrap_or(u64::MAX);
            let is_known = mark.as_ref().is_some_and(|mark| {
                let again = number <= again_before && mark.entry.at <= Timestamp::from_millis(again_at);
                !again && (!parsed.head.forced || mark.number >= number)
            });
            let is_own = (parsed.head.group > 0).then_some(parsed.head.group == head.id);
            let is_expired = instant(&parsed.event, EXPIRY_TIME).is_some_and(|at| at <= now);
            counted.count(is_own, is_known, is_expired);
        }
        counted.next = next;
        Ok(counted)
    }
}

//! Making room in a full backlog by dropping what has waited longest.

use std::sync::Arc;

use tidegate_core::{fault::Result, store::Durability};

use super::{
    Embedded, body,
    commit::{Item, Step},
    frame::Kind,
    group::Group,
    stream::Stream,
};

/// Sequence numbers that one look for something to drop goes over.
const LOOK_MAX: u64 = 65_536;

impl Embedded {
    /// Drops the oldest events of each group whose backlog is too large; what is lent stays.
    pub(crate) async fn make_room(&self, stream: &Stream, room: u64) -> Result<u64> {
        let Some(most) = stream.spec.read().max_backlog else { return Ok(0) };
        let groups: Vec<Arc<Group>> = stream.groups.read().iter().map(Arc::clone).collect();
        let mut step = Step::new(Durability::Sync);
        let mut count = 0;
        for group in groups {
            let over = (group.backlog(stream.last()) + room).saturating_sub(most);
            if over == 0 || group.spec.read().end.is_some() {
                continue;
            }
            let (numbers, dropped) = range_to_drop(&group, stream.last(), over);
            if dropped > 0 {
                let mut body = Vec::new();
                body::put_numbers(&mut body, group.id, &numbers);
                step.items.push(Item::Raw(Kind::Drop, body));
                count += dropped;
            }
        }
        if !step.items.is_empty() {
            self.commit(step).await?;
        }
        Ok(count)
    }
}

/// Returns from where to where events are dropped and which of those stay because they are lent, and how many go.
fn range_to_drop(group: &Group, last: u64, over: u64) -> (Vec<u64>, u64) {
    let inner = group.inner.lock();
    let from = inner.entries.first().map_or(inner.cursor, |seq| seq.min(inner.cursor));
    let end = (last + 1).min(from + LOOK_MAX.max(over));
    let lent = inner.lent(from, end);
    let is_free =
        |seq: &u64| (*seq >= inner.cursor || inner.entries.contains(*seq)) && lent.binary_search(seq).is_err();
    let mut dropped = 0;
    let mut upto = from;
    for seq in from..end {
        if dropped == over {
            break;
        }
        dropped += u64::from(is_free(&seq));
        upto = seq + 1;
    }
    let mut numbers = vec![from, upto];
    numbers.extend(lent.into_iter().filter(|seq| *seq < upto));
    (numbers, dropped)
}

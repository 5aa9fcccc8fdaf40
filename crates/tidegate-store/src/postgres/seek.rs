//! Moving a group to another place in its stream, and counting beforehand what that would mean.

use std::ops::Range;

use tidegate_core::{
    delivery::Position,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
    seek::{Rehearsal, SeekTo, Sought},
};

use super::{
    PostgresStore,
    link::{CONFLICT, Lane, NOT_KEPT, Trouble},
    row::{count, get, number, position},
};
use crate::served::declared::GroupHead;

impl PostgresStore {
    pub(crate) async fn find_place(&self, head: &GroupHead, place: &SeekTo) -> Result<Position> {
        let (id, behind) = (head.id.cast_signed(), i64::MAX);
        // The first kept event at or after a number, or after a time, or that comes next.
        let (from, since) = match place {
            SeekTo::Earliest => (0, None),
            SeekTo::Latest => (behind, None),
            SeekTo::At(position) => (number(*position), None),
            SeekTo::Since(at) => (0, Some(at.as_millis())),
            SeekTo::Back(back) => {
                let next = self.group_status_of(head).await?.next;
                (number(next).saturating_sub(i64::try_from(*back).unwrap_or(i64::MAX)), None)
            }
            SeekTo::Event(_) => return Err(Fault::bug("an engine was asked to look for an event")),
        };
        let statement = "SELECT least(g.end_n, s.acc + 1, coalesce((SELECT min(e.n) FROM events e WHERE e.sid = s.id AND \
                         e.n >= greatest($2, s.first_n) AND ($3::bigint IS NULL OR e.at >= $3)), s.acc + 1)) AS n \
                         FROM groups g JOIN streams s ON s.id = g.sid WHERE g.id = $1";
        let row = self.ask_one(Lane::Look, "find a place", statement, &[&id, &from, &since]).await?;
        Ok(position(get(&row, "n")?))
    }

    pub(crate) async fn move_group(&self, head: &GroupHead, to: Position, again: bool) -> Result<Sought> {
        self.check_open()?;
        let name = head.spec.name.as_str();
        if head.spec.end.is_some() {
            return Err(Fault::conflict(format!("group {name:?} has an end and is not moved")));
        }
        let (id, now, number) = (head.id.cast_signed(), self.now(), number(to));
        let statement = "SELECT tg_seek($1, $2, $3, $4) AS n";
        let from = match self.link.ask_one(Lane::Settle, statement, &[&id, &now, &number, &again]).await {
            Ok(row) => position(get(&row, "n")?),
            Err(Trouble::Told { code, note }) if code == NOT_KEPT => {
                let (first, last) = note.split_once(' ').unwrap_or((&note, ""));
                let stream = head.spec.stream.as_str();
                return Err(Fault::invalid(format!(
                    "position {to} is not kept: stream {stream:?} has {first} to {last}, and one behind it stands \
                     behind the newest"
                )));
            }
            Err(Trouble::Told { code, note }) if code == CONFLICT => {
                let note = format!("group {name:?} has {note} deliveries in flight and stays where it is");
                return Err(Fault::new(FaultKind::Conflict, Origin::Caller, Retry::Later, note));
            }
            Err(trouble) => return Err(self.heard(trouble, &format!("move group {name:?}")).await),
        };
        self.wake.ring(&[head.id]);
        Ok(Sought { from, to })
    }

    pub(crate) async fn count_ahead(&self, head: &GroupHead, range: Range<Position>, max: usize) -> Result<Rehearsal> {
        let (id, now) = (head.id.cast_signed(), self.now());
        let (from, end) = (number(range.start), number(range.end));
        let max = i64::try_from(max.clamp(1, limits::PAGE_MAX)).unwrap_or(i64::MAX);
        let statement = "WITH c AS (SELECT e.n, s.acc, g.end_n, e.grp = g.id AS is_own, CASE \
             WHEN e.grp <> g.id THEN 'F' \
             WHEN EXISTS (SELECT 1 FROM ledger l WHERE l.gid = g.id AND l.f = e.f AND NOT l.skipped AND l.at + g.led > $2 AND \
             NOT (e.n <= g.again_n AND l.at <= g.again_at) AND (NOT e.forced OR l.n >= e.n)) THEN 'K' \
             WHEN e.expires <= $2 THEN 'E' ELSE 'L' END AS class \
             FROM groups g JOIN streams s ON s.id = g.sid JOIN events e ON e.sid = s.id \
             WHERE g.id = $1 AND e.n >= greatest($3, s.first_n) AND e.n < least($4, g.end_n) ORDER BY e.n LIMIT $5) \
             SELECT count(*) FILTER (WHERE class = 'L') AS run, count(*) FILTER (WHERE class = 'K') AS skipped, \
             count(*) FILTER (WHERE class = 'E') AS expired, count(*) FILTER (WHERE class = 'F') AS others, \
             count(*) FILTER (WHERE is_own AND class IN ('L', 'K')) AS own, max(n) + 1 AS next, \
             least(max(acc) + 1, max(end_n), $4) AS stop FROM c";
        let row = self.ask_one(Lane::Look, "count ahead", statement, &[&id, &now, &from, &end, &max]).await?;
        let number = |name| Ok::<u64, Fault>(count(get(&row, name)?));
        let (next, stop): (Option<i64>, Option<i64>) = (get(&row, "next")?, get(&row, "stop")?);
        Ok(Rehearsal {
            run: number("run")?,
            skipped: number("skipped")?,
            expired: number("expired")?,
            others: number("others")?,
            own: number("own")?,
            next: next.zip(stop).filter(|(next, stop)| next < stop).map(|(next, _)| position(next)),
        })
    }
}

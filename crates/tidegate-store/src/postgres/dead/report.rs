//! Counting dead letters: one statement for each thing that they are counted by, all of one moment.

use bytestring::ByteString;
use tidegate_core::{clock::Timestamp, fault::Result, limits, store::DeadReport};

use super::{PostgresStore, StreamHead, class};
use crate::{
    postgres::{
        link::Lane,
        row::{count, get, odd, position},
    },
    served::steps::state_of,
};

impl PostgresStore {
    pub(super) async fn report(&self, head: &StreamHead, since: Timestamp, until: Timestamp) -> Result<DeadReport> {
        let mut report = DeadReport { trend: vec![0; DeadReport::PARTS], ..DeadReport::default() };
        let (id, from, to) = (head.id.cast_signed(), since.as_millis(), until.as_millis());
        let parts = i64::try_from(DeadReport::PARTS).unwrap_or(i64::MAX);
        let words = i64::try_from(limits::DEAD_WORDS_MAX).unwrap_or(i64::MAX);
        let statement = "WITH them AS MATERIALIZED (SELECT id, st, signature, kind, gid, class, least((at - $2) / \
             greatest(($3 - $2) / $4, 1), $4 - 1) AS part FROM letters WHERE sid = $1 AND at >= $2 AND at < $3) \
             SELECT 'state' AS what, st::text AS word, count(*) AS count, max(id) AS newest FROM them GROUP BY st \
             UNION ALL (SELECT 'signature', signature, count(*), max(id) FROM them GROUP BY signature ORDER BY 3 DESC, 2 LIMIT $5) \
             UNION ALL (SELECT 'kind', kind, count(*), max(id) FROM them GROUP BY kind ORDER BY 3 DESC, 2 LIMIT $5) \
             UNION ALL SELECT 'group', gid::text, count(*), max(id) FROM them GROUP BY gid \
             UNION ALL SELECT 'class', class::text, count(*), max(id) FROM them GROUP BY class \
             UNION ALL SELECT 'part', part::text, count(*), max(id) FROM them GROUP BY part \
             UNION ALL SELECT 'parked', gid::text, count(*), min(at) FROM letters WHERE sid = $1 AND st = 0 GROUP BY gid";
        let rows = self.ask(Lane::Look, "count dead letters", statement, &[&id, &from, &to, &parts, &words]).await?;
        for row in &rows {
            let (what, word): (&str, &str) = (get(row, "what")?, get(row, "word")?);
            let (many, newest) = (count(get(row, "count")?), get::<i64>(row, "newest")?);
            let number = || word.parse::<i32>().map_err(|_| odd());
            match what {
                "state" => {
                    let state = usize::try_from(number()?).ok().and_then(state_of).ok_or_else(odd)?;
                    report.total += many;
                    report.states.push((state, many));
                }
                "signature" => report.signatures.push((ByteString::from(word), many, position(newest))),
                "kind" => report.kinds.push((ByteString::from(word), many)),
                "group" => report.groups.push((self.group_of(number()?)?, many)),
                "class" => report.classes.push((class(i16::try_from(number()?).map_err(|_| odd())?)?, many)),
                "part" => {
                    let part = usize::try_from(number()?).ok().and_then(|part| report.trend.get_mut(part));
                    *part.ok_or_else(odd)? = many;
                }
                _ => {
                    report.parked.push((self.group_of(number()?)?, many));
                    let at = Timestamp::from_millis(newest);
                    report.oldest = Some(report.oldest.map_or(at, |oldest| oldest.min(at)));
                }
            }
        }
        report.states.sort();
        report.signatures.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
        report.kinds.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
        Ok(report)
    }
}

//! One commit for all who wait: what several callers append or settle while a commit is under way goes into the next one.

use std::sync::Arc;

use futures::future::join_all;
use tokio::task::AbortHandle;

use super::{
    link::{Lane, Link, MISSING, Trouble},
    row::{Columns, EventRow},
};
use crate::served::shared::{Callers, Job, Jobs, answer, fail, queue};

/// Events for one stream, all or none.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) stream: u32,
    pub(crate) now: i64,
    pub(crate) rows: Vec<EventRow>,
}

/// What became of them.
#[derive(Debug)]
pub(crate) enum Appended {
    /// Position of each, and whether it was there.
    Done(Vec<(i64, bool)>),
    /// A group has this backlog, which is too much.
    Full { group: String, backlog: i64 },
}

/// One settlement as the function takes it.
#[derive(Debug)]
pub(crate) struct SettleRow {
    pub(crate) group: i32,
    pub(crate) number: i64,
    pub(crate) epoch: i64,
    pub(crate) owner: i64,
    pub(crate) kind: &'static str,
    pub(crate) at: Option<i64>,
    pub(crate) attempts: i32,
    pub(crate) crashes: i32,
    pub(crate) line: String,
    /// Number of the stream of dead letters.
    pub(crate) dead: Option<i32>,
    pub(crate) class: i16,
    pub(crate) message: String,
    pub(crate) signature: String,
    pub(crate) config: String,
    pub(crate) outputs: Vec<(i32, EventRow)>,
}

/// Settlements of one caller.
#[derive(Debug)]
pub(crate) struct Settle {
    pub(crate) now: i64,
    pub(crate) rows: Vec<SettleRow>,
}

type Appending = Job<Append, Appended, Trouble>;

/// The two queues, and the tasks that empty them.
pub(crate) struct Batches {
    appends: Callers<Append, Appended, Trouble>,
    settles: Callers<Settle, Vec<bool>, Trouble>,
    tasks: AbortHandle,
}

impl Batches {
    #[expect(
        clippy::disallowed_methods,
        reason = "an engine is opened before there is a supervisor; the task ends with it"
    )]
    pub(crate) fn start(link: &Arc<Link>) -> Self {
        let ((appends, to_append), (settles, to_settle)) = (queue(), queue());
        let link = Arc::clone(link);
        let both = async move { tokio::join!(append_all(&link, to_append), settle_all(&link, to_settle)) };
        Self { appends, settles, tasks: tokio::spawn(both).abort_handle() }
    }

    pub(crate) fn stop(&self) {
        self.tasks.abort();
    }

    pub(crate) async fn append(&self, job: Append) -> Result<Appended, Trouble> {
        self.appends.ask(job).await.unwrap_or_else(|| Err(gone()))
    }

    pub(crate) async fn settle(&self, job: Settle) -> Result<Vec<bool>, Trouble> {
        self.settles.ask(job).await.unwrap_or_else(|| Err(gone()))
    }
}

fn gone() -> Trouble {
    Trouble::Gone("the store is closed".to_owned())
}

/// Whether a trouble may be that of one of several jobs, so that each is tried alone.
fn may_be_one(trouble: &Trouble) -> bool {
    trouble.code().is_some_and(|code| code != MISSING)
}

async fn append_all(link: &Link, mut queue: Jobs<Append, Appended, Trouble>) {
    let size = |job: &Append| (job.rows.len(), job.rows.iter().map(EventRow::size).sum());
    while let Some(jobs) = queue.take(size).await {
        let mut by_stream: Vec<(u32, Vec<Appending>)> = Vec::new();
        for job in jobs {
            match by_stream.iter_mut().find(|(stream, _)| *stream == job.0.stream) {
                Some((_, of_stream)) => of_stream.push(job),
                None => by_stream.push((job.0.stream, vec![job])),
            }
        }
        join_all(by_stream.into_iter().map(|(_, jobs)| append_to_one(link, jobs))).await;
    }
}

async fn append_to_one(link: &Link, jobs: Vec<Appending>) {
    let asks: Vec<&Append> = jobs.iter().map(|(ask, _)| ask).collect();
    match append(link, &asks).await {
        Ok(answers) => answer(jobs, answers.into_iter().map(Ok)),
        Err(trouble) if jobs.len() > 1 && may_be_one(&trouble) => {
            for job in jobs {
                let alone = append(link, &[&job.0]).await;
                answer(vec![job], [alone.and_then(|mut one| one.pop().ok_or(trouble.clone()))]);
            }
        }
        Err(trouble) => fail(jobs, &trouble),
    }
}

async fn append(link: &Link, asks: &[&Append]) -> Result<Vec<Appended>, Trouble> {
    let mut columns = Columns::default();
    let (mut lengths, mut whose) = (Vec::new(), Vec::new());
    for (index, ask) in asks.iter().enumerate() {
        lengths.push(i32::try_from(ask.rows.len()).unwrap_or(i32::MAX));
        for row in &ask.rows {
            whose.push(i32::try_from(index + 1).unwrap_or(i32::MAX));
            columns.push(row);
        }
    }
    let stream = asks.first().map_or(0, |ask| ask.stream.cast_signed());
    // Each caller's own time would let a stream's times go back.
    let now = asks.iter().map(|ask| ask.now).max().unwrap_or_default();
    let statement =
        "SELECT o_full, o_slowest, o_n, o_dup FROM tg_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    let Columns { mark, fingerprint, kind, body, due, expires, urgency, waits } = &columns;
    let row = link
        .ask_one(
            Lane::Append,
            statement,
            &[&stream, &now, &lengths, &whose, mark, fingerprint, kind, body, due, expires, urgency, waits],
        )
        .await?;
    let odd = |_| Trouble::Told { code: "22000".to_owned(), note: "an answer of another form".to_owned() };
    let full: Vec<Option<i64>> = row.try_get(0).map_err(odd)?;
    let slowest: Option<String> = row.try_get(1).map_err(odd)?;
    let numbers: Vec<i64> = row.try_get::<_, Option<_>>(2).map_err(odd)?.unwrap_or_default();
    let repeats: Vec<bool> = row.try_get::<_, Option<_>>(3).map_err(odd)?.unwrap_or_default();
    let mut places = numbers.into_iter().zip(repeats);
    let answer = |(ask, full): (&&Append, Option<i64>)| match full {
        Some(backlog) => Appended::Full { group: slowest.clone().unwrap_or_default(), backlog },
        None => Appended::Done(places.by_ref().take(ask.rows.len()).collect()),
    };
    Ok(asks.iter().zip(full).map(answer).collect())
}

async fn settle_all(link: &Link, mut queue: Jobs<Settle, Vec<bool>, Trouble>) {
    let bytes = |row: &SettleRow| {
        64 + row.line.len() + row.message.len() + row.outputs.iter().map(|(_, event)| event.size()).sum::<usize>()
    };
    let size = |job: &Settle| (job.rows.len(), job.rows.iter().map(bytes).sum());
    while let Some(jobs) = queue.take(size).await {
        let asks: Vec<&Settle> = jobs.iter().map(|(ask, _)| ask).collect();
        match settle(link, &asks).await {
            Ok(answers) => answer(jobs, answers.into_iter().map(Ok)),
            Err(trouble) if jobs.len() > 1 && trouble.code().is_some() => {
                for job in jobs {
                    let alone = settle(link, &[&job.0]).await;
                    answer(vec![job], [alone.and_then(|mut one| one.pop().ok_or(trouble.clone()))]);
                }
            }
            Err(trouble) => fail(jobs, &trouble),
        }
    }
}

async fn settle(link: &Link, asks: &[&Settle]) -> Result<Vec<Vec<bool>>, Trouble> {
    let rows: Vec<&SettleRow> = asks.iter().flat_map(|ask| &ask.rows).collect();
    let mut columns = Columns::default();
    let (mut of, mut to) = (Vec::new(), Vec::new());
    for (index, row) in rows.iter().enumerate() {
        for (stream, event) in &row.outputs {
            of.push(i32::try_from(index + 1).unwrap_or(i32::MAX));
            to.push(*stream);
            columns.push(event);
        }
    }
    fn all<'r, T>(rows: &[&'r SettleRow], take: impl Fn(&'r SettleRow) -> T) -> Vec<T> {
        rows.iter().map(|row| take(row)).collect()
    }
    let now = asks.iter().map(|ask| ask.now).max().unwrap_or_default();
    let (groups, numbers) = (all(&rows, |row| row.group), all(&rows, |row| row.number));
    let (epochs, owners, kinds) =
        (all(&rows, |row| row.epoch), all(&rows, |row| row.owner), all(&rows, |row| row.kind));
    let (ats, attempts) = (all(&rows, |row| row.at), all(&rows, |row| row.attempts));
    let (crashes, lines) = (all(&rows, |row| row.crashes), all(&rows, |row| row.line.as_str()));
    let (dead, classes) = (all(&rows, |row| row.dead), all(&rows, |row| row.class));
    let (messages, signatures) = (all(&rows, |row| row.message.as_str()), all(&rows, |row| row.signature.as_str()));
    let configs = all(&rows, |row| row.config.as_str());
    let statement = "SELECT tg_settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, \
                     $21, $22, $23, $24, $25)";
    let Columns { mark, fingerprint, kind, body, due, expires, urgency, waits } = &columns;
    let row = link
        .ask_one(
            Lane::Settle,
            statement,
            &[
                &now,
                &groups,
                &numbers,
                &epochs,
                &owners,
                &kinds,
                &ats,
                &attempts,
                &crashes,
                &lines,
                &dead,
                &classes,
                &messages,
                &signatures,
                &configs,
                &of,
                &to,
                mark,
                fingerprint,
                kind,
                body,
                due,
                expires,
                urgency,
                waits,
            ],
        )
        .await?;
    let odd = |_| Trouble::Told { code: "22000".to_owned(), note: "an answer of another form".to_owned() };
    let held: Vec<bool> = row.try_get(0).map_err(odd)?;
    let mut held = held.into_iter();
    Ok(asks.iter().map(|ask| held.by_ref().take(ask.rows.len()).collect()).collect())
}

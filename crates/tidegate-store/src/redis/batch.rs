//! One step of the server for all who append while another one is under way.

use std::sync::Arc;

use tokio::{sync::Mutex, task::AbortHandle};

use super::{
    entry::Fields,
    link::{Link, Trouble},
    packed::Packed,
    reply::Reply,
    script::{Ask, SCRIPTS},
};
use crate::served::shared::{Callers, Job, Jobs, answer, fail, queue};

/// Steps under way at a time: while the server carries out one, the next is put together.
const STEPS: usize = 2;

/// Events for one stream, all or none.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) stream: u32,
    /// Largest backlog after which nothing more is taken.
    pub(crate) most: Option<u64>,
    pub(crate) now: i64,
    /// Each with what the dedupe window knows it by.
    pub(crate) events: Vec<(Vec<u8>, Fields)>,
}

/// What became of them: the answer of the script from there on.
pub(crate) enum Appended {
    /// Position of each, and whether it was there.
    Done(Reply),
    /// A group with its backlog, which is too much.
    Full(Reply),
}

type Answer = Result<Appended, Trouble>;

/// The queue of those who append, and the tasks that empty it.
pub(crate) struct Appends {
    callers: Callers<Append, Appended, Trouble>,
    tasks: Vec<AbortHandle>,
}

impl Appends {
    #[expect(
        clippy::disallowed_methods,
        reason = "an engine is opened before there is a supervisor; the tasks end with it"
    )]
    pub(crate) fn start(link: &Arc<Link>, prefix: &str) -> Self {
        let (callers, jobs) = queue();
        let jobs = Arc::new(Mutex::new(jobs));
        let tasks = (0..STEPS).map(|_| {
            let (link, prefix, jobs) = (Arc::clone(link), prefix.to_owned(), Arc::clone(&jobs));
            tokio::spawn(async move { append_all(&link, &prefix, &jobs).await }).abort_handle()
        });
        Self { callers, tasks: tasks.collect() }
    }

    pub(crate) fn stop(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }

    pub(crate) async fn append(&self, job: Append) -> Answer {
        self.callers.ask(job).await.unwrap_or_else(|| Err(Trouble::Gone("the store is closed".to_owned())))
    }
}

async fn append_all(link: &Link, prefix: &str, jobs: &Mutex<Jobs<Append, Appended, Trouble>>) {
    let size = |job: &Append| (job.events.len(), job.events.iter().map(|(_, fields)| fields.bytes()).sum());
    loop {
        let taken = jobs.lock().await.take(size).await;
        let Some(taken) = taken else { return };
        append_some(link, prefix, taken).await;
    }
}

async fn append_some(link: &Link, prefix: &str, jobs: Vec<Job<Append, Appended, Trouble>>) {
    let asks: Vec<&Append> = jobs.iter().map(|(ask, _)| ask).collect();
    match append(link, prefix, &asks).await {
        Ok(answers) => answer(jobs, answers),
        // It may be that of one of them: each is tried alone.
        Err(trouble) if jobs.len() > 1 && trouble.code().is_some() => {
            for job in jobs {
                let alone = append(link, prefix, &[&job.0]).await;
                let said = alone.and_then(|mut one| one.pop().unwrap_or_else(|| Err(odd())));
                answer(vec![job], [said]);
            }
        }
        Err(trouble) => fail(jobs, &trouble),
    }
}

async fn append(link: &Link, prefix: &str, asks: &[&Append]) -> Result<Vec<Answer>, Trouble> {
    // Each caller's own time would let a stream's times go back.
    let now = asks.iter().map(|ask| ask.now).max().unwrap_or_default();
    let mut call = Ask::new(&SCRIPTS.append, prefix);
    call.number(now).bytes(pack(asks).as_bytes());
    let mut reply = Reply::new(link.run_again(&call).await?);
    let mut answers = Vec::with_capacity(asks.len());
    for _ in asks {
        let told = |code: &str, detail: &str| Trouble::Told { code: code.to_owned(), detail: detail.to_owned() };
        let mut one = reply.list().map_err(|_| odd())?;
        answers.push(match one.text().map_err(|_| odd())?.as_str() {
            "done" => Ok(Appended::Done(one)),
            "full" => Ok(Appended::Full(one)),
            "missing" => Err(told("TGMISSING", "stream")),
            _ => Err(told("TGAGAIN", "later")),
        });
    }
    Ok(answers)
}

fn pack(asks: &[&Append]) -> Packed {
    let mut packed = Packed::default();
    packed.list(asks.len());
    for ask in asks {
        let most = ask.most.map(|most| i64::try_from(most).unwrap_or(i64::MAX));
        packed.list(5).text(&ask.stream.to_string()).maybe(most);
        packed.list(ask.events.len());
        for (mark, _) in &ask.events {
            packed.bytes(mark);
        }
        packed.list(ask.events.len());
        for (_, fields) in &ask.events {
            fields.pack(&mut packed);
        }
        packed.list(ask.events.len());
        for (_, fields) in &ask.events {
            packed.count(fields.bytes());
        }
    }
    packed
}

fn odd() -> Trouble {
    Trouble::Told { code: "PARSE".to_owned(), detail: "an answer of another form".to_owned() }
}

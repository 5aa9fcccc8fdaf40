//! One commit for all who wait: what several callers ask for while a commit is under way goes into the next one.

use tidegate_core::limits;
use tokio::sync::{mpsc, oneshot};

/// Most callers that wait for the next commit before others are held back.
const QUEUE: usize = 1024;
/// Most events or settlements in one commit.
const ROWS_MAX: usize = limits::BATCH_EVENTS_MAX;

/// What one caller asks for, and where its answer goes.
pub(crate) type Job<I, O, E> = (I, oneshot::Sender<Result<O, E>>);

/// The end at which callers stand.
pub(crate) struct Callers<I, O, E>(mpsc::Sender<Job<I, O, E>>);

/// The end at which commits are made.
pub(crate) struct Jobs<I, O, E>(mpsc::Receiver<Job<I, O, E>>);

pub(crate) fn queue<I, O, E>() -> (Callers<I, O, E>, Jobs<I, O, E>) {
    let (send, receive) = mpsc::channel(QUEUE);
    (Callers(send), Jobs(receive))
}

impl<I, O, E> Callers<I, O, E> {
    /// Asks, and waits for the answer; none when nobody answers any more.
    pub(crate) async fn ask(&self, job: I) -> Option<Result<O, E>> {
        let (answer, answered) = oneshot::channel();
        self.0.send((job, answer)).await.ok()?;
        answered.await.ok()
    }
}

impl<I, O, E> Jobs<I, O, E> {
    /// Takes the jobs that wait, as many as one commit carries; at least one. `size` tells rows and bytes of one.
    pub(crate) async fn take(&mut self, size: impl Fn(&I) -> (usize, usize)) -> Option<Vec<Job<I, O, E>>> {
        let first = self.0.recv().await?;
        let (mut rows, mut bytes) = size(&first.0);
        let mut jobs = vec![first];
        while rows < ROWS_MAX && bytes < limits::COMMIT_BYTES_MAX {
            let Ok(next) = self.0.try_recv() else { break };
            let (more, larger) = size(&next.0);
            (rows, bytes) = (rows + more, bytes + larger);
            jobs.push(next);
        }
        Some(jobs)
    }
}

/// Gives each its answer.
pub(crate) fn answer<I, O, E>(jobs: Vec<Job<I, O, E>>, answers: impl IntoIterator<Item = Result<O, E>>) {
    for ((_, answer), said) in jobs.into_iter().zip(answers) {
        // Who no longer waits misses nothing.
        drop(answer.send(said));
    }
}

/// Gives all of them one trouble.
pub(crate) fn fail<I, O, E: Clone>(jobs: Vec<Job<I, O, E>>, trouble: &E) {
    answer(jobs, std::iter::repeat_with(|| Err(trouble.clone())));
}

//! The control thread, on which a connection makes the engine's blocking calls.

use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use nixl_device::{ForkGeneration, LeakInChild};
use nixl_ops::{BlockingThread, TransportError, contained};
use tokio::sync::oneshot;

use crate::ConnectorError;

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs one after the other on a thread of its own. The thread ends with the last clone, after the jobs
/// that were queued.
#[derive(Clone)]
pub struct ControlThread {
    jobs: LeakInChild<Sender<Job>>,
    waiting: Arc<AtomicUsize>,
    name: &'static str,
}

impl ControlThread {
    const THREAD: &str = "nixl-control";
    const JOB: &str = "a job of the connection's thread";
    /// In which a thread begins to run that ever does.
    const LONGEST: Duration = Duration::from_secs(10);

    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Thread`] if the operating system refuses it, [`ConnectorError::ForkedAmidThreads`] if it does not begin to run.
    pub fn spawn() -> Result<Self, ConnectorError> {
        Self::named(Self::THREAD)
    }

    /// For work that takes long and does not block.
    pub(crate) fn for_work() -> Result<Self, ConnectorError> {
        Self::named("nixl-work")
    }

    fn named(name: &'static str) -> Result<Self, ConnectorError> {
        let (jobs, queue) = channel::<Job>();
        let waiting = Arc::<AtomicUsize>::default();
        let left = Arc::clone(&waiting);
        let (began, begins) = channel();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _ = began.send(());
                nixl_descriptor::defer_disposal_on_this_thread();
                for job in queue {
                    // A job that panics costs none of the others. Its awaiting caller is told by `run`.
                    let _ = contained(Self::JOB, job);
                    left.fetch_sub(1, Ordering::Relaxed);
                }
            })
            .map_err(|e| ConnectorError::Thread { reason: e.to_string() })?;
        if ForkGeneration::current().is_forked() && begins.recv_timeout(Self::LONGEST).is_err() {
            return Err(ConnectorError::ForkedAmidThreads);
        }
        Ok(Self { jobs: LeakInChild::new(jobs), waiting, name })
    }

    /// What has happened to a job that was never run.
    pub(crate) fn ended(&self) -> TransportError {
        match self.jobs.is_inherited() {
            true => TransportError::Forked,
            false => TransportError::ThreadEnded { thread: self.name },
        }
    }

    /// The output of a future that waits for this thread, which a fork's child has not.
    ///
    /// # Errors
    ///
    /// [`TransportError::Forked`].
    pub(crate) async fn here<T>(
        &self,
        future: impl Future<Output = T>,
    ) -> Result<T, TransportError> {
        let mut future = pin!(future);
        let output = poll_fn(|cx| match self.jobs.is_inherited() {
            true => Poll::Ready(Err(TransportError::Forked)),
            false => future.as_mut().poll(cx).map(Ok),
        });
        output.await
    }

    /// Jobs that are queued, with the one that runs.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Queues a job whose end is not awaited.
    pub fn post(&self, job: impl FnOnce() + Send + 'static) {
        if self.jobs.is_inherited() {
            // A fork's child has not the thread, nor is what the job holds its own to drop.
            mem::forget(job);
            return;
        }
        // The thread lives as long as any sender. Should it have ended all the same, the job is dropped here, which tells
        // the caller that awaits it.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.jobs.send(Box::new(job)).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Runs a job and waits for its result.
    ///
    /// Cancel safe: a job that was queued runs to its end all the same.
    ///
    /// # Errors
    ///
    /// [`TransportError::Panicked`] if the job panicked, [`TransportError::ThreadEnded`] if it could not run, and
    /// [`TransportError::Forked`] in a process that was forked from that of the thread.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TransportError> {
        let (reply, result) = oneshot::channel();
        self.post(move || {
            // The waiter may be gone.
            let _ = reply.send(contained(Self::JOB, job));
        });
        self.here(result).await?.unwrap_or_else(|_| Err(self.ended()))
    }
}

impl BlockingThread for ControlThread {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        self.post(job);
    }
}

impl fmt::Debug for ControlThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, waiting) = (self.name, self.waiting());
        f.debug_struct("ControlThread").field("name", &name).field("waiting", &waiting).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_is_an_error_to_its_caller_and_the_next_one_runs() {
        let control = ControlThread::spawn().unwrap();
        control.post(|| panic!("of a job without a waiter"));
        let outcome = control.run(|| -> u32 { panic!("of a job") }).await;
        let Err(TransportError::Panicked { reason, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(reason, "of a job");
        assert_eq!(control.run(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn a_thread_that_has_ended_is_an_error_at_once() {
        let (jobs, queue) = channel::<Job>();
        drop(queue);
        let jobs = LeakInChild::new(jobs);
        let outcome = ControlThread { jobs, waiting: Arc::default(), name: ControlThread::THREAD }
            .run(|| 7)
            .await;
        assert_eq!(outcome, Err(TransportError::ThreadEnded { thread: "nixl-control" }));
    }
}

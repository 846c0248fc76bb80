//! The thread on which a connection makes the engine's blocking calls.

use std::fmt;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use nixl_ops::{Background, TransportError};
use tokio::sync::oneshot;

use crate::ConnectorError;

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs one after the other on a thread of its own. The thread ends with the last clone, after the jobs
/// that were queued.
#[derive(Clone)]
pub struct ControlThread {
    jobs: Sender<Job>,
}

impl ControlThread {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Thread`] if the operating system refuses it.
    pub fn spawn() -> Result<Self, ConnectorError> {
        let (jobs, queue) = channel::<Job>();
        thread::Builder::new()
            .name("nixl-control".to_owned())
            .spawn(move || {
                for job in queue {
                    job();
                }
            })
            .map_err(|e| ConnectorError::Thread { reason: e.to_string() })?;
        Ok(Self { jobs })
    }

    /// Queues a job whose end nobody awaits.
    pub fn post(&self, job: impl FnOnce() + Send + 'static) {
        // The thread lives as long as any sender, so this cannot fail; if it ever did, dropping the job here
        // would still run its destructors.
        let _ = self.jobs.send(Box::new(job));
    }

    /// Runs a job and waits for its result.
    ///
    /// Cancel safe: a job that was queued runs to its end all the same.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`] if the job could not run.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TransportError> {
        let (reply, result) = oneshot::channel();
        self.post(move || {
            // Nobody may be waiting any more.
            let _ = reply.send(job());
        });
        result.await.map_err(|_| TransportError::Closed)
    }
}

impl Background for ControlThread {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        self.post(job);
    }
}

impl fmt::Debug for ControlThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControlThread")
    }
}

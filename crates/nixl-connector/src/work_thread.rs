//! The thread of a connection for work that makes no call of the engine's.

use std::sync::{Arc, OnceLock};

use nixl_ops::BlockingThread;

use crate::ConnectorError;
use crate::control::ControlThread;

/// A thread that the first work starts. Nothing on it waits behind a connect.
#[derive(Clone, Debug)]
pub(crate) struct WorkThread {
    started: Arc<OnceLock<ControlThread>>,
    /// Does what the system refuses a thread for.
    control: ControlThread,
}

impl WorkThread {
    pub(crate) fn beside(control: &ControlThread) -> Self {
        Self { started: Arc::default(), control: control.clone() }
    }

    /// The thread.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Thread`] if the operating system refuses it.
    pub(crate) fn get(&self) -> Result<&ControlThread, ConnectorError> {
        if let Some(started) = self.started.get() {
            return Ok(started);
        }
        let started = ControlThread::for_work()?;
        // If two callers start it at the same time, one thread ends at once.
        Ok(self.started.get_or_init(|| started))
    }
}

impl BlockingThread for WorkThread {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        BlockingThread::run(self.get().unwrap_or(&self.control), job);
    }

    fn run_for_peer(&self, job: Box<dyn FnOnce() + Send>) -> bool {
        self.get().unwrap_or(&self.control).run_for_peer(job)
    }
}

//! The caller's side of a transfer.
#![allow(unsafe_code, reason = "promises what transfers must keep")]

use std::sync::Arc;
use std::task::Poll;

use nixl_ops::{Transfer, TransportError};

use super::fabric::Network;
use super::job::{Job, Request};
use super::stepped::SteppedJob;

pub(super) struct SimulatedTransfer {
    network: Arc<Network>,
    stage: Stage,
    descriptors: usize,
    was_posted: bool,
    /// What is posted again.
    repeated: Option<Request>,
}

enum Stage {
    Prepared(Request),
    Posted(Job),
    Stepped(Arc<SteppedJob>),
    Ended,
}

impl SimulatedTransfer {
    pub(super) fn new(network: Arc<Network>, request: Request, is_repeated: bool) -> Self {
        let (descriptors, was_posted) = (request.pairs.len(), false);
        let repeated = is_repeated.then(|| request.clone());
        Self { network, stage: Stage::Prepared(request), descriptors, was_posted, repeated }
    }
}

// SAFETY: the job copies only from the post on, in `advance` or in a step, until it is ready, and owns the lease; that of one
// that is dropped in flight is leaked.
unsafe impl Transfer for SimulatedTransfer {
    fn poll(&mut self) -> Poll<Result<(), TransportError>> {
        let mut job = match std::mem::replace(&mut self.stage, Stage::Ended) {
            // An operation waits for those in flight to end; what is posted now would keep it waiting.
            Stage::Prepared(request) if Job::is_held(&self.network, &request) => {
                self.stage = Stage::Prepared(request);
                return Poll::Pending;
            }
            Stage::Prepared(request) => {
                let job = Job::post(&self.network, request)?;
                match self.network.chunk {
                    None => job,
                    Some(chunk) => {
                        self.was_posted = true;
                        self.stage = Stage::Stepped(SteppedJob::post(&self.network, job, chunk));
                        return Poll::Pending;
                    }
                }
            }
            Stage::Posted(job) => job,
            Stage::Stepped(job) => {
                let ended = job.poll(&self.network);
                if ended.is_pending() {
                    self.stage = Stage::Stepped(job);
                }
                return ended;
            }
            Stage::Ended => return Poll::Ready(Err(TransportError::Closed)),
        };
        self.was_posted = true;
        let result = job.advance(&self.network);
        if result.is_pending() {
            self.stage = Stage::Posted(job);
        }
        result
    }

    fn in_flight(&self) -> bool {
        matches!(self.stage, Stage::Posted(_) | Stage::Stepped(_))
    }

    fn was_posted(&self) -> bool {
        self.was_posted
    }

    fn repeat(&mut self) -> bool {
        let (Stage::Ended, Some(request)) = (&self.stage, &self.repeated) else { return false };
        self.stage = Stage::Prepared(request.clone());
        self.was_posted = false;
        true
    }

    fn descriptors(&self) -> usize {
        self.descriptors
    }
}

impl Drop for SimulatedTransfer {
    fn drop(&mut self) {
        // The engine goes on without us, as engines do.
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Posted(job) => {
                job.leak();
                self.network.adopt(job);
            }
            // The network has it.
            Stage::Stepped(job) => job.leak(),
            Stage::Prepared(_) | Stage::Ended => {}
        }
    }
}

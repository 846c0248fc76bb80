//! The caller's side of a transfer.
#![allow(unsafe_code, reason = "implements the contract of transfers")]

use std::num::NonZeroU64;
use std::sync::Arc;
use std::task::{Context, Poll};

use nixl_ops::{CompletionMode, Transfer, TransportError};

use super::fabric::Network;
use super::job::{Job, Request};
use super::stepped::SteppedJob;

pub(super) struct SimulatedTransfer {
    network: Arc<Network>,
    stage: Stage,
    descriptors: usize,
    was_posted: bool,
    mode: CompletionMode,
    /// What is posted again.
    repeated: Option<Request>,
    is_listed: bool,
}

enum Stage {
    Prepared(Request),
    Posted(Job),
    /// Moves without being polled.
    Stepped(Arc<SteppedJob>),
    Ended,
}

impl SimulatedTransfer {
    /// The most bytes that the engine of an agent moves at once.
    const CHUNK: NonZeroU64 = NonZeroU64::new(1 << 20).unwrap();

    pub(super) fn new(
        network: Arc<Network>,
        request: Request,
        mode: CompletionMode,
        (is_repeated, is_listed): (bool, bool),
    ) -> Self {
        let (descriptors, was_posted) = (request.pairs.len(), false);
        let repeated = is_repeated.then(|| request.clone());
        let stage = Stage::Prepared(request);
        Self { network, stage, descriptors, was_posted, mode, repeated, is_listed }
    }

    /// The most bytes that move at once, if the transfer moves without being polled.
    fn chunk(&self) -> Option<NonZeroU64> {
        let waking = (self.mode == CompletionMode::Wakes).then_some(Self::CHUNK);
        self.network.chunk.or(waking)
    }

    fn poll_stepped(
        &mut self,
        job: Arc<SteppedJob>,
        cx: &Context<'_>,
    ) -> Poll<Result<(), TransportError>> {
        let waker = (self.mode == CompletionMode::Wakes).then(|| cx.waker());
        let ended = job.poll(&self.network, waker);
        if ended.is_pending() {
            self.stage = Stage::Stepped(job);
        }
        ended
    }
}

// SAFETY: the job copies only from the post on, in `advance` or in a step, until it is ready, and owns the lease; that of one
// that is dropped in flight is leaked.
unsafe impl Transfer for SimulatedTransfer {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let mut job = match std::mem::replace(&mut self.stage, Stage::Ended) {
            // An operation waits for those in flight to end; what is posted now would keep it waiting.
            Stage::Prepared(request) if Job::is_held(&self.network, &request) => {
                self.stage = Stage::Prepared(request);
                return Poll::Pending;
            }
            Stage::Prepared(request) => {
                let job = Job::post(&self.network, request)?;
                match self.chunk() {
                    None => job,
                    Some(chunk) => {
                        self.was_posted = true;
                        let job = SteppedJob::post(&self.network, job, chunk);
                        return self.poll_stepped(job, cx);
                    }
                }
            }
            Stage::Posted(job) => job,
            Stage::Stepped(job) => return self.poll_stepped(job, cx),
            Stage::Ended => return Poll::Ready(Err(TransportError::Closed)),
        };
        self.was_posted = true;
        let result = job.advance(&self.network);
        if result.is_pending() {
            self.stage = Stage::Posted(job);
        }
        result
    }

    fn completion_mode(&self) -> CompletionMode {
        match &self.stage {
            Stage::Stepped(_) => self.mode,
            // One that is held is not in flight.
            Stage::Prepared(_) | Stage::Posted(_) | Stage::Ended => CompletionMode::Polled,
        }
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

    fn is_listed(&self) -> bool {
        self.is_listed
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

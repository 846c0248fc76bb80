//! One-sided staged transfers: the peer takes no part, and its memory is host memory.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nixl_descriptor::Leased;
use nixl_ops::{Clock, CompletionNotifier, Execution, Hop, PathReport, TransportError};

use super::pull::Pull;
use super::source::Source;
use crate::sessions::failed;

/// The direction of the bytes.
pub(super) enum StagedFlow {
    Push(Source),
    Pull(Pull),
}

impl StagedFlow {
    fn poll(&mut self, clock: &dyn Clock) -> Result<bool, TransportError> {
        match self {
            Self::Push(source) => source.poll(clock),
            Self::Pull(pull) => pull.poll(clock),
        }
    }

    fn stop(&mut self) {
        match self {
            Self::Push(source) => source.stop(),
            Self::Pull(pull) => pull.stop(),
        }
    }

    fn is_quiet(&self) -> bool {
        match self {
            Self::Push(source) => source.is_quiet(),
            Self::Pull(pull) => pull.is_quiet(),
        }
    }

    fn is_complete(&self) -> bool {
        match self {
            Self::Push(source) => source.all_started() && source.is_quiet(),
            Self::Pull(pull) => pull.is_complete(),
        }
    }

    fn hops(&self) -> Vec<Hop> {
        match self {
            Self::Push(source) => source.hops(),
            Self::Pull(pull) => pull.hops(),
        }
    }
}

/// A staged transfer with a peer that need not support staging. The peer receives the same notification as of any transfer: the key
/// of its offer, once all bytes are in place.
pub(super) struct OneSided {
    clock: Arc<dyn Clock>,
    notifier: CompletionNotifier,
    way: StagedFlow,
    /// Field order: after what uses the memory.
    leased: Leased,
    failure: Option<TransportError>,
    steps: u64,
    ended: bool,
    report: PathReport,
}

impl OneSided {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        notifier: CompletionNotifier,
        (way, leased): (StagedFlow, Leased),
        report: PathReport,
    ) -> Self {
        Self { clock, notifier, way, leased, failure: None, steps: 0, ended: false, report }
    }

    fn fail(&mut self, error: TransportError) {
        self.way.stop();
        self.failure.get_or_insert(error);
    }

    fn advance(&mut self) -> Poll<Result<(), TransportError>> {
        match self.way.poll(&*self.clock) {
            Ok(moved) => self.steps += u64::from(moved),
            Err(error) => self.fail(error),
        }
        if let Some(error) = &self.failure {
            return match self.way.is_quiet() {
                true => Poll::Ready(Err(error.clone())),
                false => Poll::Pending,
            };
        }
        if !self.way.is_complete() {
            return Poll::Pending;
        }
        self.notifier.notify()
    }
}

impl Execution for OneSided {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.ended {
            return Poll::Ready(Err(TransportError::Closed));
        }
        let result = self.advance();
        self.ended = result.is_ready();
        result
    }

    fn abandon(&mut self) -> bool {
        self.fail(failed("wait", "the operation was abandoned"));
        self.ended || self.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn report(&self) -> PathReport {
        self.report.clone().with_hops(self.way.hops())
    }

    fn steps(&self) -> u64 {
        self.steps
    }
}

impl Drop for OneSided {
    fn drop(&mut self) {
        // A GPU or the engine may still use the memory.
        if !self.way.is_quiet() {
            self.leased.clone().leak();
        }
    }
}

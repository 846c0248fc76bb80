//! Copies of any lengths between host memories, as one piece of work.
#![allow(unsafe_code, reason = "copies by address")]

use std::mem;
use std::sync::Arc;
use std::task::{Poll, Waker};

use nixl_descriptor::Dependency;
use nixl_ops::{TransportError, WaitFor};

use super::execution::{CopyWorkers, PlanExecution};
use crate::local::host::host_copy::{self, CacheHint, Copying, Work};
use crate::local::plan::block_copy::CopyOp;

/// Host copies of a list, on memory that meets the contract of [`PlanExecution`]. The first poll makes them if they are short
/// together, otherwise threads do: a list of many lengths occupies its poller no longer than a list of one.
pub(super) struct HostList {
    state: State,
    threads: CopyWorkers,
    waker: Waker,
    /// Work on the memory that precedes the copies.
    pending: Vec<Arc<dyn Dependency>>,
}

enum State {
    Planned(Vec<CopyOp>),
    Copying(Copying),
    Ended,
}

impl HostList {
    pub(super) fn new(
        ops: Vec<CopyOp>,
        threads: CopyWorkers,
        waker: Waker,
        pending: &[Arc<dyn Dependency>],
    ) -> Self {
        Self { state: State::Planned(ops), threads, waker, pending: pending.to_vec() }
    }

    pub(super) fn poll(&mut self) -> Poll<Result<(), TransportError>> {
        if matches!(self.state, State::Planned(_)) && !WaitFor::is_open(&self.pending)? {
            return Poll::Pending;
        }
        self.state = match mem::replace(&mut self.state, State::Ended) {
            State::Planned(ops) => self.begin(&ops),
            State::Copying(copying) if !copying.is_done() => State::Copying(copying),
            State::Copying(_) | State::Ended => State::Ended,
        };
        match self.state {
            State::Ended => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    fn begin(&self, ops: &[CopyOp]) -> State {
        let bytes: u64 = ops.iter().map(|op| op.len).sum();
        if bytes <= PlanExecution::INLINE {
            for op in ops {
                // SAFETY: the operation leases the ranges of this process and keeps a peer's open, which the peer may change.
                // `GpuBackend::memory_kind` said of both that the processor reaches them, otherwise this was not made.
                unsafe { host_copy::copy(*op, CacheHint::Cached) };
            }
            return State::Ended;
        }
        let target = CacheHint::of(bytes);
        let work = Work { ops, target, waker: Some(self.waker.clone()), reporter: None };
        // SAFETY: as above, until the copies are done.
        State::Copying(unsafe { self.threads.pool.start(work) })
    }

    /// Whether no copy is in flight.
    pub(super) fn abandon(&self) -> bool {
        !matches!(self.state, State::Copying(_))
    }
}

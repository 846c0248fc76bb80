//! The execution of a copy plan.
#![allow(unsafe_code, reason = "queues copies by address")]

use std::io;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nixl_descriptor::Dependency;
use nixl_device::SharedError;
use nixl_ops::{Clock, Execution, PathKind, PathReport, Rejected, TransportError, WaitFor};

use super::packed;
use super::ring::Ring;
use super::ring_driver::{RingDriver, RingTransfer};
use crate::local::gpu::gpu_backend::{GpuBackend, GpuEvent, GpuStream, TransferBuffer};
use crate::local::gpu::stream_point::{is_of_streams, order};
use crate::local::host::host_copy::{self, CacheHint, CopyPool, Copying, Work};
use crate::local::host::progress::Reporter;
use crate::local::plan::block_copy::CopyOp;
use crate::local::plan::copy_plan::Plan;
use crate::local::plan::costs::{CopyRoute, Costs};
use crate::local::{GpuError, MemoryKind, Strategy, StrategyPolicy, StreamHandle};

/// Execution of a plan, on memory that the operation leases while this lives, or until [`abandon`](Execution::abandon) returns
/// `true`, and on memory of a peer that the operation keeps open as long. The peer may change its memory meanwhile.
pub(crate) struct PlanExecution {
    plan: Plan,
    gpus: Arc<dyn GpuBackend>,
    threads: CopyWorkers,
    waker: Waker,
    after: Option<StreamHandle>,
    /// Work on the memory that precedes the copy.
    pending: Vec<Arc<dyn Dependency>>,
    reporter: Option<Arc<Reporter>>,
    state: State,
}

/// A host copy that its first poll makes: one of [`PlanExecution`], for which no plan is made.
pub(crate) struct InlineCopy(CopyOp);

impl InlineCopy {
    const STRATEGY: Strategy = Strategy::Memcpy;

    /// The copy that these are, if it is one that [`PlanExecution`] would make in its first poll, whose contract the memory meets.
    pub(crate) fn of(
        ops: &[CopyOp],
        (src, dst): (MemoryKind, MemoryKind),
        policy: &StrategyPolicy,
        pending: &[Arc<dyn Dependency>],
    ) -> Option<Self> {
        let &[op] = ops else { return None };
        let is_inline = src.is_host()
            && dst.is_host()
            && op.len <= PlanExecution::INLINE
            && pending.is_empty()
            && *policy == StrategyPolicy::Auto;
        is_inline.then_some(Self(op))
    }

    pub(crate) fn estimate(&self, costs: &Costs) -> Duration {
        costs.cost(CopyRoute::Host, Self::STRATEGY).estimate(1, self.0.len)
    }

    /// The report, without the strategies that need a GPU.
    pub(crate) fn report(&self) -> PathReport {
        let name = Self::STRATEGY.name();
        PathReport::new(PathKind::Local(name), name, self.0.len, 1)
    }

    pub(crate) fn copy(self) {
        // SAFETY: the operation leases the range of this process and keeps a peer's open, which the peer may change.
        // `GpuBackend::memory_kind` said of both that the processor reaches them, otherwise this was not made.
        unsafe { host_copy::copy(self.0, CacheHint::Cached) };
    }
}

/// Worker threads of an executor.
#[derive(Clone)]
pub(crate) struct CopyWorkers {
    pub(super) pool: Arc<CopyPool>,
    rings: Arc<RingDriver>,
}

impl CopyWorkers {
    /// Threads that copy host memory, unless there are fewer cores. Eight reach three times the rate of one (36 against 12 GB/s
    /// on a 32-core host).
    const COPYING: usize = 8;

    pub(crate) fn new(clock: &Arc<dyn Clock>) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = CopyPool::new(Self::COPYING.min(cores), Arc::clone(clock))?;
        let rings = RingDriver::new(Arc::clone(clock))?;
        Ok(Self { pool: Arc::new(pool), rings: Arc::new(rings) })
    }
}

enum State {
    Planned,
    Host(Copying),
    /// Work is queued on a GPU; streams and scratch memory are returned at its end.
    Queued {
        event: Box<dyn GpuEvent>,
        _gpu_stream: Box<dyn GpuStream>,
        _last: Option<Box<dyn GpuStream>>,
        _scratch: Option<Box<dyn TransferBuffer>>,
    },
    /// Only part of the work could be queued. That part, possibly behind work of another transfer, is still waited for.
    Failing {
        error: GpuError,
        events: Vec<Box<dyn GpuEvent>>,
        _gpu_stream: Box<dyn GpuStream>,
        _last: Option<Box<dyn GpuStream>>,
        _scratch: Option<Box<dyn TransferBuffer>>,
    },
    Ring(RingTransfer),
    Ended,
}

impl PlanExecution {
    /// Host copies up to this many bytes are done in the first poll: 50 us at 5 GB/s, which one core reaches also for memory that
    /// is in no cache. Longer ones leave an async thread to its other tasks.
    pub(super) const INLINE: u64 = 256 * 1024;
    /// Work with an estimate within this time has no wake-up callback, whose thread contends with the polling thread and costs
    /// it 15 to 20 us: waiters wake shortly before the estimated end and poll closely, and the driver detects a late end within
    /// a sixteenth of the time waited. Longer estimates may be off by more than that, so a callback reports the end at once.
    const POLLED: Duration = Duration::from_millis(5);

    pub(crate) fn new(
        plan: Plan,
        gpus: Arc<dyn GpuBackend>,
        threads: CopyWorkers,
        waker: Waker,
        after: Option<StreamHandle>,
        reporter: Option<Arc<Reporter>>,
    ) -> Self {
        let pending = Vec::new();
        Self { plan, gpus, threads, waker, after, pending, reporter, state: State::Planned }
    }

    /// Work to wait for.
    pub(crate) fn pending(mut self, pending: &[Arc<dyn Dependency>]) -> Self {
        self.pending = pending.to_vec();
        self
    }

    /// Whether the work can begin. Work queued on a GPU can wait there.
    fn may_begin(&self) -> Result<bool, TransportError> {
        let on_a_lane = matches!(
            self.plan.strategy,
            Strategy::Copies | Strategy::Batch | Strategy::Kernel | Strategy::PackedCopy
        );
        match on_a_lane && is_of_streams(&self.pending) {
            true => Ok(true),
            false => WaitFor::is_open(&self.pending),
        }
    }

    fn begin(&mut self) -> Result<State, GpuError> {
        let (src, dst) = (self.plan.src, self.plan.dst);
        match self.plan.strategy {
            Strategy::Memcpy if self.plan.bytes <= Self::INLINE => {
                for op in self.plan.blocks.ops() {
                    // SAFETY: the operation leases the ranges of this process and keeps a peer's open, which the peer may change.
                    // `GpuBackend::memory_kind` said of both that the processor reaches them, otherwise the strategy would have
                    // been rejected.
                    unsafe { host_copy::copy(op, CacheHint::Cached) };
                }
                Ok(State::Ended)
            }
            Strategy::Memcpy => {
                let work = Work {
                    ops: &self.plan.ops(),
                    target: CacheHint::of(self.plan.bytes),
                    waker: Some(self.waker.clone()),
                    reporter: self.reporter.clone(),
                };
                // SAFETY: as above, until the copies are done.
                Ok(State::Host(unsafe { self.threads.pool.start(work) }))
            }
            Strategy::PinnedRing | Strategy::ThroughPinned => {
                let (pool, reporter) = (Arc::clone(&self.threads.pool), self.reporter.clone());
                let ops = (&*self.plan.ops(), &self.plan.blocks.boundaries);
                let ring = Ring::new(&*self.gpus, (src, dst), ops, pool, reporter, self.after)?;
                // SAFETY: the operation leases the ranges of all copies until this is ready, and if this is dropped
                // before, they are leaked.
                let ring = unsafe { self.threads.rings.begin(ring, self.waker.clone()) };
                Ok(State::Ring(ring))
            }
            Strategy::Copies | Strategy::Batch | Strategy::Kernel | Strategy::PackedCopy => {
                self.queue()
            }
        }
    }

    /// Queues the whole plan on one stream, or on two of which the second ends last.
    fn queue(&mut self) -> Result<State, GpuError> {
        let gpu = match (self.plan.copier, self.plan.src, self.plan.dst) {
            (Some(gpu), ..) | (_, MemoryKind::Gpu(gpu), _) | (.., MemoryKind::Gpu(gpu)) => gpu,
            // Strategies that reach this were checked to involve a GPU.
            (_, src, dst) => {
                let reason = format!("{src} to {dst} does not involve a GPU");
                return Err(GpuError::Unsupported { reason: SharedError::text(reason) });
            }
        };
        let plan = &self.plan;
        let mut gpu_stream = self.gpus.create_stream(gpu)?;
        let (mut last, mut scratch) = (None, None);
        if plan.strategy == Strategy::PackedCopy {
            last = Some(self.gpus.create_stream(gpu)?);
            scratch = Some(self.gpus.scratch(gpu, plan.bytes as usize)?);
        }
        let ordered = match self.after {
            Some(stream) => gpu_stream.wait_stream(stream),
            None => Ok(()),
        };
        let ordered = ordered.and_then(|()| order(&mut *gpu_stream, &self.pending));
        // SAFETY (of all calls below): the operation leases both ranges of every copy until this execution has seen the event,
        // or the GPU is lost. The GPU reaches both: `GpuBackend::memory_kind` reports their kinds, for each part, and
        // `Strategy::check` rejects memory that a GPU cannot reach. Scratch memory is this transfer's own, as long as the
        // copies. StreamPair and scratch memory are kept with the events, and leaked if this is dropped before.
        let queued = ordered.and_then(|()| match (plan.strategy, &mut last, &scratch) {
            (Strategy::PackedCopy, Some(last), Some(scratch)) => {
                let gpu_streams = packed::StreamPair { first: &mut *gpu_stream, last: &mut **last };
                let packing = matches!(plan.src, MemoryKind::Gpu(_));
                // SAFETY: above.
                unsafe { packed::queue(gpu_streams, &plan.blocks, scratch.address(), packing) }
            }
            // SAFETY: above.
            (Strategy::Batch, ..) => unsafe { gpu_stream.memcpy_batch_async(&plan.ops()) },
            // SAFETY: above.
            (Strategy::Kernel, ..) => unsafe { gpu_stream.launch_copy_kernel(&plan.blocks) },
            // SAFETY: above.
            _ => unsafe { gpu_stream.memcpy_async(&plan.ops()) },
        });
        let marked = queued.and_then(|()| {
            let end = last.as_mut().unwrap_or(&mut gpu_stream);
            let event = end.record_event()?;
            if plan.estimate > Self::POLLED {
                end.on_complete(self.waker.clone())?;
            }
            Ok(event)
        });
        match marked {
            Ok(event) => {
                Ok(State::Queued { event, _gpu_stream: gpu_stream, _last: last, _scratch: scratch })
            }
            Err(error) => {
                // A stream that records no event has lost its GPU, and nothing is in flight on it.
                let gpu_streams = [Some(&mut gpu_stream), last.as_mut()].into_iter().flatten();
                let events =
                    gpu_streams.filter_map(|gpu_stream| gpu_stream.record_event().ok()).collect();
                let (_gpu_stream, _last, _scratch) = (gpu_stream, last, scratch);
                Ok(State::Failing { error, events, _gpu_stream, _last, _scratch })
            }
        }
    }

    fn advance(&mut self) -> Poll<Result<(), GpuError>> {
        if matches!(self.state, State::Planned) {
            match self.begin() {
                Ok(state) => self.state = state,
                Err(error) => {
                    self.state = State::Ended;
                    return Poll::Ready(Err(error));
                }
            }
        }
        let result = match &mut self.state {
            State::Planned => return Poll::Pending,
            State::Ended => Ok(true),
            State::Host(copying) => Ok(copying.is_done()),
            State::Queued { event, .. } => event.is_complete(),
            State::Failing { error, events, .. } => {
                // An event that cannot be queried is of a lost GPU.
                events.retain(|event| matches!(event.is_complete(), Ok(false)));
                if events.is_empty() { Err(error.clone()) } else { Ok(false) }
            }
            State::Ring(ring) => match ring.poll() {
                Poll::Pending => Ok(false),
                Poll::Ready(result) => result.map(|()| true),
            },
        };
        match result {
            Ok(false) => Poll::Pending,
            Ok(true) => {
                // The other strategies have reported every part.
                if let Some(reporter) = &self.reporter
                    && matches!(self.state, State::Queued { .. } | State::Ended)
                {
                    reporter.advance(self.plan.bytes);
                }
                self.state = State::Ended;
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                self.state = State::Ended;
                Poll::Ready(Err(error))
            }
        }
    }
}

impl Drop for PlanExecution {
    fn drop(&mut self) {
        // In flight only if the GPU never became quiet, when the operation's memory is leaked too: nothing that the GPU
        // may still use goes back to a pool.
        match mem::replace(&mut self.state, State::Ended) {
            State::Planned | State::Ended | State::Ring(_) => {}
            in_flight => mem::forget(in_flight),
        }
    }
}

impl Execution for PlanExecution {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if matches!(self.state, State::Planned) && !self.may_begin()? {
            return Poll::Pending;
        }
        self.advance().map_err(|error| TransportError::Engine {
            engine: "local",
            call: self.plan.strategy.name(),
            reason: error.into(),
        })
    }

    fn expected(&self) -> Option<Duration> {
        Some(self.plan.estimate)
    }

    fn abandon(&mut self) -> bool {
        if let Some(reporter) = &self.reporter {
            reporter.close();
        }
        match &mut self.state {
            State::Planned | State::Ended => true,
            State::Ring(ring) => ring.stop(),
            State::Host(_) | State::Queued { .. } | State::Failing { .. } => false,
        }
    }

    fn report(&self) -> PathReport {
        let report = PathReport::new(
            PathKind::Local(self.plan.strategy.name()),
            self.plan.strategy.name(),
            self.plan.bytes,
            self.plan.copies,
        );
        let rejected = self.plan.rejected.iter().map(|(strategy, reason)| {
            Rejected::new(PathKind::Local(strategy.name()), reason.clone())
        });
        report.rejecting(rejected.collect::<Vec<_>>())
    }
}

//! The block executor: copies any set of blocks between memories of this process in one call.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::layout::{BlockPairs, Layout, pair_chunks};
use nixl_device::LeakInChild;
use nixl_ops::{
    Backoff, Clock, CopyOperation, Driver, DriverConfig, Execution, OperationError,
    OperationOptions, SystemClock,
};

use crate::local::gpu::gpu_backend::{GpuBackend, StreamHandle};
use crate::local::host::progress::{Progress, ProgressCallback, Reporter};
use crate::local::plan::copy_plan::Plan;
use crate::local::plan::costs::Costs;
use crate::local::run::block_plan::{BlockPlan, Inputs};
use crate::local::run::execution::{CopyWorkers, PlanExecution};
use crate::local::run::groups::Groups;
use crate::local::{BlockError, StrategyPolicy};

/// Options of one block transfer.
#[derive(Clone, Debug, Default)]
pub struct BlockOptions {
    layers: Option<Range<usize>>,
    timeout: Option<Duration>,
    policy: StrategyPolicy,
    after: Option<StreamHandle>,
    progress: Option<ProgressCallback>,
}

impl BlockOptions {
    /// All layers, no deadline, the fastest strategy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only these layers.
    #[must_use]
    pub fn layers(mut self, layers: Range<usize>) -> Self {
        self.layers = Some(layers);
        self
    }

    /// Ends the transfer with an error if it takes longer. The memory stays leased until the GPU is done with it.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The allowed strategies.
    #[must_use]
    pub fn policy(mut self, policy: StrategyPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Begins only after the work that this stream has queued so far. If the stream captures a CUDA graph, the transfer ends
    /// with the text of [`GpuError::StreamCapturing`](super::GpuError::StreamCapturing), and the capture goes on.
    #[must_use]
    pub fn after(mut self, stream: StreamHandle) -> Self {
        self.after = Some(stream);
        self
    }

    /// Reports progress to a callback: every few MiB for copies in parts (between host memories and through pinned slots), and
    /// once at the end for a single request to a GPU.
    ///
    /// Threads of the executor or the waiting thread call it, one call at a time, each with more bytes done. A call delays the
    /// transfer, so the callback must not block. All calls precede the transfer's end; after a cancellation or time-out none
    /// begins once the memory is back ([`settle`](CopyOperation::settle)), and usually none at all. A panicking callback is not
    /// called again; the transfer continues.
    #[must_use]
    pub fn progress(mut self, callback: Arc<dyn Fn(Progress) + Send + Sync>) -> Self {
        self.progress = Some(ProgressCallback(callback));
        self
    }
}

/// Copies KV-cache blocks between host, pinned and device memory of this process, on any number of GPUs.
///
/// Cheap to clone; all clones share threads, pools and streams.
#[derive(Clone)]
pub struct BlockExecutor {
    shared: LeakInChild<Arc<Shared>>,
}

struct Shared {
    gpus: Arc<dyn GpuBackend>,
    threads: CopyWorkers,
    driver: Arc<Driver>,
    costs: Costs,
}

impl BlockExecutor {
    /// Transfers in flight; more are refused with [`OperationError::QueueFull`].
    pub const MAX_IN_FLIGHT: usize = 4096;

    /// Makes an executor on these GPUs with these costs.
    ///
    /// # Errors
    ///
    /// [`BlockError::Thread`].
    pub fn new(gpus: Arc<dyn GpuBackend>, costs: Costs) -> Result<Self, BlockError> {
        let thread = |e: std::io::Error| BlockError::Thread { error: e.into() };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let threads = CopyWorkers::new(&clock).map_err(thread)?;
        // Submitting never blocks, for any size.
        let config =
            DriverConfig::default().max_in_flight(Self::MAX_IN_FLIGHT).inline_bytes(u64::MAX);
        // Some MiB over PCIe, 64 MiB over NVLink, end within this time: their waiter polls, in parts of 50 us with other tasks
        // in between. The waiter of a longer one polls again near the end.
        let config = config
            .inline_spin(Duration::from_micros(250))
            .backoff(Backoff::default().spin(Duration::from_micros(300)));
        let driver = Driver::spawn_local(clock, config).map_err(thread)?;
        let shared = Shared { gpus, threads, driver: Arc::new(driver), costs };
        Ok(Self { shared: LeakInChild::new(Arc::new(shared)) })
    }

    /// The plan of [`execute`](Self::execute), without a copy.
    ///
    /// # Errors
    ///
    /// [`BlockError`]: the two sides do not match, or no strategy is left for a pair of their memories.
    pub fn plan(
        &self,
        src: &Layout,
        src_blocks: &[usize],
        dst: &Layout,
        dst_blocks: &[usize],
        options: &BlockOptions,
    ) -> Result<BlockPlan, BlockError> {
        let pairs = pair_chunks(src, src_blocks, dst, dst_blocks, layers(src, options))?;
        self.plan_pairs(src, dst, &pairs, options)
    }

    /// Copies blocks `src_blocks` of `src` to blocks `dst_blocks` of `dst`, pairwise. Returns after the begin; until the end,
    /// the blocks of `dst` cannot be used otherwise, and those of `src` not changed.
    ///
    /// # Errors
    ///
    /// [`BlockError`]: the two sides do not match, another operation uses the blocks, no strategy is left, or a GPU refused.
    pub fn execute(
        &self,
        src: &Layout,
        src_blocks: &[usize],
        dst: &Layout,
        dst_blocks: &[usize],
        options: &BlockOptions,
    ) -> Result<CopyOperation, BlockError> {
        self.shared.driver.check_process().map_err(OperationError::from)?;
        let pairs = pair_chunks(src, src_blocks, dst, dst_blocks, layers(src, options))?;
        let plan = self.plan_pairs(src, dst, &pairs, options)?;
        let (leases, bytes) = (pairs.lease()?, plan.bytes());
        let Shared { gpus, threads, driver, .. } = &**self.shared;
        let reporter =
            options.progress.clone().map(|callback| Arc::new(Reporter::new(callback, bytes)));
        let one = |plan: Plan| {
            let (gpus, threads, reporter) = (Arc::clone(gpus), threads.clone(), reporter.clone());
            PlanExecution::new(plan, gpus, threads, driver.waker(), options.after, reporter)
        };
        let execution: Box<dyn Execution> = match plan.into_single() {
            Ok(plan) => Box::new(one(plan)),
            Err(plan) => Box::new(Groups::new(plan, one)),
        };
        let timeout = options
            .timeout
            .map_or_else(OperationOptions::new, |timeout| OperationOptions::new().timeout(timeout));
        Ok(CopyOperation::begin(driver, execution, bytes, leases.into(), timeout)?)
    }

    /// Transfers in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.driver.stats().active()
    }

    fn plan_pairs(
        &self,
        src: &Layout,
        dst: &Layout,
        pairs: &BlockPairs,
        options: &BlockOptions,
    ) -> Result<BlockPlan, BlockError> {
        BlockPlan::new(Inputs {
            src,
            dst,
            pairs,
            gpus: &*self.shared.gpus,
            costs: &self.shared.costs,
            policy: &options.policy,
        })
    }
}

fn layers(src: &Layout, options: &BlockOptions) -> Range<usize> {
    options.layers.clone().unwrap_or(0..src.geometry().layers())
}

impl fmt::Debug for BlockExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockExecutor")
            .field("gpus", &self.shared.gpus)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

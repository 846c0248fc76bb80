//! The path executor, as users configure it.

use std::fmt;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, Weak};

use nixl_descriptor::{Rendezvous, RendezvousError};
use nixl_device::LeakInChild;
use nixl_device::locks::lock;
use nixl_ops::{
    Clock, ConnectionContext, ConnectionExecutor, Executor, SystemClock, TransportError,
};

use super::common::{Common, Settings};
use super::maintenance::{Maintenance, Next};
use super::path_connection::PathConnection;
use super::peer_stats::PeerStats;
use crate::facts::LocalFacts;
use crate::local::{
    BlockError, CopyWorkers, Costs, CudaGpus, GpuBackend, GpuError, NoGpus, StreamHandle,
    StreamPoint, StreamQueue, on_a_thread, thread_error,
};
use crate::pinned_slots::{SlotPools, StagingConfig};
use crate::planner::PathCosts;
use crate::remote_memory::ImportLimits;
use crate::sessions::StagingStats;

/// Takes the fastest path that the two sides of an operation really have, at the speed of that path, and reports it.
///
/// In order of preference, as far as the hardware and the [policy](nixl_ops::PathPolicy) allow: a copy inside the process;
/// GPU memory, or host memory made by [`Region::shared`](nixl_descriptor::Region::shared), that a process of the same
/// machine shares; chunks through slots on a GPU, between GPU memories that no process can share; a NIC that reaches GPU memory;
/// the engine from host memory to host memory; chunks through pinned memory on the sides that have GPU memory; and at last the
/// engine's own way with GPU memory. A path that fails before the target is notified is followed by the next one.
///
/// Give it to [`ConnectorBuilder::executor`](nixl_connector::ConnectorBuilder::executor), or begin with
/// [`connector`](crate::connector), which does. One may serve any number of connectors of
/// its process; they share its GPUs and threads.
pub struct PathExecutor {
    pub(super) shared: LeakInChild<Arc<Common>>,
    pub(super) connections: Arc<Connections>,
}

/// Those that have not ended, and some that have.
pub(super) type Connections = Mutex<Vec<Weak<PathConnection>>>;

impl PathExecutor {
    /// For the GPUs of this process, if it has any. **Blocks** for some hundred milliseconds while their contexts are
    /// made: use [`open`](Self::open) or [`shared`](Self::shared) on async threads.
    ///
    /// # Errors
    ///
    /// [`BlockError`]: a GPU is there and fails, or the operating system refuses a thread. A machine without GPUs, or
    /// without CUDA, is no error.
    pub fn new() -> Result<Self, BlockError> {
        let facts = LocalFacts::discover();
        let gpus: Arc<dyn GpuBackend> = match &facts.cuda {
            Ok(()) => Arc::new(CudaGpus::new()?),
            Err(_) => Arc::new(NoGpus::default()),
        };
        Self::with(gpus, facts)
    }

    /// As [`new`](Self::new), on a thread of its own. Setters, which never block, follow as for `new`.
    ///
    /// Never blocks the caller's thread. Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub async fn open() -> Result<Self, BlockError> {
        on_a_thread(Self::new).await.map_err(thread_error)?
    }

    /// For these GPUs, of which `facts` speak: simulated ones in tests.
    ///
    /// # Errors
    ///
    /// [`BlockError::Thread`].
    pub fn with(gpus: Arc<dyn GpuBackend>, facts: Arc<LocalFacts>) -> Result<Self, BlockError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let threads =
            CopyWorkers::new(&clock).map_err(|e| BlockError::Thread { error: e.into() })?;
        let connections = Arc::<Connections>::default();
        let slots = SlotPools::new(StagingConfig::default());
        let shared = Common {
            gpus,
            facts,
            threads,
            settings: Settings::default(),
            maintenance: maintenance(&connections, &slots),
            slots,
        };
        Ok(Self { shared: LeakInChild::new(Arc::new(shared)), connections })
    }

    /// With slots like these for staging; by default those of [`StagingConfig`]. For connections that are made afterwards.
    #[must_use]
    pub fn staging(self, config: StagingConfig) -> Self {
        self.configured(|settings| settings.staging = config)
    }

    /// With these costs of copies within the process, by which it chooses among kernels, copy engines and the processor; by
    /// default those of an H200. `cargo xtask tune` measures a machine's and writes the file that [`Costs::from_json`]
    /// reads. For connections that are made afterwards.
    #[must_use]
    pub fn costs(self, costs: Costs) -> Self {
        self.configured(|settings| settings.costs = costs)
    }

    /// With these costs of paths between processes, by which it chooses among shared memory, CUDA IPC, the engine and
    /// staging; by default those of two H200s in one host. [`PathCosts::from_json`] reads them from a file. A cost that is too low
    /// makes operations take a slower path, until the measured times of the path outweigh it. For connections that are made
    /// afterwards.
    #[must_use]
    pub fn path_costs(self, costs: PathCosts) -> Self {
        self.configured(|settings| settings.path_costs = costs)
    }

    /// With these bounds on the peers' memory that each connection keeps open; by default those of [`ImportLimits`]. For
    /// connections that are made afterwards.
    #[must_use]
    pub fn imports(self, limits: ImportLimits) -> Self {
        self.configured(|settings| settings.imports = limits)
    }

    /// Meets peers of this host and user that run in other PID namespaces, as containers do, in `folder`: a volume that both mount,
    /// such as an `emptyDir` or a `hostPath`, at any place. Host memory that they share is then mapped here. The engine
    /// has to reach them all the same, by the network. Without a folder they are reached by the engine alone. The folder
    /// has to be there, and has a socket of this process as long as the executor lives. For peers that are met afterwards.
    ///
    /// *Blocking*, for some hundred microseconds.
    ///
    /// # Errors
    ///
    /// [`RendezvousError`]: nothing has been changed then. Peers that cannot be met there are no errors, but reasons in the
    /// reports of operations.
    pub fn rendezvous(self, folder: impl AsRef<Path>) -> Result<Self, RendezvousError> {
        let rendezvous = Rendezvous::open(folder)?;
        Ok(self.configured(|settings| settings.rendezvous = Some(rendezvous)))
    }

    fn configured(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        let shared = &self.shared;
        let mut settings = shared.settings.clone();
        change(&mut settings);
        let slots = SlotPools::new(settings.staging);
        *self.shared = Arc::new(Common {
            gpus: Arc::clone(&shared.gpus),
            facts: Arc::clone(&shared.facts),
            threads: shared.threads.clone(),
            settings,
            maintenance: maintenance(&self.connections, &slots),
            slots,
        });
        self
    }

    /// A point after all that a stream of the caller's on this GPU has queued until now. Memory that is offered or moved
    /// [after](nixl_descriptor::DescriptorList::after) it waits for that work.
    ///
    /// # Errors
    ///
    /// [`GpuError::StreamCapturing`] if the stream captures a CUDA graph, which goes on: make the point before the capture
    /// begins, or after the graph was launched. Else [`GpuError`] if there is no such GPU, or the stream is not of its
    /// primary context.
    pub fn stream_point(
        &self,
        gpu: u32,
        stream: StreamHandle,
    ) -> Result<Arc<StreamPoint>, GpuError> {
        StreamPoint::new(&*self.shared.gpus, gpu, stream)
    }

    /// A stream of the caller's on this GPU, in whose order grants begin, end and get ready. A capture, a stream of another
    /// context and a GPU that is not there are errors of what is queued on it.
    #[must_use]
    pub fn stream_queue(&self, gpu: u32, stream: StreamHandle) -> Arc<StreamQueue> {
        StreamQueue::new(&self.shared.gpus, gpu, stream)
    }

    /// What is kept for peers, on all connections together; nothing in the child of a fork.
    #[must_use]
    pub fn peer_stats(&self) -> PeerStats {
        if self.shared.is_inherited() {
            return PeerStats::default();
        }
        let connections = live(&self.connections);
        let each = connections.iter().map(|connection| connection.peer_stats());
        each.fold(PeerStats::default(), PeerStats::plus)
    }

    /// What staging holds, on all connections together; nothing in the child of a fork.
    #[must_use]
    pub fn staging_stats(&self) -> StagingStats {
        if self.shared.is_inherited() {
            return StagingStats::default();
        }
        let connections = live(&self.connections);
        let sessions = connections.iter().map(|connection| &*connection.services.sessions);
        StagingStats::of(&self.shared.slots, sessions)
    }
}

fn live(connections: &Connections) -> Vec<Arc<PathConnection>> {
    let connections = lock(connections);
    connections.iter().filter_map(Weak::upgrade).collect()
}

/// Seconds without a staged transfer after which the slots' memory goes back.
const IDLE_SECONDS: u32 = 30;

fn maintenance(connections: &Arc<Connections>, slots: &SlotPools) -> Maintenance {
    let (connections, slots) = (Arc::clone(connections), slots.clone());
    let idle = AtomicU32::new(0);
    Maintenance::new(move || {
        let live = live(&connections);
        live.iter().for_each(|connection| connection.maintain());
        // What is offered may be asked for until it is withdrawn, which counts as a use.
        let needed = live.iter().any(|connection| connection.services.staging.may_need_slots());
        if needed || !slots.are_idle() {
            idle.store(0, Relaxed);
        } else if idle.fetch_add(1, Relaxed) + 1 >= IDLE_SECONDS {
            idle.store(0, Relaxed);
            live.iter().for_each(|connection| connection.release_slots());
            slots.release();
        }
        let stalled = live.iter().any(|connection| connection.services.sessions.has_stalled());
        match stalled || (!needed && slots.are_allocated()) {
            true => Next::Soon,
            false => Next::WhenUsed,
        }
    })
}

impl Executor for PathExecutor {
    fn check_process(&self) -> Result<(), TransportError> {
        match self.shared.is_inherited() {
            true => Err(TransportError::Forked),
            false => Ok(()),
        }
    }

    fn connect(&self, link: ConnectionContext) -> Arc<dyn ConnectionExecutor> {
        let connection = PathConnection::new(Arc::clone(&self.shared), link);
        let mut connections = lock(&self.connections);
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Arc::downgrade(&connection));
        connection
    }
}

impl fmt::Debug for PathExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathExecutor")
            .field("gpus", &self.shared.gpus)
            .field("rendezvous", &self.shared.settings.rendezvous)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{GpuCapabilities, SimulatedGpus};

    #[test]
    fn settings_are_configured_in_any_order() {
        let gpus = Arc::new(SimulatedGpus::new(GpuCapabilities::default()).unwrap());
        let executor = || PathExecutor::with(gpus.clone(), Arc::default()).unwrap();
        let mut costs = Costs::default().to_json();
        costs = costs.replacen("\"gbps\": ", "\"gbps\": 1", 1);
        let costs = Costs::from_json(&costs).unwrap();
        assert_ne!(costs, Costs::default());
        let staging = StagingConfig::default().slots(3);
        let imports = ImportLimits::default().pieces(2);
        let path_costs = PathCosts::default().to_json().replacen("4.0", "400.0", 1);
        let path_costs = PathCosts::from_json(&path_costs).unwrap();
        assert_ne!(path_costs, PathCosts::default());
        let both = [
            executor()
                .costs(costs.clone())
                .staging(staging)
                .imports(imports)
                .path_costs(path_costs.clone()),
            executor()
                .path_costs(path_costs.clone())
                .imports(imports)
                .staging(staging)
                .costs(costs.clone()),
        ];
        for executor in both {
            let Settings {
                costs: chosen, path_costs: paths, staging: slots, imports: limits, ..
            } = &executor.shared.settings;
            assert_eq!((chosen, paths), (&costs, &path_costs));
            assert_eq!((*slots, *limits), (staging, imports));
        }
    }

    #[tokio::test]
    async fn it_opens_on_another_thread_with_settings() {
        let imports = ImportLimits::default().pinned_bytes(0);
        let executor = PathExecutor::open().await.unwrap().imports(imports);
        assert_eq!(executor.shared.settings.imports, imports);
    }
}

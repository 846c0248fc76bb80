//! The peers of one connection: one table, one state for each.

mod engine_estimate;
mod health;
mod load;
mod measured;
mod plan_cache;
mod table;

use std::fmt;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use nixl_device::ExitWatch;
use nixl_metadata::AgentMetadata;

pub use engine_estimate::EngineEstimate;
pub use health::{Health, HealthState, PathKey};
pub(crate) use load::{Load, Underway};
pub use measured::MeasuredPaths;
pub use plan_cache::PlanCache;
pub(crate) use table::Peers;

/// A peer of the connection.
pub(crate) struct Peer {
    name: Box<str>,
    state: Mutex<PeerState>,
    pub(crate) load: Load,
    /// Whether its process was looked up.
    looked: Once,
}

/// Its state.
#[derive(Debug, Default)]
pub(crate) struct PeerState {
    pub(crate) plans: PlanCache,
    pub(crate) health: Health,
    pub(crate) estimate: EngineEstimate,
    /// The metadata of the engine's last connect, for a session. A hint: an engine may drop a peer, which shows at its use.
    pub(crate) connected_with: Option<AgentMetadata>,
    /// Its process, if that is one of this PID namespace.
    process: Option<(u32, ExitWatch)>,
}

impl Peer {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            state: Mutex::default(),
            load: Load::default(),
            looked: Once::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A short lock: no system or engine call is made under it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches its process, from the first call on. The watch comes with the process's identifier.
    pub(crate) fn watch(&self, watch: impl FnOnce() -> Option<(u32, ExitWatch)>) {
        self.looked.call_once(|| self.lock().process = watch());
    }

    /// The identifier of its process, if that is one of this PID namespace and is watched.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.lock().process.as_ref().map(|(pid, _)| *pid)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("name", &self.name).finish_non_exhaustive()
    }
}

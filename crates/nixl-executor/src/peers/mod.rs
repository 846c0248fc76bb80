//! The peers of one connection: one table, one state for each.

mod engine_estimate;
mod health;
mod load;
mod measured;
mod plan_cache;
mod table;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use nixl_device::locks::lock;
use nixl_device::{ExitWatch, ProcessError};
use nixl_metadata::AgentMetadata;

pub(crate) use engine_estimate::EngineEstimate;
pub(crate) use health::HealthState;
pub use health::{PathHealth, PathKey};
pub(crate) use load::{Load, Underway};
pub(crate) use measured::MeasuredPaths;
pub use plan_cache::PlanCache;
pub(crate) use table::Peers;

/// A peer of the connection.
pub(crate) struct Peer {
    name: Box<str>,
    state: Mutex<PeerState>,
    pub(crate) load: Load,
    /// The number of failures in the health of its paths.
    failures: AtomicU64,
    /// Whether its process is watched, or cannot be.
    looked: AtomicBool,
    /// The turn of its last use, by the table.
    used: AtomicU64,
    forgotten: AtomicBool,
}

/// Its state.
#[derive(Debug, Default)]
pub(crate) struct PeerState {
    pub(crate) plans: PlanCache,
    pub(crate) health: PathHealth,
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
            failures: AtomicU64::new(0),
            looked: AtomicBool::new(false),
            used: AtomicU64::new(0),
            forgotten: AtomicBool::new(false),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The table has another entry for its name, or none.
    fn set_forgotten(&self) {
        self.forgotten.store(true, Ordering::Release);
    }

    fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }

    /// A short lock: no system or engine call is made under it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, PeerState> {
        lock(&self.state)
    }

    /// The number of failures that were noted.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    /// Notes that a path worked. Takes no lock if it was proven when so many [`failures`](Self::failures) were noted, and none was
    /// since.
    pub(crate) fn note_success(&self, path_key: PathKey, proven_at: Option<u64>) {
        if proven_at != Some(self.failures()) {
            self.lock().health.succeeded(path_key);
        }
    }

    /// Notes that a path failed.
    pub(crate) fn note_failure(&self, path_key: PathKey, reason: String, now: Duration) {
        let mut state = self.lock();
        state.health.failed(path_key, reason, now);
        self.failures.fetch_add(1, Ordering::Release);
    }

    /// Watches its process, from the first call on. The watch comes with the process's identifier; there is none if the process is
    /// not here. A shortage passes: the next call tries again.
    pub(crate) fn watch(
        &self,
        watch: impl FnOnce() -> Result<Option<(u32, ExitWatch)>, ProcessError>,
    ) {
        if self.looked.load(Ordering::Acquire) {
            return;
        }
        let watched = watch();
        if matches!(watched, Err(ProcessError::Refused { .. })) {
            return;
        }
        let before = std::mem::replace(&mut self.lock().process, watched.ok().flatten());
        self.looked.store(true, Ordering::Release);
        // Of another thread, which has watched it at the same time. Closed outside the lock.
        drop(before);
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

#[cfg(test)]
mod tests {
    use nixl_device::{Device, ProcessExits};
    use nixl_ops::PathKind;

    use super::*;
    use crate::planner::MemoryPair;

    #[test]
    fn a_success_counts_after_a_failure_of_another_operation() {
        let peer = Peer::new("peer");
        let memories = MemoryPair::new(Device::HOST, Device::HOST);
        let path_key = PathKey::new(PathKind::SharedMemory, memories);
        let state = || peer.lock().health.state(path_key, Duration::ZERO);
        peer.note_success(path_key, None);
        assert_eq!(state(), HealthState::Proven);
        let proven_at = Some(peer.failures());
        peer.note_failure(path_key, "why".to_owned(), Duration::ZERO);
        assert!(matches!(state(), HealthState::Failed { .. }));
        peer.note_success(path_key, proven_at);
        assert_eq!(state(), HealthState::Proven);
        // Nothing to record, so nothing waits for the lock.
        let _held = peer.lock();
        peer.note_success(path_key, Some(peer.failures()));
    }

    #[test]
    fn a_watch_that_failed_of_a_shortage_is_tried_again() {
        let (peer, pid) = (Peer::new("p"), std::process::id());
        let shortage =
            || Err(ProcessError::Refused { pid, error: std::io::Error::other("no files").into() });
        peer.watch(shortage);
        peer.watch(shortage);
        assert_eq!(peer.pid(), None);
        peer.watch(|| Ok(Some((pid, ProcessExits::global().watch(pid, None, || ())?))));
        assert_eq!(peer.pid(), Some(pid));
        peer.watch(|| panic!("it is watched"));
        let ended = Peer::new("q");
        ended.watch(|| Err(ProcessError::NotThere { pid }));
        ended.watch(|| panic!("it cannot be watched"));
    }
}

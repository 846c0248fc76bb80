//! Watches over the processes of peers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use nixl_device::ExitWatch;
use nixl_device::locks::lock;
use nixl_ops::PeerId;

use super::PeerTable;

/// A peer on this host that the system was too short of files to watch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unwatched {
    pid: u32,
    /// The last further attempt.
    tried: Option<Duration>,
}

impl PeerTable {
    /// The interval of attempts to watch a peer.
    const WATCHED_AGAIN: Duration = Duration::from_secs(1);

    /// Keeps the watch over a peer's process while the peer is in the table.
    pub(crate) fn watch(&self, peer: &PeerId, exit: ExitWatch) {
        let mut state = self.lock();
        let Some(entry) = state.known_mut(peer) else {
            drop(state);
            return drop(exit);
        };
        entry.unwatched = None;
        let before = entry.exit.replace(exit);
        drop(state);
        // Closed outside the lock.
        drop(before);
    }

    /// Records that a peer's process could not be watched for now.
    pub(crate) fn watch_later(&self, peer: &PeerId, pid: u32) {
        if let Some(entry) = self.lock().known_mut(peer) {
            let tried = entry.unwatched.and_then(|unwatched| unwatched.tried);
            entry.unwatched = Some(Unwatched { pid, tried });
            self.has_unwatched.store(true, Ordering::Release);
        }
    }

    /// A peer whose process is to be watched now, if an earlier attempt has failed.
    pub(crate) fn due_watch(&self, now: impl FnOnce() -> Duration) -> Option<(PeerId, u32)> {
        if !self.has_unwatched.load(Ordering::Acquire) {
            return None;
        }
        let now = now();
        let mut state = self.lock();
        let mut is_left = false;
        for (peer, entry) in &mut state.peers {
            let Some(entry) = &mut entry.known else { continue };
            let Some(unwatched) = &mut entry.unwatched else { continue };
            is_left = true;
            let due = unwatched.tried.map(|tried| tried.saturating_add(Self::WATCHED_AGAIN));
            if due.is_none_or(|due| due <= now) {
                unwatched.tried = Some(now);
                return Some((peer.clone(), unwatched.pid));
            }
        }
        self.has_unwatched.store(is_left, Ordering::Release);
        None
    }

    /// As [`remove`](Self::remove), of a peer with a dead connection: the watch over its process stays, for what is kept by the number
    /// of one of this PID namespace.
    pub(crate) fn remove_lost(&self, peer: &PeerId) -> bool {
        let mut state = self.lock();
        let Some(mut removed) = state.remove(peer) else { return false };
        let exit = removed.exit.take().filter(|exit| exit.process().pid() != 0);
        let before = exit.and_then(|exit| state.lost.insert(exit.process().pid(), exit));
        drop(state);
        // The watch is dropped outside the lock.
        drop((removed, before));
        true
    }

    /// A process has ended.
    pub(crate) fn unwatch_lost(&self, pid: u32) {
        let watch = self.lock().lost.remove(&pid);
        drop(watch);
    }

    /// Whether a peer that has introduced itself is watched.
    pub(crate) fn watches_introduced(&self, peer: &PeerId) -> bool {
        lock(&self.introduced).contains(peer)
    }

    /// Keeps the watch over a peer that has introduced itself; of those the latest are kept.
    pub(crate) fn watch_introduced(&self, peer: &PeerId, watch: ExitWatch) {
        let before = lock(&self.introduced).insert(peer.clone(), watch);
        // Closed outside the lock.
        drop(before);
    }

    /// A peer that has introduced itself has ended.
    pub(crate) fn unwatch_introduced(&self, peer: &PeerId) {
        let watch = lock(&self.introduced).remove(peer);
        drop(watch);
    }
}

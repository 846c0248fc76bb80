//! Closing of memory that peers have released, or whose process has ended.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::ImportCache;
use crate::remote_memory::opened::Owner;

impl ImportCache {
    /// *Blocking.* Closes memory that peers have released.
    pub(crate) fn sweep(&self) {
        self.sweeping.store(false, Ordering::Release);
        let mut opened = self.lock();
        opened.fresh = 0;
        let owners: Vec<_> =
            opened.by_name.values().map(|import| Arc::clone(&import.owner)).collect();
        drop(opened);
        let gone: Vec<_> = owners.iter().filter(|owner| !self.look(owner)).collect();
        let mut opened = self.lock();
        let closed: Vec<_> = gone.into_iter().filter_map(|owner| opened.remove_of(owner)).collect();
        drop(opened);
        drop(closed);
    }

    /// Sweeps in the background, unless nothing is open or a sweep is to come.
    pub(crate) fn sweep_soon(&self) {
        if self.lock().by_name.is_empty() || self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let me = Weak::clone(&self.me);
        self.background.run(Box::new(move || {
            me.upgrade().into_iter().for_each(|imports| imports.sweep());
        }));
    }

    /// *Blocking.* Closes what this peer named.
    pub(crate) fn close_of(&self, peer: &str) {
        self.close(|owner| *owner.peer == *peer);
    }

    /// *Blocking.* Closes the memory of processes that have ended.
    pub(super) fn close_of_ended(&self) {
        self.closing.store(false, Ordering::Release);
        self.close(|owner| owner.process.as_ref().is_some_and(|p| p.process().has_ended()));
    }

    fn close(&self, which: impl Fn(&Owner) -> bool) {
        let closed = self.lock().take(which);
        drop(closed);
    }

    /// Whether the peer has it, too, as far as this process may know. Of a GPU's memory that has one handle only the end of the process
    /// shows it.
    pub(super) fn look(&self, owner: &Owner) -> bool {
        self.looks.fetch_add(1, Ordering::Relaxed);
        match (owner.memory_key.name(), owner.memory_key.pieces()) {
            (Some(name), _) => name.is_there(),
            (None, Some(pieces)) => !owner.process_has_ended() && pieces.is_there(),
            (None, None) => !owner.process_has_ended(),
        }
    }
}

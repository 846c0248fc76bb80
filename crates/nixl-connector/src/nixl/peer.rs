//! One NIXL peer, for its transfers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nixl_ops::PeerId;

use crate::occupancy::Occupancy;

/// State of a peer that its transfers share.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) transfers: Arc<Occupancy>,
    broken: AtomicBool,
    forgotten: AtomicBool,
}

impl Peer {
    pub(super) fn new(id: PeerId) -> Arc<Self> {
        let (broken, forgotten) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { id, transfers: Arc::default(), broken, forgotten })
    }

    /// A transfer failed: the next needs a new connection.
    pub(super) fn set_broken(&self) {
        self.broken.store(true, Ordering::Release);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// NIXL has forgotten the peer of this entry. It may have been reloaded.
    pub(super) fn set_forgotten(&self) {
        self.forgotten.store(true, Ordering::Release);
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }
}

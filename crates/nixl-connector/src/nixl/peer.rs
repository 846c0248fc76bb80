//! One NIXL peer, as its transfers use it.

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

    /// A transfer failed: the connection must be made anew before the next.
    pub(super) fn set_broken(&self) {
        self.broken.store(true, Ordering::Release);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// NIXL does not know the peer any more under this entry. It may have been loaded anew.
    pub(super) fn set_forgotten(&self) {
        self.forgotten.store(true, Ordering::Release);
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }
}

//! One NIXL peer, for its transfers.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nixl_ops::{PeerId, TransportError};

use crate::occupancy::Occupancy;

/// State of a peer that its transfers share.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    /// The number of this connection, in the order of this process's.
    pub(super) connection: NonZeroU64,
    pub(super) transfers: Arc<Occupancy>,
    broken: AtomicBool,
    forgotten: AtomicBool,
}

impl Peer {
    pub(super) fn new(id: PeerId) -> Arc<Self> {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
        let connection =
            NonZeroU64::MIN.saturating_add(CONNECTIONS.fetch_add(1, Ordering::Relaxed));
        let (broken, forgotten) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { id, connection, transfers: Arc::default(), broken, forgotten })
    }

    /// NIXL has failed with the peer, without a reason. The peer, or the way to it, counts as broken, unless this side can open no files.
    pub(super) fn failed(&self, lack_of_files: Option<TransportError>) -> TransportError {
        lack_of_files.unwrap_or_else(|| {
            self.set_broken();
            TransportError::PeerGone { name: self.id.to_string() }
        })
    }

    /// A transfer failed: the connection must be made anew before the next.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_files_says_nothing_of_the_peer() {
        let peer = Peer::new(PeerId::new("p"));
        let lack = TransportError::OutOfFiles { open: 1, limit: 1 };
        assert_eq!(peer.failed(Some(lack.clone())), lack);
        assert!(!peer.is_broken());
        assert_eq!(peer.failed(None), TransportError::PeerGone { name: "p".to_owned() });
        assert!(peer.is_broken());
    }
}

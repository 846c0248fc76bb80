//! Bound on the job queue of the connection's blocking thread.

use std::collections::HashMap;
use std::sync::Arc;

use crate::sync::{Mutex, lock};

/// Bound on the bytes of queued messages, for each peer and for all.
#[derive(Debug, Default)]
pub(super) struct Budget {
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    by_peer: HashMap<Box<str>, u64>,
    total: u64,
}

impl Budget {
    /// For one peer. A single message may exceed it.
    const PEER: u64 = 1 << 20;
    /// For all peers, since a peer chooses its name.
    const TOTAL: u64 = 64 << 20;
    /// The overhead of a message.
    const OVERHEAD: u64 = 256;

    /// Room for a message of so many bytes, until the permit is dropped. `None` if the queue of the peer, or of all, is full.
    pub(super) fn take(self: &Arc<Self>, peer: &str, bytes: usize) -> Option<Permit> {
        let bytes = (bytes as u64).saturating_add(Self::OVERHEAD);
        let mut used = lock(&self.used);
        let of_peer = used.by_peer.get(peer).copied().unwrap_or(0);
        let peer_sum = of_peer.checked_add(bytes)?;
        let total = used.total.checked_add(bytes)?;
        if (of_peer > 0 && peer_sum > Self::PEER) || total > Self::TOTAL {
            return None;
        }
        used.by_peer.insert(peer.into(), peer_sum);
        used.total = total;
        drop(used);
        Some(Permit { budget: Arc::clone(self), peer: peer.into(), bytes })
    }
}

/// Room that a message takes.
#[derive(Debug)]
pub(super) struct Permit {
    budget: Arc<Budget>,
    peer: Box<str>,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut used = lock(&self.budget.used);
        used.total = used.total.saturating_sub(self.bytes);
        let left = used.by_peer.get(&self.peer).map_or(0, |left| left.saturating_sub(self.bytes));
        match left {
            0 => _ = used.by_peer.remove(&self.peer),
            left => _ = used.by_peer.insert(self.peer.clone(), left),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_peer_and_not_all_together_have_more_than_their_share(
            steps in vec((0..40u8, 0..3_000_000usize, any::<bool>()), 1..300),
        ) {
            let budget = Arc::<Budget>::default();
            let mut held: Vec<Permit> = Vec::new();
            for (peer, bytes, gives_back) in steps {
                if gives_back && !held.is_empty() {
                    held.swap_remove(bytes % held.len());
                }
                let peer = peer.to_string();
                let mine: Vec<u64> =
                    held.iter().filter(|p| *p.peer == *peer).map(|p| p.bytes).collect();
                let permit = budget.take(&peer, bytes);
                let all: u64 = held.iter().map(|p| p.bytes).sum();
                let wanted = bytes as u64 + Budget::OVERHEAD;
                let fits = mine.is_empty() || mine.iter().sum::<u64>() + wanted <= Budget::PEER;
                prop_assert_eq!(permit.is_some(), fits && all + wanted <= Budget::TOTAL);
                held.extend(permit);
            }
            drop(held);
            let used = lock(&budget.used);
            prop_assert!(used.total == 0 && used.by_peer.is_empty());
        }
    }
}

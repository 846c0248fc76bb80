//! One simulated agent's loaded metadata of another.

use std::sync::Arc;

use nixl_descriptor::Span;

use super::blob::{Blob, Entry};
use crate::occupancy::Occupancy;

pub(super) struct Peer {
    /// In ascending order.
    entries: Vec<Entry>,
    /// Transfers that use the entries.
    pub(super) transfers: Arc<Occupancy>,
    /// Another one once the entries are replaced.
    pub(super) loaded: Arc<()>,
}

/// What loading metadata on top of earlier metadata came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Update {
    /// All that was known still counts.
    Merged,
    /// What was known is void.
    Replaced,
    /// It would be void, but transfers in flight use it.
    Busy,
}

impl Peer {
    pub(super) fn new(blob: Blob) -> Self {
        Self { entries: blob.entries, transfers: Arc::default(), loaded: Arc::default() }
    }

    /// Memory that is new is added. If some of it lies where the peer withdrew memory, everything is loaded
    /// anew instead: the withdrawn entry would hide the new one.
    pub(super) fn update(&mut self, blob: Blob) -> Update {
        let mut new: Vec<Entry> = blob
            .entries
            .iter()
            .filter(|e| self.entries.binary_search(e).is_err())
            .copied()
            .collect();
        let hidden = self
            .entries
            .iter()
            .filter(|known| blob.entries.binary_search(known).is_err())
            .any(|withdrawn| new.iter().any(|entry| entry.overlaps(withdrawn)));
        if !hidden && self.entries.len() + new.len() <= Blob::MAX_ENTRIES {
            self.entries.append(&mut new);
            self.entries.sort_unstable();
            return Update::Merged;
        }
        if self.transfers.is_busy() {
            return Update::Busy;
        }
        self.entries = blob.entries;
        self.loaded = Arc::default();
        Update::Replaced
    }

    /// The latest registration known to cover `range`.
    pub(super) fn covering(&self, range: &Span) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.covers(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nixl_device::Device;

    fn blob(entries: &[(u64, u64, u64)]) -> Blob {
        let mut entries: Vec<_> = entries
            .iter()
            .map(|&(number, address, len)| Entry { number, address, len, device: Device::HOST })
            .collect();
        entries.sort_unstable();
        Blob { agent: "peer-1".into(), incarnation: 1, entries }
    }

    fn covers(peer: &Peer, address: u64, len: u64) -> Option<u64> {
        peer.covering(&Span { address, len, device: Device::HOST }).map(|entry| entry.number)
    }

    #[test]
    fn more_memory_is_merged_and_less_changes_nothing() {
        let mut peer = Peer::new(blob(&[(1, 100, 10)]));
        peer.transfers.enter();
        assert_eq!(peer.update(blob(&[(1, 100, 10), (2, 110, 10)])), Update::Merged);
        assert_eq!(peer.update(blob(&[(2, 110, 10)])), Update::Merged);
        assert_eq!((covers(&peer, 100, 10), covers(&peer, 115, 5)), (Some(1), Some(2)));
        assert_eq!(covers(&peer, 105, 10), None, "no one registration covers it");
    }

    #[test]
    fn memory_registered_anew_replaces_all_unless_it_is_in_use() {
        let mut peer = Peer::new(blob(&[(1, 100, 10), (2, 200, 10)]));
        peer.transfers.enter();
        let anew = [(2, 200, 10), (3, 105, 20)];
        assert_eq!(peer.update(blob(&anew)), Update::Busy);
        assert_eq!(covers(&peer, 100, 10), Some(1), "busy changes nothing");
        peer.transfers.leave();
        assert_eq!(peer.update(blob(&anew)), Update::Replaced);
        assert_eq!((covers(&peer, 100, 10), covers(&peer, 105, 20)), (None, Some(3)));
    }
}

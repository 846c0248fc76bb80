//! One simulated agent's loaded metadata of another.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// The number of the connection, another once the entries are replaced.
    pub(super) connection: NonZeroU64,
    /// When the newest offer with an entry was made, by the entry's number.
    made: HashMap<u64, NonZeroU64>,
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
    /// It would be void, and is newer.
    Outdated,
}

impl Peer {
    pub(super) fn new(blob: Blob, made: Option<NonZeroU64>) -> Self {
        let (transfers, loaded) = (Arc::default(), Arc::default());
        let (entries, made_by, connection) = (Vec::new(), HashMap::new(), next_connection());
        let mut peer = Self { entries, transfers, loaded, connection, made: made_by };
        peer.note(&blob.entries, made);
        peer.entries = blob.entries;
        peer
    }

    fn note(&mut self, entries: &[Entry], made: Option<NonZeroU64>) {
        for (entry, made) in entries.iter().zip(made.into_iter().cycle()) {
            let newest = self.made.entry(entry.number).or_insert(made);
            *newest = made.max(*newest);
        }
    }

    /// Whether an entry is of an offer that was made after this.
    fn is_newer(&self, entry: &Entry, made: Option<NonZeroU64>) -> bool {
        let newest = self.made.get(&entry.number);
        newest.zip(made.as_ref()).is_some_and(|(newest, made)| newest > made)
    }

    /// Metadata of an offer made at this time. Memory that is new is added. If some of it lies where the peer withdrew memory,
    /// everything is loaded anew instead: the withdrawn entry would hide the new one.
    pub(super) fn update(&mut self, blob: Blob, made: Option<NonZeroU64>) -> Update {
        let mut new: Vec<Entry> = blob
            .entries
            .iter()
            .filter(|e| self.entries.binary_search(e).is_err())
            .copied()
            .collect();
        let hiding: Vec<_> = self
            .entries
            .iter()
            .filter(|known| blob.entries.binary_search(known).is_err())
            .filter(|withdrawn| new.iter().any(|entry| entry.overlaps(withdrawn)))
            .collect();
        if hiding.iter().any(|entry| self.is_newer(entry, made)) {
            return Update::Outdated;
        }
        if hiding.is_empty() && self.entries.len() + new.len() <= Blob::MAX_ENTRIES {
            self.entries.append(&mut new);
            self.entries.sort_unstable();
            self.note(&blob.entries, made);
            return Update::Merged;
        }
        if self.transfers.is_busy() {
            return Update::Busy;
        }
        self.made.clear();
        self.note(&blob.entries, made);
        self.entries = blob.entries;
        self.loaded = Arc::default();
        self.connection = next_connection();
        Update::Replaced
    }

    /// The latest registration known to cover `range`.
    pub(super) fn covering(&self, range: &Span) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.covers(range))
    }
}

fn next_connection() -> NonZeroU64 {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
    NonZeroU64::MIN.saturating_add(CONNECTIONS.fetch_add(1, Ordering::Relaxed))
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
        let mut peer = Peer::new(blob(&[(1, 100, 10)]), None);
        peer.transfers.enter();
        assert_eq!(peer.update(blob(&[(1, 100, 10), (2, 110, 10)]), None), Update::Merged);
        assert_eq!(peer.update(blob(&[(2, 110, 10)]), None), Update::Merged);
        assert_eq!((covers(&peer, 100, 10), covers(&peer, 115, 5)), (Some(1), Some(2)));
        assert_eq!(covers(&peer, 105, 10), None, "no one registration covers it");
    }

    #[test]
    fn memory_registered_anew_replaces_all_unless_it_is_in_use() {
        let mut peer = Peer::new(blob(&[(1, 100, 10), (2, 200, 10)]), None);
        peer.transfers.enter();
        let anew = [(2, 200, 10), (3, 105, 20)];
        assert_eq!(peer.update(blob(&anew), None), Update::Busy);
        assert_eq!(covers(&peer, 100, 10), Some(1), "busy changes nothing");
        peer.transfers.leave();
        assert_eq!(peer.update(blob(&anew), None), Update::Replaced);
        assert_eq!((covers(&peer, 100, 10), covers(&peer, 105, 20)), (None, Some(3)));
    }

    #[test]
    fn older_metadata_replaces_nothing_newer() {
        let [older, newer, newest] = [6, 7, 8].map(NonZeroU64::new);
        let mut peer = Peer::new(blob(&[(2, 100, 10)]), newer);
        assert_eq!(peer.update(blob(&[(1, 105, 20)]), older), Update::Outdated);
        assert_eq!(covers(&peer, 100, 10), Some(2));
        assert_eq!(peer.update(blob(&[(1, 200, 10)]), older), Update::Merged);
        assert_eq!(peer.update(blob(&[(5, 300, 10)]), newest), Update::Merged);
        // Newer than what was there, though not than all.
        assert_eq!(peer.update(blob(&[(3, 205, 10)]), newer), Update::Replaced);
        assert_eq!(peer.update(blob(&[(4, 200, 20)]), None), Update::Replaced);
    }
}

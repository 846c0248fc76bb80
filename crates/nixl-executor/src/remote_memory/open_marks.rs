//! Marks of the peers' memory that is open here, read without a lock.

use std::array;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use super::RemoteMemoryKey;

/// A hash of each piece of open memory, at one of a few places; a later piece takes a place over. Marked memory is open, or was
/// until just now; open memory may have lost its mark.
pub(super) struct OpenMarks {
    hashes: [AtomicU64; Self::PLACES],
    hasher: RandomState,
}

impl OpenMarks {
    const PLACES: usize = 256;

    pub(super) fn has(&self, memory_key: &RemoteMemoryKey) -> bool {
        let (place, hash) = self.place(memory_key);
        place.load(Ordering::Relaxed) == hash
    }

    /// Called under the lock of the open memory, as [`clear`](Self::clear).
    pub(super) fn set(&self, memory_key: &RemoteMemoryKey) {
        let (place, hash) = self.place(memory_key);
        place.store(hash, Ordering::Relaxed);
    }

    pub(super) fn clear(&self, memory_key: &RemoteMemoryKey) {
        let (place, hash) = self.place(memory_key);
        if place.load(Ordering::Relaxed) == hash {
            place.store(0, Ordering::Relaxed);
        }
    }

    /// The hash is not 0, which is that of no memory.
    fn place(&self, memory_key: &RemoteMemoryKey) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(memory_key) | 1;
        // The low bit is the same for all.
        (&self.hashes[(hash >> 1) as usize % Self::PLACES], hash)
    }
}

impl Default for OpenMarks {
    fn default() -> Self {
        Self { hashes: array::from_fn(|_| AtomicU64::new(0)), hasher: RandomState::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(gpu: u32) -> RemoteMemoryKey {
        RemoteMemoryKey::Gpu(gpu, [7; 72])
    }

    #[test]
    fn what_is_marked_was_set_and_not_cleared() {
        let marks = OpenMarks::default();
        let all = || 0..4 * OpenMarks::PLACES as u32;
        assert!(all().all(|gpu| !marks.has(&memory(gpu))));
        for gpu in all() {
            marks.set(&memory(gpu));
            assert!(marks.has(&memory(gpu)));
        }
        let marked: Vec<_> = all().filter(|gpu| marks.has(&memory(*gpu))).collect();
        assert!(!marked.is_empty() && marked.len() <= OpenMarks::PLACES);
        // What has lost its place takes none away.
        all().filter(|gpu| !marked.contains(gpu)).for_each(|gpu| marks.clear(&memory(gpu)));
        assert!(marked.iter().all(|gpu| marks.has(&memory(*gpu))));
        all().for_each(|gpu| marks.clear(&memory(gpu)));
        assert!(all().all(|gpu| !marks.has(&memory(gpu))));
    }
}

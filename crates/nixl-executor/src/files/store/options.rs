//! Options of a store.

use std::fmt;

use nixl_descriptor::layout::{Dimensions, LayoutGeometry};
use xxhash_rust::xxh3::xxh3_128;

use super::eviction::{Eviction, LeastRecentlyUsed};

/// When a block that was put is on the disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Commit {
    /// When the kernel writes it. It survives the end of the process. After a loss of power, a block may be absent, or be that
    /// of an earlier put of its key.
    #[default]
    None,
    /// Before the put has completed (`fdatasync`).
    Each,
}

/// What a store holds, and how much of it.
pub struct StoreOptions {
    pub(super) geometry: LayoutGeometry,
    pub(super) capacity: u32,
    pub(super) namespace: Vec<u8>,
    pub(super) commit: Commit,
    pub(super) eviction: Box<dyn Eviction>,
}

impl StoreOptions {
    /// At most `capacity` blocks of this shape; the number of blocks of the geometry has no meaning here.
    #[must_use]
    pub fn new(geometry: LayoutGeometry, capacity: u32) -> Self {
        Self {
            geometry,
            capacity,
            namespace: Vec::new(),
            commit: Commit::None,
            eviction: Box::new(LeastRecentlyUsed::default()),
        }
    }

    /// What else must be the same for a block to be usable: the model, its revision, the element type, the shard, the tenant. A
    /// store of another namespace does not open.
    #[must_use]
    pub fn namespace(self, namespace: &[u8]) -> Self {
        Self { namespace: namespace.to_vec(), ..self }
    }

    /// When blocks are on the disk.
    #[must_use]
    pub fn commit(self, commit: Commit) -> Self {
        Self { commit, ..self }
    }

    /// Which blocks give way to others.
    #[must_use]
    pub fn eviction(self, eviction: impl Eviction + 'static) -> Self {
        Self { eviction: Box::new(eviction), ..self }
    }

    /// A digest of the shape and the namespace.
    pub(super) fn fingerprint(&self) -> u128 {
        let dimensions = Dimensions { blocks: 1, ..self.geometry.dimensions() };
        // Plain numbers have a text.
        let mut text = serde_json::to_vec(&dimensions).unwrap_or_default();
        text.push(0);
        text.extend(&self.namespace);
        xxh3_128(&text)
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("geometry", &self.geometry)
            .field("capacity", &self.capacity)
            .field("commit", &self.commit)
            .field("eviction", &self.eviction)
            .finish_non_exhaustive()
    }
}

//! Regions: memory that a program owns and engines may access.

mod allocation;
mod copy;
#[cfg(feature = "cuda")]
mod cuda;
mod reclaim;
mod source;

use std::any::Any;
use std::fmt;
use std::ops::RangeBounds;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use nixl_device::Device;

pub use self::copy::{copy, copy_range, copy_range_to_slice, copy_range_unchecked, copy_spans};
pub(crate) use self::copy::{gather, scatter};
pub use self::reclaim::{Reclaim, ReclaimError};
pub use self::source::RegionError;

use crate::access::Access;
use crate::cache::EngineCaches;
use crate::descriptor::{Descriptor, DescriptorError};
use crate::extent::Extent;
use crate::gpu_allocation::GpuAllocation;
use crate::memory::Memory;
use crate::range_locks::RangeLocks;
use crate::rendezvous::SharedPieces;

/// Names a region; unique in this process and never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RegionId(u64);

impl RegionId {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {}", self.0)
    }
}

/// A handle to one contiguous piece of memory, owned by the region; at least one byte. Cheap to clone.
///
/// Made by `Region::try_from` a `Vec<u8>`, `Box<[u8]>`, `bytes::BytesMut`, `memmap2::MmapMut` (read and write),
/// `bytes::Bytes` or `memmap2::Mmap` (read only), by [`from_pod`](Self::from_pod), [`zeroed`](Self::zeroed),
/// [`shared`](Self::shared) with other processes, or [`from_raw_parts`](Self::from_raw_parts) for everything else.
///
/// Engines may read or write the memory at any time while it is registered, so no reference to its bytes is ever given
/// out: use [`copy_to_slice`](Self::copy_to_slice) and [`copy_from_slice`](Self::copy_from_slice), or take the memory
/// back with [`try_into_inner`](Self::try_into_inner) and its kin.
///
/// Regions of the [`BufferPool`](crate::BufferPool), such as those of [`shared`](Self::shared), are parts of its slabs: each
/// has leases and a life of its own, but engines and peers know the slab.
///
/// Dropping the last handle (descriptors, leases and operations hold handles too) hands the registrations to their
/// [`Registrar`](crate::Registrar) for deregistration and never blocks on an engine; the memory is freed when the last
/// of them is confirmed gone.
#[derive(Clone)]
pub struct Region(Arc<Inner>);

/// Field order: registrations go before the memory.
struct Inner {
    id: RegionId,
    engine_caches: EngineCaches,
    /// Shared with registrations only, which must not keep the region itself alive: it holds them.
    memory: Arc<Memory>,
    /// The driver's attributes of memory of a GPU, once queried, and what gives it to other processes if they are asked for pieces.
    allocation: OnceLock<Box<(GpuAllocation, Option<Arc<SharedPieces>>)>>,
    /// What engines know instead of this region, if it is a part of that.
    whole: Option<Region>,
}

impl Region {
    pub(crate) fn from_memory(memory: Memory) -> Self {
        Self::new(memory, None)
    }

    /// A region of a [part](Memory::part) of `whole`.
    pub(crate) fn part_of(whole: &Self, memory: Memory) -> Self {
        Self::new(memory, Some(whole.clone()))
    }

    fn new(memory: Memory, whole: Option<Self>) -> Self {
        Self(Arc::new(Inner {
            id: RegionId::next(),
            engine_caches: EngineCaches::default(),
            memory: Arc::new(memory),
            allocation: OnceLock::new(),
            whole,
        }))
    }

    /// This region's name in this process.
    #[must_use]
    pub fn id(&self) -> RegionId {
        self.0.id
    }

    /// Number of bytes, at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.0.memory.len()
    }

    /// Address of the first byte in its device's address space. `address() + len()` does not wrap.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.0.memory.address()
    }

    /// Where the memory is.
    #[must_use]
    pub fn device(&self) -> Device {
        self.0.memory.device()
    }

    /// What peers, transfers and copies may do with the memory.
    #[must_use]
    pub fn access(&self) -> Access {
        self.0.memory.access()
    }

    /// A descriptor of `range`, counted in bytes from the start of the region. Panics: never.
    ///
    /// # Errors
    /// [`DescriptorError::OutOfBounds`] if the range is not inside the region, [`DescriptorError::ZeroLength`] if it
    /// has no bytes.
    pub fn descriptor(
        &self,
        range: impl RangeBounds<usize>,
    ) -> Result<Descriptor, DescriptorError> {
        Descriptor::new(self, self.extent(), range)
    }

    /// A descriptor of the whole region.
    #[must_use]
    pub fn whole(&self) -> Descriptor {
        self.clone().into()
    }

    pub(crate) fn extent(&self) -> Extent {
        Extent { start: 0, end: self.len() }
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.access() == Access::ReadWrite
    }

    /// Whether the region was made of a `T`, even if others access its bytes now.
    #[must_use]
    pub fn is_made_of<T: Any>(&self) -> bool {
        self.memory().is_owned_by::<T>()
    }

    /// Whether it is a buffer of a [`BufferPool`](crate::BufferPool), whose addresses stay mapped when the last handle is gone.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.0.whole.is_some()
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.0.memory
    }

    pub(crate) fn range_locks(&self) -> &RangeLocks {
        self.0.memory.range_locks()
    }

    /// The region that engines and peers know: this one, or the one it is a part of.
    pub(crate) fn whole_region(&self) -> &Self {
        self.0.whole.as_ref().unwrap_or(self)
    }

    pub(crate) fn engine_caches(&self) -> &EngineCaches {
        &self.0.engine_caches
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.memory.is_inherited() {
            self.engine_caches.retire_all(self.id);
        }
    }
}

/// Shows where the memory is, never what is in it.
impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Region");
        shown
            .field("id", &self.id().0)
            .field("len", &self.len())
            .field("device", &self.device())
            .field("access", &self.access());
        if let Some(allocation) = self.allocation() {
            shown.field("allocation", allocation);
        }
        shown.finish()
    }
}

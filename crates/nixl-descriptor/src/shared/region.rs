//! Regions of shared memory.

use super::{SharedMemory, SharedName};
use crate::pool::BufferPool;
use crate::region::{Region, RegionError};

/// Comes back from [`Region::try_into_inner`].
impl TryFrom<SharedMemory> for Region {
    type Error = RegionError;

    fn try_from(owner: SharedMemory) -> Result<Self, RegionError> {
        owner.into_memory().map(Self::from_memory)
    }
}

impl Region {
    /// A region of `len` zero bytes that other processes of this machine can map, page-aligned: host memory that peers
    /// reach without a copy in between. Panics: never.
    ///
    /// It is a buffer of the [`BufferPool`], made zero if it was in use before, and goes back there when the last handle is
    /// gone. Peers that map it, and engines without finer rights, reach the whole slab that it is in. A region of
    /// [`SharedMemory`] has a file of its own, with nothing else in it.
    ///
    /// # Errors
    ///
    /// As [`BufferPool::buffer`].
    pub fn shared(len: usize) -> Result<Self, RegionError> {
        BufferPool::global().block(len)?.into_zeroed(len)
    }

    /// As [`shared`](Self::shared), and pinned as long as it lives, so that the GPUs of this process copy to and from it at
    /// the full speed of the link. Pinning touches every page: it takes about 100 us for each MiB.
    ///
    /// # Errors
    ///
    /// As [`BufferPool::buffer`]; [`RegionError::OutOfMemory`] with the driver's error if it cannot be pinned.
    #[cfg(feature = "cuda")]
    pub fn shared_pinned(
        context: &nixl_device::cuda::Context,
        len: usize,
    ) -> Result<Self, RegionError> {
        BufferPool::global().block(len)?.into_pinned(context, len)
    }

    /// What other processes of this machine open the memory by, if it was [made](Self::shared) so that they can. It begins
    /// [`shared_offset`](Self::shared_offset) bytes into what they open, which has other regions too.
    #[must_use]
    pub fn shared_name(&self) -> Option<SharedName> {
        self.whole_region().memory().owner::<SharedMemory>().map(SharedMemory::name)
    }

    /// Where the region begins in the memory that [`shared_name`](Self::shared_name) names.
    #[must_use]
    pub fn shared_offset(&self) -> u64 {
        self.address() - self.whole_region().address()
    }
}

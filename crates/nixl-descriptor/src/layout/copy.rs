//! Copies of blocks by the host, into and out of a layout.

use super::local::Layout;
use super::placement::SelectionError;
use crate::access::AccessError;
use crate::region::{gather, scatter};

/// Why the host cannot copy a block.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockAccessError {
    /// There is no such block.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// The memory is in use, on a device, or read-only.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl Layout {
    /// A copy of a block in host memory: its chunks by layer, then by outer, as a
    /// [fully contiguous](super::LayoutKind::FullyContiguous) layout has them.
    ///
    /// Leases hold as for [`Region::to_vec`](crate::Region::to_vec), for the bytes of the block alone. Waits for another thread's
    /// copy into the same bytes. Panics: never.
    ///
    /// # Errors
    /// [`BlockAccessError`]: there is no such block, the memory is not the host's, an operation in flight writes some of the
    /// bytes, or no memory is left for the copy.
    pub fn block_to_vec(&self, block: usize) -> Result<Vec<u8>, BlockAccessError> {
        let chunks = self.chunk_descriptors(&[block], 0..self.geometry().layers())?;
        let len = self.geometry().block_len();
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| AccessError::OutOfMemory { len })?;
        bytes.resize(len, 0);
        gather(&chunks, &mut bytes)?;
        Ok(bytes)
    }

    /// Replaces a block in host memory by `source`, in the order of [`block_to_vec`](Self::block_to_vec). All of the block, or
    /// nothing.
    ///
    /// Leases hold as for [`Region::copy_from_slice`](crate::Region::copy_from_slice), for the bytes of the block alone. Waits for
    /// another thread's copy of the same bytes. Panics: never.
    ///
    /// # Errors
    /// [`BlockAccessError`]: there is no such block, `source` is not as long as a block, the memory is not the host's or
    /// read-only, a grant or an operation in flight uses some of the bytes.
    pub fn copy_block_from_slice(
        &self,
        block: usize,
        source: &[u8],
    ) -> Result<(), BlockAccessError> {
        let chunks = self.chunk_descriptors(&[block], 0..self.geometry().layers())?;
        Ok(scatter(source, &chunks)?)
    }
}

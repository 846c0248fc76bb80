//! Layouts of blocks in files, and their pairs with blocks in memory.

use std::ops::Range;
use std::sync::Arc;

use nixl_device::Device;

use super::region::FileRegion;
use crate::descriptor::Descriptor;
use crate::layout::{
    ChunkPairError, Layout, LayoutDescription, LayoutError, LayoutGeometry, LayoutKind,
    PartDescription, RemoteLayout, pair_remote_chunks,
};

/// Why blocks cannot lie in a file so.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FileLayoutError {
    /// The blocks do not fit into the numbers of a layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The first block does not begin where direct I/O may.
    #[error("blocks begin at byte {start}: it must be a multiple of {alignment}")]
    Misaligned {
        /// What was given.
        start: u64,
        /// What is demanded.
        alignment: u64,
    },
}

/// Where blocks lie in a file: one after the other, each contiguous, in the order `[layer][outer]` of its chunks, at distances that
/// direct I/O can use. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FileLayout(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: FileRegion,
    /// Offsets in the file, where a peer's layout has addresses.
    blocks: RemoteLayout,
    start: u64,
    stride: u64,
}

impl FileLayout {
    /// The least alignment of blocks: the block of most file systems, and the page.
    pub const ALIGNMENT: u64 = 4096;

    /// The distance of blocks of this shape in a file without greater demands: their length, rounded up. `None` if it does not fit
    /// into 64 bits.
    #[must_use]
    pub fn stride_of(geometry: &LayoutGeometry) -> Option<u64> {
        (geometry.block_len() as u64).checked_next_multiple_of(Self::ALIGNMENT)
    }

    /// Blocks of this shape from byte `start` of the file on. Whether the file is long enough is checked when blocks are used.
    /// Panics: never.
    ///
    /// # Errors
    /// [`FileLayoutError`].
    pub fn new(
        geometry: LayoutGeometry,
        file: FileRegion,
        start: u64,
    ) -> Result<Self, FileLayoutError> {
        let overflow = || LayoutError::Overflow { part: 0 };
        let alignment = file.alignment().offset().max(Self::ALIGNMENT);
        if !start.is_multiple_of(alignment) {
            return Err(FileLayoutError::Misaligned { start, alignment });
        }
        let stride = (geometry.block_len() as u64).checked_next_multiple_of(alignment);
        let stride = stride.ok_or_else(overflow)?;
        let len = stride.checked_mul(geometry.blocks() as u64).ok_or_else(overflow)?;
        let blocks = RemoteLayout::try_from(&LayoutDescription {
            geometry,
            kind: LayoutKind::FullyContiguous,
            block_stride: usize::try_from(stride).map_err(|_| overflow())?,
            device: Device::HOST,
            parts: vec![PartDescription { address: start, len }],
        })?;
        Ok(Self(Arc::new(Inner { file, blocks, start, stride })))
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &FileRegion {
        &self.0.file
    }

    /// The shape of the blocks and their number.
    #[must_use]
    pub fn geometry(&self) -> &LayoutGeometry {
        self.0.blocks.geometry()
    }

    /// Bytes from the start of a block to the start of the next one.
    #[must_use]
    pub fn stride(&self) -> u64 {
        self.0.stride
    }

    /// The bytes of the file that all blocks have, with their padding.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        let len = self.0.stride * self.geometry().blocks() as u64; // Checked by the constructor.
        self.0.start..self.0.start + len
    }
}

/// Bytes that lie together in a file, and the descriptors of the memory that they pair with, in this order.
#[derive(Clone, Debug)]
pub struct FileRun {
    offset: u64,
    len: u64,
    memory: Range<usize>,
}

impl FileRun {
    /// The first byte in the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Number of bytes, at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a run is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }
}

/// Blocks of a file paired with blocks in memory: runs in the order of the file. Keeps the memory alive.
#[derive(Clone, Debug)]
pub struct FilePairs {
    runs: Vec<FileRun>,
    memory: Vec<Descriptor>,
}

impl FilePairs {
    /// The runs, at least one, by ascending offset.
    #[must_use]
    pub fn runs(&self) -> &[FileRun] {
        &self.runs
    }

    /// The memory of a run, in the order of the file.
    #[must_use]
    pub fn memory(&self, run: &FileRun) -> &[Descriptor] {
        self.memory.get(run.memory.clone()).unwrap_or_default()
    }

    /// The bytes of the file, run by run.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range<u64>> {
        self.runs.iter().map(|run| run.offset..run.offset + run.len).collect()
    }

    /// Number of bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.len).sum()
    }
}

/// Pairs `file_blocks[i]` of a file with `blocks[i]` of a layout in memory, in the given layers. What is contiguous in the file is
/// one run, of any parts of memory. Panics: never.
///
/// # Errors
/// [`ChunkPairError`]: `Source` is the file's side and `Destination` the memory's; a block of the memory twice is a
/// [`Duplicate`](ChunkPairError::Duplicate).
pub fn pair_file_blocks(
    file: &FileLayout,
    file_blocks: &[usize],
    memory: &Layout,
    blocks: &[usize],
    layers: Range<usize>,
) -> Result<FilePairs, ChunkPairError> {
    let pairs = pair_remote_chunks(&file.0.blocks, file_blocks, memory, blocks, layers)?;
    let offsets = pairs.remote().iter().map(|span| span.address).collect::<Vec<_>>();
    let mut paired: Vec<_> = offsets.into_iter().zip(pairs.into_local()).collect();
    // Pieces come layer by layer, and a block lies together in the file. Stable: a block that is read twice stays in order.
    paired.sort_by_key(|(offset, _)| *offset);
    let mut runs: Vec<FileRun> = Vec::new();
    let mut memory = Vec::with_capacity(paired.len());
    for (offset, descriptor) in paired {
        let (len, at) = (descriptor.len() as u64, memory.len());
        memory.push(descriptor);
        match runs.last_mut() {
            Some(run) if run.offset + run.len == offset => {
                run.len += len;
                run.memory.end = at + 1;
            }
            _ => runs.push(FileRun { offset, len, memory: at..at + 1 }),
        }
    }
    Ok(FilePairs { runs, memory })
}

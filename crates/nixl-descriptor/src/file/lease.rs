//! Leases of ranges of files.

use std::ops::Range;

use nixl_device::ForkGeneration;

use super::error::FileError;
use super::region::FileRegion;
use crate::access::Access;
use crate::extent::{Extent, ExtentSet};
use crate::lease::LeaseMode;
use crate::range_locks::Conflict;

/// A lease on ranges of a file, held by an operation in flight; dropping it releases them.
///
/// It keeps operations of this process apart, and the file open. Other processes are not kept from the file.
#[derive(Debug)]
#[must_use = "dropping it releases the ranges"]
pub struct FileLease {
    file: FileRegion,
    extents: ExtentSet,
    mode: LeaseMode,
    generation: ForkGeneration,
}

impl FileRegion {
    /// Leases ranges of bytes that the file has now, or nothing. Ranges to be read may overlap.
    ///
    /// Queries the size as [`len`](Self::len) does. Panics: never.
    ///
    /// # Errors
    /// [`FileError`]: no bytes, or not inside the file; another operation uses some of them; to write, the ranges overlap or the
    /// file is open for reading only.
    pub fn lease(&self, ranges: &[Range<u64>], mode: LeaseMode) -> Result<FileLease, FileError> {
        let path = || self.path().to_owned();
        if mode == LeaseMode::Write && self.access() == Access::ReadOnly {
            return Err(FileError::ReadOnly { path: path() });
        }
        let size = self.len()?;
        let mut extents = Vec::with_capacity(ranges.len());
        for &Range { start, end } in ranges {
            if start >= end {
                return Err(FileError::Empty { path: path() });
            }
            if end > size {
                return Err(FileError::OutOfBounds { path: path(), start, end, size });
            }
            // Files are not larger than the address space of the processors in use.
            let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end)) else {
                return Err(FileError::OutOfBounds { path: path(), start, end, size });
            };
            extents.push(Extent { start, end });
        }
        extents.sort_unstable();
        let overlap = extents.windows(2).any(|pair| pair[0].overlaps(pair[1]));
        if mode == LeaseMode::Write && overlap {
            return Err(FileError::Overlap { path: path() });
        }
        let Some((&first, rest)) = extents.split_first() else {
            return Err(FileError::Empty { path: path() });
        };
        let extents = ExtentSet::from_sorted(first, rest.iter().copied());
        self.range_locks().begin_lease(mode, &extents).map_err(|conflict| {
            let held = match conflict {
                Conflict::Lease(held) => held,
                // Grants are on memory.
                Conflict::Grant { .. } => LeaseMode::Read,
            };
            FileError::InUse { path: path(), held }
        })?;
        let generation = ForkGeneration::current();
        Ok(FileLease { file: self.clone(), extents, mode, generation })
    }
}

impl FileLease {
    /// The file.
    #[must_use]
    pub fn file(&self) -> &FileRegion {
        &self.file
    }

    /// What the operation may do.
    #[must_use]
    pub fn mode(&self) -> LeaseMode {
        self.mode
    }
}

impl Drop for FileLease {
    fn drop(&mut self) {
        // In a fork's child the operation never ends, and another thread may have held the lock.
        if self.generation.is_current() {
            self.file.range_locks().end_lease(self.mode, &self.extents);
        }
    }
}

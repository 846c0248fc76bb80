//! Alignment of direct I/O: multiples that addresses, offsets and lengths are of.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::pread;

/// Multiples that addresses of memory, and offsets and lengths in the file, must be of for direct I/O. One each without it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileAlignment {
    memory: u32,
    offset: u32,
}

impl FileAlignment {
    /// Of I/O through the page cache.
    pub(super) const NONE: Self = Self { memory: 1, offset: 1 };

    /// Enough for every device in use: its page.
    const COARSE: u32 = 4096;

    /// Of addresses in memory.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.memory as usize
    }

    /// Of offsets in the file and of lengths.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset.into()
    }

    /// As the file system states it, else probed. `None` if it states that there is no direct I/O.
    pub(super) fn of_direct(file: &OwnedFd) -> Option<Self> {
        let stated = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
        let stated = stated.filter(|stat| stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0);
        match stated {
            Some(stat) if stat.stx_dio_offset_align == 0 => None,
            Some(stat) => {
                let memory = stat.stx_dio_mem_align.max(1);
                Some(Self { memory, offset: stat.stx_dio_offset_align })
            }
            None => {
                let probed = Self::probed(file).unwrap_or(Self::COARSE);
                Some(Self { memory: probed, offset: probed })
            }
        }
    }

    /// The least power of two with which a read of the file is not refused as misaligned.
    fn probed(file: &OwnedFd) -> Option<u32> {
        let coarse = Self::COARSE as usize;
        let mut buffer = vec![0u8; 3 * coarse];
        let first = buffer.as_ptr().align_offset(coarse);
        let aligned = buffer.get_mut(first..first + 2 * coarse)?;
        let mut fits = |&align: &u32| {
            let align = align as usize;
            // At the end of a short file there is nothing to refuse.
            let target = aligned.get_mut(align..2 * align).unwrap_or_default();
            matches!(pread(file, target, align as u64), Ok(read) if read == align)
        };
        [512, 1024, 2048].into_iter().find(|align| fits(align))
    }
}

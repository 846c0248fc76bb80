//! Descriptors of simulated physical allocations: open files at the place where the piece begins in its memory.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;

use nixl_descriptor::{MemoryPiece, MemoryPieces, PiecesHandle, Region, SharedMemory, SharedName};
use nixl_device::SharedError;

/// The most simulated physical allocations of a region, each but the last a multiple of so many bytes.
const PIECES: u64 = 8;
const UNIT: u64 = 4096;

/// Bytes of each but the last of a region's.
fn piece_of(len: u64) -> u64 {
    len.div_ceil(PIECES).next_multiple_of(UNIT)
}

/// Memory of a simulated GPU that others open piece by piece.
pub(super) struct SimulatedPieces(pub(super) SharedName);

impl MemoryPieces for SimulatedPieces {
    fn piece(&self, offset: u64) -> Result<MemoryPiece, SharedError> {
        let piece = piece_of(self.0.len);
        if !offset.is_multiple_of(piece) || offset >= self.0.len {
            return Err(SharedError::text("no allocation begins there"));
        }
        // Opened anew, so that it has a place of its own.
        let path = format!("/proc/self/fd/{}", self.0.fd);
        let mut file = File::options().read(true).write(true).open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(MemoryPiece::new(piece.min(self.0.len - offset), Some(file.into()), []))
    }
}

/// Maps memory of another process, if its pieces are what they should be.
pub(super) fn map(handle: &PiecesHandle) -> Result<Region, SharedError> {
    let (mut at, mut first) = (0, None);
    while at < handle.len() {
        let (bytes, descriptor, _) = handle.piece(at)?.into_parts();
        let descriptor = descriptor.ok_or_else(|| SharedError::text("no descriptor"))?;
        let mut file = File::from(descriptor);
        if file.stream_position()? != at || bytes == 0 || bytes > handle.len() - at {
            return Err(SharedError::text("CUDA_ERROR_INVALID_HANDLE (400)"));
        }
        at += bytes;
        first.get_or_insert(file);
    }
    let file = first.ok_or_else(|| SharedError::text("memory of no bytes"))?;
    let fd = file.as_raw_fd().unsigned_abs();
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}"))?;
    let name = link.to_str().and_then(name_in);
    let name = name.ok_or_else(|| SharedError::text("CUDA_ERROR_INVALID_HANDLE (400)"))?;
    let name = SharedName { pid: std::process::id(), fd, name, len: handle.len() };
    Ok(Region::try_from(SharedMemory::open(&name)?)?)
}

/// The random part of a file's name.
fn name_in(link: &str) -> Option<[u8; 16]> {
    let digits = link.strip_prefix("/memfd:nixl-")?.get(..32)?;
    Some(u128::from_str_radix(digits, 16).ok()?.to_be_bytes())
}

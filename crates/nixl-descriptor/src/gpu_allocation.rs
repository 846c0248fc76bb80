//! Allocations of GPU memory, as their driver describes them.

use std::fmt;

use crate::rendezvous::PiecesHandle;

/// The allocation of a GPU's driver that a region lies in.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct GpuAllocation {
    kind: AllocationKind,
    base: u64,
    len: u64,
    ipc_handle: Option<[u8; 72]>,
    handle_types: u32,
    is_read_only: bool,
}

/// How GPU memory was allocated, as far as it decides which other processes can open it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum AllocationKind {
    /// `cuMemAlloc`: it has a handle of CUDA IPC.
    Legacy,
    /// `cuMemAllocAsync`: memory of a pool.
    Pool,
    /// `cuMemCreate`, the VMM API.
    Virtual,
    /// `cuMemAllocManaged`: memory that the driver moves between GPUs and the host.
    Managed,
}

impl GpuAllocation {
    /// An allocation of `len` bytes at `base` without handles, which may be read and written.
    #[must_use]
    pub const fn new(kind: AllocationKind, base: u64, len: u64) -> Self {
        Self { kind, base, len, ipc_handle: None, handle_types: 0, is_read_only: false }
    }

    /// The part of it from `base` on that other processes open [piece by piece](crate::SharedPieces).
    #[must_use]
    pub fn in_pieces(self, base: u64, handle: PiecesHandle) -> Self {
        Self { base, len: handle.len(), ipc_handle: Some(handle.to_bytes()), ..self }
    }

    /// The same with a handle of CUDA IPC, and behind its 64 bytes the number of bytes that it names.
    #[must_use]
    pub const fn with_ipc_handle(self, ipc_handle: [u8; 72]) -> Self {
        Self { ipc_handle: Some(ipc_handle), ..self }
    }

    /// The same, allocated for these types of handle: bits of `CUmemAllocationHandleType`.
    #[must_use]
    pub const fn with_handle_types(self, handle_types: u32) -> Self {
        Self { handle_types, ..self }
    }

    /// The same, which its GPU may only read.
    #[must_use]
    pub const fn read_only(self, is_read_only: bool) -> Self {
        Self { is_read_only, ..self }
    }

    /// How it was allocated.
    #[must_use]
    pub const fn kind(&self) -> AllocationKind {
        self.kind
    }

    /// Its first address.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Its number of bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an allocation is never empty")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// What names it to other processes of the host, if anything does: a handle of CUDA IPC, or of its [pieces](PiecesHandle).
    #[must_use]
    pub const fn ipc_handle(&self) -> Option<&[u8; 72]> {
        self.ipc_handle.as_ref()
    }

    /// Whether other processes open it piece by piece.
    #[must_use]
    pub fn is_in_pieces(&self) -> bool {
        self.ipc_handle.as_ref().and_then(PiecesHandle::from_bytes).is_some()
    }

    /// The types of handle that it was allocated for: bits of `CUmemAllocationHandleType`, of which 1 is a file descriptor.
    #[must_use]
    pub const fn handle_types(&self) -> u32 {
        self.handle_types
    }

    /// Whether its GPU may only read it.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Whether all of `len` bytes at `address` lie in it.
    #[must_use]
    pub const fn contains(&self, address: u64, len: u64) -> bool {
        let Some(offset) = address.checked_sub(self.base) else { return false };
        match offset.checked_add(len) {
            Some(end) => end <= self.len,
            None => false,
        }
    }
}

impl fmt::Display for AllocationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "memory of cuMemAlloc",
            Self::Pool => "memory of a pool (cuMemAllocAsync)",
            Self::Virtual => "memory of cuMemCreate",
            Self::Managed => "managed memory (cuMemAllocManaged)",
        })
    }
}

/// Shows no handle.
impl fmt::Debug for GpuAllocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuAllocation")
            .field("kind", &self.kind)
            .field("base", &format_args!("{:#x}", self.base))
            .field("len", &self.len)
            .field("ipc", &(self.ipc_handle.is_some() && !self.is_in_pieces()))
            .field("pieces", &self.is_in_pieces())
            .field("handle_types", &self.handle_types)
            .field("read_only", &self.is_read_only)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_contains_what_lies_between_its_ends() {
        let allocation = GpuAllocation::new(AllocationKind::Pool, 1000, 100);
        for (address, len, inside) in [
            (1000, 100, true),
            (1099, 1, true),
            (1099, 2, false),
            (999, 1, false),
            (1050, u64::MAX, false),
        ] {
            assert_eq!(allocation.contains(address, len), inside, "{len} at {address}");
        }
    }

    #[test]
    fn debug_output_keeps_the_handle() {
        let allocation = GpuAllocation::new(AllocationKind::Legacy, 0x1000, 100);
        let shown = format!("{:?}", allocation.with_ipc_handle([0xAB; 72]).read_only(true));
        assert_eq!(
            shown,
            "GpuAllocation { kind: Legacy, base: 0x1000, len: 100, ipc: true, pieces: false, handle_types: 0, read_only: true }"
        );
    }
}

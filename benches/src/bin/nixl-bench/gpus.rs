//! The GPUs of this machine, and what the measurements need on each.
#![allow(unsafe_code, reason = "fills memory of this module's own")]

use anyhow::{Context as _, Result, anyhow};
use nixl_descriptor::Region;
use nixl_device::cuda::{Context, DeviceMemory, PinnedMemory, Stream};
use nixl_executor::MemoryKind;

/// What a destination holds before the bytes arrive.
pub(crate) const POISON: u8 = 0xA5;
/// Bytes that are filled and checked at a time.
pub(crate) const WINDOW: usize = 64 << 20;

/// By their ordinals.
pub(crate) struct Gpus(Vec<Gpu>);

pub(crate) struct Gpu {
    pub(crate) context: Context,
    /// For the baselines, and to fill and check memory.
    pub(crate) stream: Stream,
    /// Pinned memory by which the host fills and checks the GPU's.
    pub(crate) staging: Region,
    /// Device memory full of [`POISON`], as long as the staging memory.
    pub(crate) poison: DeviceMemory,
}

impl Gpus {
    /// The first so many.
    pub(crate) fn open(count: u32) -> Result<Self> {
        (0..count).map(Gpu::open).collect::<Result<_>>().map(Self)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The GPU that a memory belongs to.
    pub(crate) fn of(&self, kind: MemoryKind) -> Result<&Gpu> {
        let ordinal = match kind {
            MemoryKind::Gpu(ordinal) => ordinal,
            MemoryKind::Pinned | MemoryKind::Pageable => 0,
        };
        self.0.get(ordinal as usize).ok_or_else(|| anyhow!("there is no cuda:{ordinal}"))
    }

    /// New memory. That of the host is touched when it is filled.
    pub(crate) fn region(&self, kind: MemoryKind, len: usize) -> Result<Region> {
        Ok(match kind {
            MemoryKind::Pageable => Region::zeroed(len)?,
            MemoryKind::Pinned => PinnedMemory::new(&self.of(kind)?.context, len)?.try_into()?,
            MemoryKind::Gpu(_) => DeviceMemory::new(&self.of(kind)?.context, len)?.try_into()?,
        })
    }
}

impl Gpu {
    fn open(ordinal: u32) -> Result<Self> {
        let open = || -> Result<Self> {
            let context = Context::primary(ordinal)?;
            let stream = Stream::new(&context)?;
            let staging = PinnedMemory::new(&context, WINDOW)?.try_into()?;
            let poison = DeviceMemory::new(&context, WINDOW)?;
            // SAFETY: the memory is as long, this function's own, and kept until the stream has passed.
            unsafe { stream.memset_async(poison.address(), POISON, WINDOW) }?;
            stream.synchronize()?;
            Ok(Self { context, stream, staging, poison })
        };
        open().with_context(|| format!("cuda:{ordinal} cannot be used"))
    }
}

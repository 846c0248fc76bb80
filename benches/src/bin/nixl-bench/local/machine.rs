//! The GPUs of this machine, and what the measurements need on each.
#![allow(unsafe_code, reason = "fills memory of this module's own")]

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use nixl_descriptor::Region;
use nixl_device::cuda::{Context, DeviceMemory, PinnedMemory, Stream, devices, probe};
use nixl_executor::{Abilities, BlockExecutor, Costs, CudaGpus, Gpus, MemoryKind, SimulatedGpus};

/// What a destination holds before the bytes arrive.
pub(crate) const POISON: u8 = 0xA5;

/// What copies, and where to.
pub(crate) struct Machine {
    pub(crate) executor: BlockExecutor,
    pub(crate) abilities: Abilities,
    pub(crate) gpus: Vec<Gpu>,
    /// For the table of costs.
    pub(crate) name: String,
}

pub(crate) struct Gpu {
    pub(crate) context: Context,
    /// For the baselines, and to fill and check memory.
    pub(crate) stream: Stream,
    /// Pinned memory by which the host fills and checks the GPU's.
    pub(crate) staging: Region,
    /// Device memory full of [`POISON`], as long as the staging memory.
    pub(crate) poison: DeviceMemory,
}

impl Machine {
    /// Bytes that are filled and checked at a time.
    pub(crate) const WINDOW: usize = 64 << 20;

    /// All GPUs that can be used; none is no error, but said on a line.
    pub(crate) fn open(costs: Costs) -> Result<Self> {
        let engine: Arc<dyn Gpus> = match probe().as_ref().map_err(ToString::to_string) {
            Ok(_) => Arc::new(CudaGpus::new()?),
            Err(reason) => {
                eprintln!(
                    "local: no GPU ({reason}): only copies between host memories are measured"
                );
                Arc::new(SimulatedGpus::new(Abilities::default())?)
            }
        };
        let abilities = engine.abilities().clone();
        let gpus: Vec<_> = (0..abilities.gpus).map(Gpu::open).collect::<Result<_>>()?;
        let name = match devices().unwrap_or_default().first() {
            Some(device) => format!("{} x {}", gpus.len(), device.name),
            None => "no GPU".to_owned(),
        };
        Ok(Self { executor: BlockExecutor::new(engine, costs)?, abilities, gpus, name })
    }

    /// The GPU that a memory belongs to.
    pub(crate) fn gpu(&self, kind: MemoryKind) -> Result<&Gpu> {
        let ordinal = match kind {
            MemoryKind::Gpu(ordinal) => ordinal,
            MemoryKind::Pinned | MemoryKind::Pageable => 0,
        };
        self.gpus.get(ordinal as usize).ok_or_else(|| anyhow!("there is no cuda:{ordinal}"))
    }

    /// The GPU that copies from one memory to another.
    pub(crate) fn copier(&self, src: MemoryKind, dst: MemoryKind) -> Result<&Gpu> {
        self.gpu(if src.is_host() { dst } else { src })
    }

    /// New memory. That of the host is touched when it is filled.
    pub(crate) fn region(&self, kind: MemoryKind, len: usize) -> Result<Region> {
        Ok(match kind {
            MemoryKind::Pageable => Region::zeroed(len)?,
            MemoryKind::Pinned => PinnedMemory::new(&self.gpu(kind)?.context, len)?.try_into()?,
            MemoryKind::Gpu(_) => DeviceMemory::new(&self.gpu(kind)?.context, len)?.try_into()?,
        })
    }
}

impl Gpu {
    fn open(ordinal: u32) -> Result<Self> {
        let open = || -> Result<Self> {
            let context = Context::primary(ordinal)?;
            let stream = Stream::new(&context)?;
            let staging = PinnedMemory::new(&context, Machine::WINDOW)?.try_into()?;
            let poison = DeviceMemory::new(&context, Machine::WINDOW)?;
            // SAFETY: the memory is as long, this function's own, and kept until the stream has passed.
            unsafe { stream.memset_async(poison.address(), POISON, Machine::WINDOW) }?;
            stream.synchronize()?;
            Ok(Self { context, stream, staging, poison })
        };
        open().with_context(|| format!("cuda:{ordinal} cannot be used"))
    }
}

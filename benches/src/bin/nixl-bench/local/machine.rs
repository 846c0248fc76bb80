//! Copy engines and the memory of this machine.

use std::sync::Arc;

use anyhow::Result;
use nixl_device::cuda::{devices, probe};
use nixl_executor::{
    BlockExecutor, Costs, CudaGpus, GpuBackend as Engine, GpuCapabilities, MemoryKind,
    SimulatedGpus,
};

use crate::gpus::{Gpu, Gpus};

/// What copies, and where to.
pub(crate) struct Machine {
    pub(crate) executor: BlockExecutor,
    pub(crate) capabilities: GpuCapabilities,
    pub(crate) gpus: Gpus,
    /// For the table of costs.
    pub(crate) name: String,
}

impl Machine {
    /// All GPUs that can be used; none is no error, but said on a line.
    pub(crate) fn open(costs: Costs) -> Result<Self> {
        let engine: Arc<dyn Engine> = match probe().as_ref().map_err(ToString::to_string) {
            Ok(_) => Arc::new(CudaGpus::new()?),
            Err(reason) => {
                eprintln!(
                    "local: no GPU ({reason}): only copies between host memories are measured"
                );
                Arc::new(SimulatedGpus::new(GpuCapabilities::default())?)
            }
        };
        let capabilities = engine.capabilities().clone();
        let gpus = Gpus::open(capabilities.gpus())?;
        let name = match devices().unwrap_or_default().first() {
            Some(device) => format!("{} x {}", gpus.count(), device.name()),
            None => "no GPU".to_owned(),
        };
        Ok(Self { executor: BlockExecutor::new(engine, costs)?, capabilities, gpus, name })
    }

    /// The GPU that copies from one memory to another.
    pub(crate) fn copier(&self, src: MemoryKind, dst: MemoryKind) -> Result<&Gpu> {
        self.gpus.of(if src.is_host() { dst } else { src })
    }
}

//! Limits of the pools of GPUs, and constructors on other threads.

use nixl_executor::{CudaGpus, GpuBackend, GpuError, GpuMemoryLimits, shared_pinned};

use super::Cuda;

#[tokio::test]
async fn each_limit_of_the_pools_has_an_effect() {
    const LIMIT: usize = 1 << 20;
    if Cuda::new(1, "each_limit_of_the_pools_has_an_effect").is_none() {
        return;
    }
    let limits = GpuMemoryLimits::default().scratch_bytes(LIMIT).pinned_bytes(LIMIT);
    let gpus = CudaGpus::open(limits).await.unwrap();
    let taken = (gpus.scratch(0, LIMIT).unwrap(), gpus.pinned(0, LIMIT).unwrap());
    let refused = [gpus.scratch(0, 1).err(), gpus.pinned(0, 1).err()];
    for error in refused {
        assert!(matches!(error, Some(GpuError::OutOfMemory { .. })), "{error:?}");
    }
    drop(taken);
    assert!(gpus.scratch(0, 1).is_ok() && gpus.pinned(0, 1).is_ok());
}

#[tokio::test]
async fn memory_is_pinned_on_another_thread() {
    let Some((cuda, _)) = Cuda::new(1, "memory_is_pinned_on_another_thread") else { return };
    let region = shared_pinned(&cuda.context, 1 << 20).await.unwrap();
    assert!(region.shared_name().is_some());
    let kind = cuda.gpus.memory_kind(region.device(), region.address());
    assert_eq!(kind, nixl_executor::MemoryKind::Pinned);
}

//! Memory of a device.

use super::api::{Address, IpcBytes};
use super::context::Context;
use super::error::CudaError;
use super::ipc::IpcMemoryHandle;
use super::memory_error::{MemoryError, checked_len};
use super::pool::{Block, PooledBlock};

/// Memory of a device, freed (or given back to its [`DevicePool`](super::DevicePool)) when dropped.
///
/// Its content is unspecified until something is copied into it. Freeing waits for all work of the device; use a pool
/// where that hurts. To copy from safe code, share it in an [`Arc`](std::sync::Arc) and see
/// [`Stream::copy`](super::Stream::copy), which keeps it until the device has passed.
#[derive(Debug)]
pub struct DeviceMemory {
    context: Context,
    address: Address,
    len: usize,
    _block: PooledBlock<DeviceBlock>,
}

impl DeviceMemory {
    /// Allocates `len` bytes on the context's device, aligned to at least 256 bytes.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]: a request for no bytes, too little memory, or the driver's error.
    pub fn new(context: &Context, len: usize) -> Result<Self, MemoryError> {
        Ok(Self::from_block(PooledBlock::owned(DeviceBlock::new(context, len)?), len))
    }

    /// The first `len` bytes of a block, which has at least as many.
    pub(super) fn from_block(pooled: PooledBlock<DeviceBlock>, len: usize) -> Self {
        let (context, address) = (pooled.block().context, pooled.block().address);
        Self { context, address, len, _block: pooled }
    }

    /// Address of the first byte, a `CUdeviceptr`. The host cannot dereference it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Number of bytes, at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.len
    }

    /// The context it belongs to.
    #[must_use]
    pub fn context(&self) -> Context {
        self.context
    }

    /// A name by which another process of this machine can [open](super::ImportedMemory::open) the memory.
    ///
    /// Keep the memory until the other process has closed it: what it reads and writes afterwards is undefined, though
    /// only on the device. Memory of a pool is reused when dropped, and the other process sees that.
    ///
    /// # Errors
    ///
    /// The driver's error. Some virtual machines and containers do not support it.
    pub fn export(&self) -> Result<IpcMemoryHandle, CudaError> {
        let mut bytes = IpcBytes([0; 64]);
        // SAFETY: the memory is alive; the pointer is to a live variable, written during the call only.
        self.context.call("cuIpcGetMemHandle", |api| unsafe {
            (api.ipc_get_mem_handle)(&raw mut bytes, self.address)
        })?;
        Ok(IpcMemoryHandle::new(bytes.0, self.len as u64))
    }
}

/// One allocation.
#[derive(Debug)]
pub(super) struct DeviceBlock {
    context: Context,
    address: Address,
    len: usize,
}

impl DeviceBlock {
    pub(super) fn new(context: &Context, len: usize) -> Result<Self, MemoryError> {
        let len = checked_len(len)?;
        let mut address = 0;
        // SAFETY: the pointer is to a live variable, written during the call only.
        let allocated =
            context.call("cuMemAlloc", |api| unsafe { (api.mem_alloc)(&raw mut address, len) });
        allocated.map_err(|error| MemoryError::device(context.ordinal(), len, error))?;
        Ok(Self { context: *context, address, len })
    }
}

impl Block for DeviceBlock {
    fn len(&self) -> usize {
        self.len
    }

    fn is_usable(&self) -> bool {
        self.context.health().is_ok()
    }
}

impl Drop for DeviceBlock {
    fn drop(&mut self) {
        let address = self.address;
        // SAFETY: nothing else frees it, and callers that queued work on it kept it until the device had passed.
        self.context.release("cuMemFree", move |api| unsafe { (api.mem_free)(address) });
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    #[test]
    fn memory_is_freed_once() {
        let fake = Fake::new();
        let memory = DeviceMemory::new(&fake.context(1), 1 << 20).unwrap();
        assert_eq!(fake.live_bytes(), 1 << 20);
        assert_eq!((memory.len(), memory.context().ordinal()), (1 << 20, 1));
        drop(memory);
        assert_eq!(fake.live_bytes(), 0);
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_allocated_is_a_specific_error() {
        let fake = Fake::new();
        let context = fake.context(0);
        assert_eq!(DeviceMemory::new(&context, 0).err(), Some(MemoryError::Empty));
        assert_eq!(
            DeviceMemory::new(&context, usize::MAX).err(),
            Some(MemoryError::TooLarge { len: usize::MAX })
        );
        fake.fail("cuMemAlloc", 2, 1);
        let error = DeviceMemory::new(&context, 64).unwrap_err();
        assert!(
            matches!(error, MemoryError::OutOfDeviceMemory { ordinal: 0, len: 64, .. }),
            "{error:?}"
        );
        fake.fail("cuMemAlloc", 1, 1);
        let error = DeviceMemory::new(&context, 64).unwrap_err();
        assert!(matches!(error, MemoryError::Cuda(error) if error.code == 1), "{error:?}");
        assert_eq!(fake.live_bytes(), 0);
    }

    #[test]
    fn memory_of_a_broken_context_is_leaked_and_counted() {
        let fake = Fake::new();
        let context = fake.context(0);
        let memory = DeviceMemory::new(&context, 64).unwrap();
        fake.fail("cuCtxSynchronize", 700, 1);
        assert!(context.synchronize().is_err());
        drop(memory);
        assert_eq!((fake.count("cuMemFree"), context.leaked()), (0, 1));
    }
}

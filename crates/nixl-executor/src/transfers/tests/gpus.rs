//! GPUs whose work is done when the test says so.
#![allow(unsafe_code, reason = "copies by address, as a GPU does")]

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use nixl_descriptor::{Access, AllocationKind, GpuAllocation, Region};
use nixl_device::{Device, DeviceKind, SharedError};

use crate::local::{
    BlockCopy, CopyOp, GpuBackend, GpuCapabilities, GpuError, GpuEvent, GpuStream, MemoryKind,
    SharedHandle, StreamHandle, TransferBuffer,
};

#[derive(Debug)]
pub(super) struct TestGpus {
    capabilities: GpuCapabilities,
    queue: Arc<Mutex<VecDeque<Work>>>,
    lost: Arc<AtomicBool>,
    /// No memory is left for slots.
    full: AtomicBool,
}

#[derive(Debug)]
enum Work {
    Copy(CopyOp),
    Reach(Arc<AtomicBool>),
}

impl TestGpus {
    pub(super) fn new() -> Arc<Self> {
        let mut capabilities = GpuCapabilities::default();
        (capabilities.gpus, capabilities.batch) = (2, true);
        Arc::new(Self {
            capabilities,
            queue: Arc::default(),
            lost: Arc::default(),
            full: AtomicBool::new(false),
        })
    }

    /// Does the next `count` pieces of work.
    pub(super) fn run(&self, count: usize) {
        for _ in 0..count {
            let Some(work) = self.queue.lock().unwrap().pop_front() else { return };
            match work {
                // SAFETY: the caller that queued it vouched for both ranges until a later event is complete.
                Work::Copy(op) => unsafe {
                    std::ptr::copy(op.src as *const u8, op.dst as *mut u8, op.len as usize);
                },
                Work::Reach(event) => event.store(true, Ordering::Release),
            }
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.lock().unwrap().is_empty()
    }

    /// There is no memory for slots from now on.
    pub(super) fn lose_slots(&self) {
        self.full.store(true, Ordering::Release);
    }

    /// Everything fails from now on, and what is queued never runs.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.queue.lock().unwrap().clear();
    }
}

/// Memory of a device that stands for a GPU, or the host's.
pub(super) fn region(device: Device, len: usize) -> Region {
    let mut bytes = vec![0u8; len];
    let base = NonNull::new(bytes.as_mut_ptr()).unwrap();
    // SAFETY: the vector owns `len` bytes at `base`, is not touched any more, and lives as long as the region.
    unsafe { Region::from_raw_parts(base, len, device, Access::ReadWrite, bytes) }.unwrap()
}

/// Its content, read without regard to concurrent writers.
pub(super) fn look(region: &Region) -> Vec<u8> {
    let base = region.address() as *const u8;
    // SAFETY: it is a vector of this process, and the test's one thread does all the writing.
    unsafe { std::slice::from_raw_parts(base, region.len()) }.to_vec()
}

/// Overwrites it: what an application may do with memory that it has got back.
pub(super) fn overwrite(region: &Region, bytes: &[u8]) {
    assert_eq!(region.len(), bytes.len());
    // SAFETY: as above.
    unsafe { std::ptr::copy(bytes.as_ptr(), region.address() as *mut u8, bytes.len()) };
}

fn lost(flag: &AtomicBool) -> Result<(), GpuError> {
    match flag.load(Ordering::Acquire) {
        true => Err(GpuError::Driver { reason: SharedError::text("lost"), sticky: true }),
        false => Ok(()),
    }
}

// SAFETY: all memory is host memory, of every simulated kind: vectors of this process that stay where they are, which the one
// thread of the test reaches by address. A handle names such a vector, which the test keeps while it is open.
unsafe impl GpuBackend for TestGpus {
    fn capabilities(&self) -> &GpuCapabilities {
        &self.capabilities
    }

    /// What is not a GPU's is pinned: pageable memory goes through threads, which the test does not step.
    fn memory_kind(&self, device: Device, _: u64) -> MemoryKind {
        match device.kind() {
            DeviceKind::Cuda => MemoryKind::Gpu(device.index()),
            _ => MemoryKind::Pinned,
        }
    }

    fn create_stream(&self, _: u32) -> Result<Box<dyn GpuStream>, GpuError> {
        lost(&self.lost)?;
        Ok(Box::new(TestStream { queue: Arc::clone(&self.queue), lost: Arc::clone(&self.lost) }))
    }

    fn pinned(&self, _: u32, _: usize) -> Result<Box<dyn TransferBuffer>, GpuError> {
        Err(GpuError::Unsupported { reason: SharedError::text("not needed here") })
    }

    fn pinned_region(&self, _: u32, len: usize) -> Result<Region, GpuError> {
        Ok(region(Device::HOST, len))
    }

    fn shareable_region(&self, gpu: u32, len: usize) -> Result<Region, GpuError> {
        lost(&self.lost)?;
        match self.full.load(Ordering::Acquire) {
            true => {
                let reason = SharedError::text("none is left");
                Err(GpuError::OutOfMemory { what: "device", reason })
            }
            false => Ok(region(Device::cuda(gpu), len)),
        }
    }

    fn scratch(&self, _: u32, _: usize) -> Result<Box<dyn TransferBuffer>, GpuError> {
        Err(GpuError::Unsupported { reason: SharedError::text("not needed here") })
    }

    /// Of both sides, which are one process here: names the address itself.
    fn allocation(&self, _: u32, address: u64) -> Result<GpuAllocation, GpuError> {
        let (base, len) = (address - (1 << 32), 1u64 << 40);
        let mut handle = [0; 72];
        handle[..8].copy_from_slice(&base.to_le_bytes());
        handle[64..].copy_from_slice(&len.to_le_bytes());
        let allocation = GpuAllocation::new(AllocationKind::Legacy, base, len);
        Ok(allocation.with_ipc_handle(handle))
    }

    fn open(&self, _: u32, handle: &SharedHandle) -> Result<Box<dyn TransferBuffer>, GpuError> {
        lost(&self.lost)?;
        let [a, b, c, d, e, f, g, h, ..] = *handle;
        Ok(Box::new(Opened(u64::from_le_bytes([a, b, c, d, e, f, g, h]))))
    }
}

struct Opened(u64);

// SAFETY: the test keeps the vector that the address is in.
unsafe impl TransferBuffer for Opened {
    fn address(&self) -> u64 {
        self.0
    }
}

struct TestStream {
    queue: Arc<Mutex<VecDeque<Work>>>,
    lost: Arc<AtomicBool>,
}

// SAFETY: work is done in the order of the queue, as it was asked for. Once the GPUs are lost, none is done any more.
unsafe impl GpuStream for TestStream {
    unsafe fn memcpy_async(&mut self, ops: &[CopyOp]) -> Result<(), GpuError> {
        lost(&self.lost)?;
        self.queue.lock().unwrap().extend(ops.iter().map(|op| Work::Copy(*op)));
        Ok(())
    }

    unsafe fn memcpy_batch_async(&mut self, ops: &[CopyOp]) -> Result<(), GpuError> {
        // SAFETY: the caller vouches for the same.
        unsafe { self.memcpy_async(ops) }
    }

    unsafe fn launch_copy_kernel(&mut self, _: &BlockCopy) -> Result<(), GpuError> {
        Err(GpuError::Unsupported { reason: SharedError::text("not needed here") })
    }

    unsafe fn raw_stream(&self) -> Result<StreamHandle, GpuError> {
        Err(GpuError::Unsupported { reason: SharedError::text("not needed here") })
    }

    fn wait_stream(&mut self, _: StreamHandle) -> Result<(), GpuError> {
        Ok(())
    }

    fn wait_event(&mut self, _: &dyn GpuEvent) -> Result<(), GpuError> {
        Ok(())
    }

    fn record_event(&mut self) -> Result<Box<dyn GpuEvent>, GpuError> {
        lost(&self.lost)?;
        let event = Arc::new(AtomicBool::new(false));
        self.queue.lock().unwrap().push_back(Work::Reach(Arc::clone(&event)));
        Ok(Box::new(TestEvent { event, lost: Arc::clone(&self.lost) }))
    }

    fn on_complete(&mut self, waker: Waker) -> Result<(), GpuError> {
        waker.wake();
        Ok(())
    }
}

struct TestEvent {
    event: Arc<AtomicBool>,
    lost: Arc<AtomicBool>,
}

// SAFETY: set by the queue when its turn comes. Once the GPUs are lost, no work is done any more.
unsafe impl GpuEvent for TestEvent {
    fn is_complete(&self) -> Result<bool, GpuError> {
        if self.event.load(Ordering::Acquire) {
            return Ok(true);
        }
        lost(&self.lost).map(|()| false)
    }
}

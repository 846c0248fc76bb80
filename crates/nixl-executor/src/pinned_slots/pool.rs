//! The slots of one piece of memory, which the connections of an executor share. Each connection [registers](super::registered)
//! pinned slots with its engine; those [on a GPU](super::gpu_slots) are opened by peers.

use std::fmt;
use std::mem;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard};

use nixl_descriptor::Region;
use nixl_device::locks::lock;
use nixl_ops::GaugeShare;

use super::admission::Admission;
use super::budget::{Reserved, SlotMemory, StagingBudget};
use super::stats::SlotStats;
use crate::local::GpuBackend;

/// The slots of one direction, or on one GPU. Their memory is allocated when it is first needed, and does not grow.
pub(crate) struct SlotPool {
    made_of: SlotMemory,
    slots: u16,
    pub(super) slot_bytes: usize,
    budget: Arc<StagingBudget>,
    /// Locked while it is allocated, for seconds where the driver pins it.
    memory: Mutex<Option<Counted>>,
    /// The bytes of `memory`, read without its lock.
    allocated: AtomicUsize,
    admission: Mutex<Admission>,
    used: AtomicBool,
}

/// Memory of slots, which is in its gauge and its budget until its last user has gone.
#[derive(Clone)]
pub(super) struct Counted {
    pub(super) region: Region,
    _counted: Arc<(GaugeShare, Reserved)>,
}

impl SlotPool {
    pub(super) fn new(
        made_of: SlotMemory,
        slots: usize,
        slot_bytes: usize,
        budget: Arc<StagingBudget>,
    ) -> Arc<Self> {
        let slots = u16::try_from(slots).unwrap_or(u16::MAX);
        Arc::new(Self {
            made_of,
            slots,
            slot_bytes,
            budget,
            memory: Mutex::default(),
            allocated: AtomicUsize::new(0),
            admission: Mutex::new(Admission::new(slots)),
            used: AtomicBool::new(false),
        })
    }

    /// Allocates the slots near a GPU, or on it, unless that has been done. **Blocks.**
    pub(super) fn allocate(&self, gpus: &dyn GpuBackend, gpu: u32) -> Result<Counted, String> {
        let mut memory = self.memory();
        if let Some(allocated) = &*memory {
            return Ok(allocated.clone());
        }
        let len = self.slot_bytes.checked_mul(self.slots.into());
        let len = len.ok_or("the slots are too large")?;
        let reserved = self.budget.reserve(self.made_of, gpu, len as u64)?;
        let (region, gauge) = match self.made_of {
            SlotMemory::Pinned => (gpus.pinned_region(gpu, len), "nixl_pinned_bytes"),
            SlotMemory::Gpu => (gpus.shareable_region(gpu, len), "nixl_gpu_slot_bytes"),
        };
        let region = region.map_err(|e| e.to_string())?;
        let counted = GaugeShare::new(gauge, region.len() as u64);
        let allocated = Counted { region, _counted: Arc::new((counted, reserved)) };
        self.allocated.store(allocated.region.len(), Relaxed);
        *memory = Some(allocated.clone());
        Ok(allocated)
    }

    /// *Blocking.* Gives the memory back, unless it is in use.
    pub(super) fn release(&self) {
        let is_unused = self.lock().is_unused();
        let released = is_unused.then(|| {
            let mut memory = self.memory();
            self.allocated.store(0, Relaxed);
            memory.take()
        });
        drop(released);
    }

    pub(crate) fn stats(&self) -> SlotStats {
        let bytes = self.allocated.load(Relaxed);
        let (pinned_bytes, gpu_bytes) = match self.made_of {
            SlotMemory::Pinned => (bytes, 0),
            SlotMemory::Gpu => (0, bytes),
        };
        let admission = self.lock();
        SlotStats {
            pinned_bytes,
            gpu_bytes,
            free: admission.free(),
            quarantined: usize::from(self.slots) - admission.usable(),
        }
    }

    pub(super) fn is_allocated(&self) -> bool {
        self.allocated.load(Relaxed) > 0
    }

    pub(super) fn note_use(&self) {
        self.used.store(true, Relaxed);
    }

    /// Whether it was used since the last call.
    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Relaxed)
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Option<Counted>> {
        lock(&self.memory)
    }

    pub(super) fn slot_bytes(&self) -> u64 {
        self.slot_bytes as u64
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Admission> {
        lock(&self.admission)
    }
}

impl Drop for SlotPool {
    fn drop(&mut self) {
        // A peer may write to it for as long as the process lives, or a GPU here may.
        if self.lock().usable() < usize::from(self.slots) {
            mem::forget(self.memory().take());
        }
    }
}

impl fmt::Debug for SlotPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

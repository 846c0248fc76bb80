//! Slots on GPUs: memory that other processes open by descriptors, or by CUDA IPC, and copy out of.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nixl_device::locks::lock;
use nixl_ops::TransportError;

use super::SlotStats;
use super::budget::{SlotMemory, StagingBudget};
use super::failure::{EXHAUSTED, Failure, failed};
use super::member::Member;
use super::pool::SlotPool;
use super::slot::{Slab, Slot};
use crate::local::{GpuBackend, SharedHandle, allocation_of};

/// The slots on each GPU of an executor.
#[derive(Debug)]
pub(crate) struct GpuSlots {
    slots: usize,
    slot_bytes: usize,
    budget: Arc<StagingBudget>,
    by_gpu: Mutex<BTreeMap<u32, Arc<GpuSlotPool>>>,
}

/// The slots on one GPU. Once allocated they stay: peers have them open, and would keep memory that was given back.
pub(crate) struct GpuSlotPool {
    gpu: u32,
    pool: Arc<SlotPool>,
    state: Mutex<State>,
}

#[derive(Clone)]
enum State {
    Empty,
    /// An [allocation](SlotAllocation) is under way.
    Allocating,
    Ready(Exported),
    Failed(Failure),
}

/// Memory of slots, and its handle for other processes.
#[derive(Clone)]
struct Exported {
    slab: Slab,
    handle: SharedHandle,
    /// Offset of the first slot in the handle's allocation.
    offset: u64,
}

impl GpuSlots {
    pub(super) fn new(slots: usize, slot_bytes: usize, budget: &Arc<StagingBudget>) -> Self {
        Self { slots, slot_bytes, budget: Arc::clone(budget), by_gpu: Mutex::default() }
    }

    /// Those on one GPU.
    pub(crate) fn on(&self, gpu: u32) -> Arc<GpuSlotPool> {
        let mut by_gpu = lock(&self.by_gpu);
        let made = || Arc::new(GpuSlotPool::new(gpu, self));
        Arc::clone(by_gpu.entry(gpu).or_insert_with(made))
    }

    /// Of all GPUs together.
    pub(crate) fn stats(&self) -> SlotStats {
        let by_gpu = lock(&self.by_gpu);
        by_gpu.values().map(|slots| slots.pool.stats()).fold(SlotStats::default(), SlotStats::plus)
    }
}

impl GpuSlotPool {
    fn new(gpu: u32, of: &GpuSlots) -> Self {
        let pool = SlotPool::new(SlotMemory::Gpu, of.slots, of.slot_bytes, Arc::clone(&of.budget));
        Self { gpu, pool, state: Mutex::new(State::Empty) }
    }

    pub(crate) fn slot_bytes(&self) -> u64 {
        self.pool.slot_bytes()
    }

    /// Why no operation gets a slot, if that is known.
    pub(crate) fn why_not(&self, now: Duration) -> Option<String> {
        match &*self.state() {
            State::Ready(_) => (self.pool.lock().usable() == 0).then(|| EXHAUSTED.to_owned()),
            State::Failed(failure) if failure.is_recent(now) => Some(why(failure)),
            _ => None,
        }
    }

    /// What allocates the slots, unless they are there or about to be. To be [made](SlotAllocation::make) where that may block.
    pub(crate) fn allocation(self: &Arc<Self>, now: Duration) -> Option<SlotAllocation> {
        let mut state = self.state();
        match &*state {
            State::Empty => {}
            State::Failed(failure) if !failure.is_recent(now) => {}
            _ => return None,
        }
        *state = State::Allocating;
        Some(SlotAllocation { slots: Arc::clone(self) })
    }

    pub(crate) fn join(self: &Arc<Self>) -> GpuMember {
        GpuMember { slots: Arc::clone(self), member: Member::new(&self.pool, None) }
    }

    fn allocate(&self, gpus: &dyn GpuBackend) -> Result<Exported, String> {
        let memory = self.pool.allocate(gpus, self.gpu)?;
        let allocation = allocation_of(gpus, &memory.region);
        let no_handle = || "no other process could open them".to_owned();
        let allocation = allocation.copied().ok_or_else(no_handle)?;
        let handle = *allocation.ipc_handle().ok_or_else(no_handle)?;
        let offset = memory.region.address().saturating_sub(allocation.base());
        Ok(Exported { slab: Slab { memory, registration: None }, handle, offset })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// An allocation of slots on a GPU that is to be made. If it never is, the next operation may.
pub(crate) struct SlotAllocation {
    slots: Arc<GpuSlotPool>,
}

impl SlotAllocation {
    /// *Blocking.* A failure is [remembered](GpuSlotPool::why_not).
    pub(crate) fn make(self, gpus: &dyn GpuBackend, now: Duration) {
        let (slots, gpu) = (&self.slots, self.slots.gpu);
        let made = slots.allocate(gpus);
        *slots.state() = match made {
            Ok(exported) => State::Ready(exported),
            Err(reason) => {
                tracing::warn!(gpu, %reason, "no slots on a GPU: transfers that need them take another path");
                State::Failed(Failure { reason, at: now })
            }
        };
    }
}

impl Drop for SlotAllocation {
    fn drop(&mut self) {
        let mut state = self.slots.state();
        if let State::Allocating = *state {
            *state = State::Empty;
        }
    }
}

/// A session's claim to slots on a GPU.
#[derive(Debug)]
pub(crate) struct GpuMember {
    slots: Arc<GpuSlotPool>,
    member: Member,
}

impl GpuMember {
    /// A slot, if they are allocated, one is free, and it is this session's turn.
    ///
    /// # Errors
    ///
    /// If there will never be one.
    pub(crate) fn take(&mut self) -> Result<Option<Slot>, TransportError> {
        if self.member.slab.is_none() {
            let state = self.slots.state();
            match &*state {
                State::Ready(exported) => self.member.slab = Some(exported.slab.clone()),
                State::Failed(failure) => return Err(failed(why(failure))),
                State::Empty => return Err(failed("the slots on the GPU were not allocated")),
                State::Allocating => return Ok(None),
            }
        }
        self.member.take()
    }

    /// Wants no more for now.
    pub(crate) fn settle(&self) {
        self.member.settle();
    }

    /// What names the memory of a slot to other processes, and where in that the slot begins.
    pub(crate) fn place(&self, slot: &Slot) -> Option<(SharedHandle, u64)> {
        match &*self.slots.state() {
            State::Ready(exported) => {
                let begin = exported.slab.memory.region.address();
                let offset = slot.address().saturating_sub(begin).saturating_add(exported.offset);
                Some((exported.handle, offset))
            }
            _ => None,
        }
    }
}

impl fmt::Debug for GpuSlotPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuSlotPool")
            .field("gpu", &self.gpu)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

fn why(failure: &Failure) -> String {
    format!("no slots on the GPU: {}", failure.reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{GpuCapabilities, NoGpus, SimulatedGpus};

    const NOW: Duration = Duration::ZERO;

    fn gpus() -> SimulatedGpus {
        SimulatedGpus::new(GpuCapabilities { gpus: 2, ..GpuCapabilities::default() }).unwrap()
    }

    #[test]
    fn slots_are_allocated_once_and_named_by_one_handle() {
        let (gpus, slots) = (gpus(), GpuSlots::new(3, 64, &Arc::default()));
        let pool = slots.on(1);
        let mut first = pool.join();
        assert!(first.take().is_err(), "no allocation is under way");
        let allocation = pool.allocation(NOW).unwrap();
        assert!(pool.allocation(NOW).is_none(), "it is under way");
        assert!(first.take().unwrap().is_none(), "not yet");
        assert_eq!(slots.stats().gpu_bytes, 0);
        allocation.make(&gpus, NOW);
        assert!(pool.allocation(NOW).is_none() && slots.on(1).allocation(NOW).is_none());
        let taken: Vec<_> = (0..3).map(|_| first.take().unwrap().unwrap()).collect();
        assert!(first.take().unwrap().is_none());
        let places: Vec<_> = taken.iter().map(|slot| first.place(slot).unwrap()).collect();
        assert!(places.iter().all(|(handle, _)| *handle == places[0].0));
        let mut offsets: Vec<_> = places.iter().map(|(_, offset)| *offset).collect();
        offsets.sort_unstable();
        assert_eq!(offsets, [0, 64, 128]);
        // What another process would open has the slots at these places.
        let opened = gpus.open(0, &places[0].0).unwrap();
        assert_ne!(opened.address(), 0);
        let stats = slots.stats();
        assert_eq!((stats.gpu_bytes(), stats.pinned_bytes(), stats.free()), (192, 0, 0));
        taken.into_iter().for_each(Slot::release);
        assert_eq!(slots.stats().free(), 3);
        assert!(slots.on(0).why_not(NOW).is_none(), "each GPU has its own");
    }

    #[test]
    fn an_allocation_that_is_never_made_is_left_to_the_next() {
        let pool = GpuSlots::new(1, 64, &Arc::default()).on(0);
        drop(pool.allocation(NOW).unwrap());
        assert!(pool.join().take().is_err());
        pool.allocation(NOW).unwrap().make(&gpus(), NOW);
        assert!(pool.join().take().unwrap().is_some());
    }

    #[test]
    fn a_failure_is_remembered_for_a_while() {
        let pool = GpuSlots::new(1, 64, &Arc::default()).on(0);
        pool.allocation(NOW).unwrap().make(&NoGpus::default(), NOW);
        let reason = pool.why_not(NOW).unwrap();
        assert!(reason.starts_with("no slots on the GPU: "), "{reason}");
        assert!(pool.join().take().unwrap_err().to_string().contains("no slots on the GPU"));
        assert!(pool.allocation(NOW).is_none());
        let later = Duration::from_secs(1);
        assert_eq!(pool.why_not(later), None);
        pool.allocation(later).unwrap().make(&gpus(), later);
        assert_eq!(pool.why_not(later), None);
    }
}

//! The bound on the memory of slots, over all executors of the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use nixl_device::PerProcess;
use nixl_device::locks::lock;

/// What slots are made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SlotMemory {
    /// Pinned host memory, for the engine.
    Pinned,
    /// Memory of a GPU that other processes can open.
    Gpu,
}

/// The bound on the memory of staging slots, over all executors of this process. Within it each executor has
/// [its own](super::StagingConfig).
///
/// An executor reserves the memory of all its slots of a direction, or on a GPU, before it allocates them, and gives the
/// reservation back with the memory. If the rest of the bound is too small, the paths through these slots are unavailable with that
/// reason, and the executor tries again after a second while operations need them.
#[derive(Debug)]
pub struct StagingBudget {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bound: Bound,
    pinned: u64,
    on_gpus: BTreeMap<u32, u64>,
    refused: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bound {
    pinned: u64,
    each_gpu: u64,
}

/// Use of a [`StagingBudget`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BudgetStats {
    pinned_bytes: u64,
    most_pinned_bytes: u64,
    gpu_bytes: u64,
    most_gpu_bytes: u64,
    refused: u64,
}

impl BudgetStats {
    /// Reserved bytes of pinned memory.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes
    }

    /// The bound on [`pinned_bytes`](Self::pinned_bytes).
    #[must_use]
    pub fn most_pinned_bytes(&self) -> u64 {
        self.most_pinned_bytes
    }

    /// Reserved bytes of GPU memory, on the GPU with the most.
    #[must_use]
    pub fn gpu_bytes(&self) -> u64 {
        self.gpu_bytes
    }

    /// The bound on [`gpu_bytes`](Self::gpu_bytes).
    #[must_use]
    pub fn most_gpu_bytes(&self) -> u64 {
        self.most_gpu_bytes
    }

    /// Allocations refused by the bound so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

impl Default for StagingBudget {
    fn default() -> Self {
        let bound = Bound { pinned: Self::PINNED, each_gpu: Self::ON_EACH_GPU };
        let state = State { bound, pinned: 0, on_gpus: BTreeMap::new(), refused: 0 };
        Self { state: Mutex::new(state) }
    }
}

impl StagingBudget {
    /// The bound on pinned memory by default: 4 GiB.
    pub const PINNED: u64 = 4 << 30;
    /// The bound on the memory of each GPU by default: 1 GiB.
    pub const ON_EACH_GPU: u64 = 1 << 30;

    /// That of this process. A child of a fork begins with the defaults.
    #[must_use]
    pub fn of_process() -> &'static Self {
        process()
    }

    /// Bounds pinned memory, both directions together. By default [`PINNED`](Self::PINNED) bytes. A lower bound refuses further
    /// allocations and takes nothing back.
    pub fn set_pinned_bytes(&self, most: u64) {
        self.lock().bound.pinned = most;
    }

    /// Bounds the memory of each GPU. By default [`ON_EACH_GPU`](Self::ON_EACH_GPU) bytes. A lower bound refuses further allocations
    /// and takes nothing back.
    pub fn set_gpu_bytes(&self, most: u64) {
        self.lock().bound.each_gpu = most;
    }

    /// What is in use now.
    #[must_use]
    pub fn stats(&self) -> BudgetStats {
        let state = self.lock();
        BudgetStats {
            pinned_bytes: state.pinned,
            most_pinned_bytes: state.bound.pinned,
            gpu_bytes: state.on_gpus.values().copied().max().unwrap_or(0),
            most_gpu_bytes: state.bound.each_gpu,
            refused: state.refused,
        }
    }

    /// Room for slots near a GPU, or on it, until the result is dropped; or the reason why there is none.
    pub(super) fn reserve(
        self: &Arc<Self>,
        made_of: SlotMemory,
        gpu: u32,
        bytes: u64,
    ) -> Result<Reserved, String> {
        let mut state = self.lock();
        let (most, memory, setter) = match made_of {
            SlotMemory::Pinned => (state.bound.pinned, "pinned memory", "set_pinned_bytes"),
            SlotMemory::Gpu => (state.bound.each_gpu, "memory of the GPU", "set_gpu_bytes"),
        };
        let used = state.used(made_of, gpu);
        match used.checked_add(bytes).filter(|sum| *sum <= most) {
            Some(sum) => *state.used_mut(made_of, gpu) = sum,
            None => {
                state.refused = state.refused.saturating_add(1);
                return Err(format!(
                    "{bytes} bytes beside {used} of other slots are more {memory} than the {most} of this process: use smaller slots \
                     or raise StagingBudget::{setter}"
                ));
            }
        }
        drop(state);
        Ok(Reserved { budget: Arc::clone(self), made_of, gpu, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// The budget that pools of this process share.
pub(super) fn process() -> &'static Arc<StagingBudget> {
    static BUDGET: PerProcess<Arc<StagingBudget>> = PerProcess::new(Arc::default);
    BUDGET.get()
}

impl State {
    fn used(&self, made_of: SlotMemory, gpu: u32) -> u64 {
        match made_of {
            SlotMemory::Pinned => self.pinned,
            SlotMemory::Gpu => self.on_gpus.get(&gpu).copied().unwrap_or(0),
        }
    }

    fn used_mut(&mut self, made_of: SlotMemory, gpu: u32) -> &mut u64 {
        match made_of {
            SlotMemory::Pinned => &mut self.pinned,
            SlotMemory::Gpu => self.on_gpus.entry(gpu).or_default(),
        }
    }
}

/// Room of a budget.
#[derive(Debug)]
pub(super) struct Reserved {
    budget: Arc<StagingBudget>,
    made_of: SlotMemory,
    gpu: u32,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        let used = state.used_mut(self.made_of, self.gpu);
        *used = used.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::pool::SlotPool;
    use super::*;
    use crate::local::{GpuCapabilities, SimulatedGpus};

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Allocate(usize),
        Release(usize),
        Bound(u64),
    }

    /// Pools of as many executors, half of pinned memory and half of one of two GPUs.
    const POOLS: usize = 8;
    const SLOT: usize = 4096;

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..POOLS).prop_map(Step::Allocate),
            2 => (0..POOLS).prop_map(Step::Release),
            1 => (0..12u64).prop_map(Step::Bound),
        ]
    }

    fn kind(pool: usize) -> (SlotMemory, u32) {
        match pool % 4 {
            0 | 1 => (SlotMemory::Pinned, (pool % 2) as u32),
            gpu => (SlotMemory::Gpu, gpu as u32 - 2),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// All executors together take what is within the bound, all of it, and everything comes back.
        #[test]
        fn executors_share_one_bound(slots in vec(1usize..5, POOLS), steps in vec(step(), 1..60)) {
            let gpus = GpuCapabilities { gpus: 2, ..GpuCapabilities::default() };
            let gpus = SimulatedGpus::new(gpus).unwrap();
            let budget = Arc::<StagingBudget>::default();
            let pool = |i: usize| SlotPool::new(kind(i).0, slots[i], SLOT, Arc::clone(&budget));
            let pools: Vec<_> = (0..POOLS).map(pool).collect();
            let bytes = |pool: usize| (slots[pool] * SLOT) as u64;
            let mut allocated = [false; POOLS];
            let (mut most, mut refused) = (u64::MAX, 0);
            budget.set_pinned_bytes(most);
            budget.set_gpu_bytes(most);
            let key = |pool: usize| match kind(pool) {
                (SlotMemory::Pinned, _) => None,
                (SlotMemory::Gpu, gpu) => Some(gpu),
            };
            for step in steps {
                let used = |allocated: &[bool; POOLS], of| -> u64 {
                    (0..POOLS).filter(|p| allocated[*p] && key(*p) == of).map(bytes).sum()
                };
                match step {
                    Step::Allocate(pool) => {
                        let fits = used(&allocated, key(pool)) + bytes(pool) <= most;
                        let taken = pools[pool].allocate(&gpus, kind(pool).1);
                        prop_assert_eq!(taken.is_ok(), allocated[pool] || fits);
                        if let Err(reason) = &taken {
                            prop_assert!(reason.contains("StagingBudget::set_"), "{}", reason);
                            refused += 1;
                        }
                        allocated[pool] = taken.is_ok();
                    }
                    Step::Release(pool) => {
                        pools[pool].release();
                        allocated[pool] = false;
                    }
                    Step::Bound(pages) => {
                        most = pages * SLOT as u64;
                        budget.set_pinned_bytes(most);
                        budget.set_gpu_bytes(most);
                    }
                }
                let stats = budget.stats();
                prop_assert_eq!(stats.pinned_bytes(), used(&allocated, None));
                let on_gpus = [0, 1].map(|gpu| used(&allocated, Some(gpu)));
                prop_assert_eq!(stats.gpu_bytes(), on_gpus[0].max(on_gpus[1]));
                prop_assert_eq!(stats.refused(), refused);
            }
            drop(pools);
            prop_assert_eq!((budget.stats().pinned_bytes(), budget.stats().gpu_bytes()), (0, 0));
        }
    }

    #[test]
    fn memory_that_is_left_for_ever_stays_reserved() {
        let budget = Arc::<StagingBudget>::default();
        let gpus = GpuCapabilities { gpus: 1, ..GpuCapabilities::default() };
        let gpus = SimulatedGpus::new(gpus).unwrap();
        let pool = SlotPool::new(SlotMemory::Pinned, 1, SLOT, Arc::clone(&budget));
        drop(pool.allocate(&gpus, 0).unwrap());
        let member = pool.lock().join();
        assert!(pool.lock().take(member).unwrap().is_some());
        pool.lock().give_up(member);
        drop(pool);
        assert_eq!(budget.stats().pinned_bytes(), SLOT as u64, "a peer may still write to it");
    }

    #[test]
    fn executors_without_one_of_their_own_share_that_of_the_process() {
        let pools = [(); 2].map(|()| super::super::SlotPools::new(crate::StagingConfig::default()));
        let [one, other] = pools.each_ref().map(|pools| &pools.budget);
        assert!(Arc::ptr_eq(one, other) && std::ptr::eq(&**one, StagingBudget::of_process()));
    }
}

//! The slots of one piece of memory, which the connections of an executor share. Each connection registers pinned slots with its
//! engine; those on a GPU are opened by peers.

use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nixl_descriptor::{Descriptor, Region, Registration, RegistrationCache};
use nixl_device::SharedError;
use nixl_device::locks::lock;
use nixl_ops::{GaugeShare, TransportError};

use super::admission::Admission;
use super::budget::{Reserved, SlotMemory, StagingBudget};
use crate::local::GpuBackend;

/// The slots of one direction, or on one GPU. Their memory is allocated when it is first needed, and does not grow.
pub(crate) struct SlotPool {
    made_of: SlotMemory,
    slots: u16,
    slot_bytes: usize,
    budget: Arc<StagingBudget>,
    /// Locked while it is allocated, for seconds where the driver pins it.
    memory: Mutex<Option<Counted>>,
    /// The bytes of `memory`, read without its lock.
    allocated: AtomicUsize,
    admission: Mutex<Admission>,
    used: AtomicBool,
}

/// The slots of one direction for one connection, whose engine must know their memory.
pub(crate) struct RegisteredSlots {
    pool: Arc<SlotPool>,
    slab: Mutex<Option<Slab>>,
    /// Why it has none, and when that was found.
    failure: Mutex<Option<Failure>>,
}

#[derive(Clone)]
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) at: Duration,
}

impl Failure {
    /// How long no other allocation is tried.
    const RETRY: Duration = Duration::from_secs(1);

    pub(super) fn is_recent(&self, now: Duration) -> bool {
        now.saturating_sub(self.at) < Self::RETRY
    }
}

/// Memory of slots, which is in its gauge and its budget until its last user has gone.
#[derive(Clone)]
pub(super) struct Counted {
    pub(super) region: Region,
    _counted: Arc<(GaugeShare, Reserved)>,
}

#[derive(Clone)]
pub(super) struct Slab {
    pub(super) memory: Counted,
    /// That of pinned memory.
    pub(super) registration: Option<Registration>,
}

pub(super) const EXHAUSTED: &str = "every slot may still be used by peers that stalled: they come back when those peers go on or end";

/// What a pool holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SlotStats {
    pub(crate) pinned_bytes: usize,
    pub(crate) gpu_bytes: usize,
    pub(crate) free: usize,
    pub(crate) quarantined: usize,
}

impl SlotStats {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            pinned_bytes: self.pinned_bytes + other.pinned_bytes,
            gpu_bytes: self.gpu_bytes + other.gpu_bytes,
            free: self.free + other.free,
            quarantined: self.quarantined + other.quarantined,
        }
    }

    /// Bytes of pinned memory allocated.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// Bytes of GPU memory allocated.
    #[must_use]
    pub fn gpu_bytes(&self) -> usize {
        self.gpu_bytes
    }

    /// Slots that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free
    }

    /// Slots that a peer may still use, although their transfer has ended. They come back when the peer says that it does
    /// not, or is gone; those that this process's own GPU or engine may use do not.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.quarantined
    }
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

    /// Whether it was used since the last call.
    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Relaxed)
    }

    fn memory(&self) -> MutexGuard<'_, Option<Counted>> {
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

impl RegisteredSlots {
    pub(crate) fn new(pool: &Arc<SlotPool>) -> Arc<Self> {
        let pool = Arc::clone(pool);
        Arc::new(Self { pool, slab: Mutex::default(), failure: Mutex::default() })
    }

    pub(crate) fn slot_bytes(&self) -> u64 {
        self.pool.slot_bytes()
    }

    /// Counts as a use.
    pub(crate) fn is_ready(&self) -> bool {
        self.pool.used.store(true, Relaxed);
        self.slab().is_some()
    }

    /// Whether the slots should be allocated or registered now.
    pub(crate) fn wants_memory(&self, now: Duration) -> bool {
        let waits = |failure: &Failure| failure.is_recent(now);
        !self.is_ready() && !self.failure().as_ref().is_some_and(waits)
    }

    /// Why no operation gets a slot, if that is known.
    pub(crate) fn why_not(&self) -> Option<String> {
        if self.slab().is_some() {
            let exhausted = self.pool.lock().usable() == 0;
            return exhausted.then(|| EXHAUSTED.to_owned());
        }
        self.failure().as_ref().map(|failure| format!("no pinned slots: {}", failure.reason))
    }

    /// Allocates the slots near a GPU and registers them, unless that has been done. **Blocks.** Called on the
    /// connection's own thread only, so never twice at a time. A failure is [remembered](Self::why_not).
    pub(crate) fn make_ready(
        &self,
        gpus: &dyn GpuBackend,
        gpu: u32,
        registrations: &RegistrationCache,
        now: Duration,
    ) {
        if !self.wants_memory(now) {
            return;
        }
        let slab = self.pool.allocate(gpus, gpu).and_then(|memory| {
            let registration = registrations.get_or_register(&memory.region);
            Ok(Slab { registration: Some(registration.map_err(|e| e.to_string())?), memory })
        });
        match slab {
            Ok(slab) => {
                *self.slab() = Some(slab);
                *self.failure() = None;
            }
            Err(reason) => {
                tracing::warn!(gpu, %reason, "no pinned slots: transfers that need them take another path");
                *self.failure() = Some(Failure { reason, at: now });
            }
        }
    }

    /// *Blocking.* Releases the memory. Transfers in flight keep it.
    pub(crate) fn release(&self) {
        let released = self.slab().take();
        drop(released);
    }

    pub(crate) fn join(&self) -> Member {
        Member::new(&self.pool, self.slab().clone())
    }

    fn slab(&self) -> MutexGuard<'_, Option<Slab>> {
        lock(&self.slab)
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        lock(&self.failure)
    }
}

impl fmt::Debug for RegisteredSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisteredSlots").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl fmt::Debug for SlotPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// A session's claim to slots of a pool.
pub(crate) struct Member {
    pool: Arc<SlotPool>,
    /// The memory as long as this lasts. None if there is none yet.
    pub(super) slab: Option<Slab>,
    id: u64,
}

impl Member {
    pub(super) fn new(pool: &Arc<SlotPool>, slab: Option<Slab>) -> Self {
        let id = pool.lock().join();
        Self { pool: Arc::clone(pool), slab, id }
    }

    /// A slot, if one is free and it is this session's turn.
    ///
    /// # Errors
    ///
    /// If there will never be one.
    pub(crate) fn take(&self) -> Result<Option<Slot>, TransportError> {
        let Some(slab) = &self.slab else {
            return Err(failed("no slots were allocated"));
        };
        let taken = self.pool.lock().take(self.id).map_err(|_| failed(EXHAUSTED))?;
        Ok(taken.map(|index| Slot {
            pool: Arc::clone(&self.pool),
            member: self.id,
            index,
            slab: slab.clone(),
            state: SlotState::Held,
        }))
    }

    /// Withdraws the request for further slots, which would keep other members waiting.
    pub(crate) fn settle(&self) {
        self.pool.lock().settle(self.id);
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.pool.lock().leave(self.id);
    }
}

/// A slot. Unless it is [released](Self::release), dropping it retires it for ever: a peer may still write to it.
pub(crate) struct Slot {
    pool: Arc<SlotPool>,
    member: u64,
    index: u16,
    slab: Slab,
    state: SlotState,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SlotState {
    Held,
    /// Its transfer has ended, and the peer may still write to it.
    Quarantined,
    Released,
}

impl Slot {
    /// No GPU, engine or peer uses it any more.
    pub(crate) fn release(mut self) {
        match mem::replace(&mut self.state, SlotState::Released) {
            SlotState::Quarantined => self.pool.lock().restore(self.index),
            _ => self.pool.lock().put(self.member, self.index),
        }
    }

    /// Its transfer has ended, and the peer may still write to it. It is not waited for any more.
    pub(crate) fn quarantine(&mut self) {
        if self.state == SlotState::Held {
            self.state = SlotState::Quarantined;
            self.pool.lock().give_up(self.member);
        }
    }

    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    fn offset(&self) -> usize {
        // Inside the slab, whose length was checked.
        usize::from(self.index) * self.pool.slot_bytes
    }

    pub(crate) fn address(&self) -> u64 {
        self.slab.memory.region.address() + self.offset() as u64
    }

    /// Where it is, and how long.
    pub(crate) fn range(&self) -> (u64, u64) {
        (self.address(), self.len())
    }

    pub(crate) fn len(&self) -> u64 {
        self.pool.slot_bytes()
    }

    /// Of pinned memory.
    pub(crate) fn registrations(&self) -> Vec<Registration> {
        self.slab.registration.iter().cloned().collect()
    }

    /// `len` of its bytes, from `offset` on.
    pub(crate) fn part(&self, offset: u64, len: u64) -> Result<Descriptor, TransportError> {
        let whole = self.offset()..self.offset() + self.pool.slot_bytes;
        let range = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        self.slab
            .memory
            .region
            .descriptor(whole)
            .and_then(|slot| slot.slice(range(offset)..range(offset.saturating_add(len))))
            .map_err(failed_by)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.state == SlotState::Held {
            self.pool.lock().give_up(self.member);
        }
        if self.state != SlotState::Released {
            tracing::error!(
                slot = self.index,
                bytes = self.pool.slot_bytes,
                "a staged transfer never became quiet; its slot is given up"
            );
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("index", &self.index).finish_non_exhaustive()
    }
}

pub(super) fn failed(reason: impl Into<Cow<'static, str>>) -> TransportError {
    failed_by(SharedError::text(reason))
}

fn failed_by(error: impl Into<SharedError>) -> TransportError {
    TransportError::Engine { engine: "staging", call: "prepare", reason: error.into() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
        with_local_recorder,
    };
    use nixl_connector::simulated::Fabric;
    use nixl_descriptor::CacheLimits;
    use nixl_ops::{SystemClock, Transport};

    use super::super::{SlotPools, StagingConfig};
    use super::*;
    use crate::local::{GpuCapabilities, SimulatedGpus};

    struct Connection {
        slots: Arc<RegisteredSlots>,
        registrations: RegistrationCache,
        _transport: Arc<dyn Transport>,
    }

    impl Connection {
        fn new(pools: &SlotPools, name: &str) -> Self {
            let transport = Fabric::new(Arc::new(SystemClock::new())).transport(name);
            let registrations =
                RegistrationCache::new(transport.registrar(), CacheLimits::default());
            let slots = RegisteredSlots::new(&pools.incoming);
            Self { slots, registrations, _transport: transport }
        }

        fn make_ready(&self, gpus: &dyn GpuBackend) {
            self.slots.make_ready(gpus, 0, &self.registrations, Duration::ZERO);
            assert!(self.slots.is_ready());
        }
    }

    /// Keeps the one gauge of pinned memory.
    #[derive(Default)]
    struct PinnedGauge(Arc<AtomicU64>);

    impl Recorder for PinnedGauge {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            assert_eq!(key.name(), "nixl_pinned_bytes");
            Gauge::from_arc(Arc::clone(&self.0))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn slots_count_as_pinned_until_their_last_user_has_gone() {
        let gauge = PinnedGauge::default();
        let pinned = Arc::clone(&gauge.0);
        let pinned = || f64::from_bits(pinned.load(Relaxed));
        with_local_recorder(&gauge, || {
            let gpus = GpuCapabilities { gpus: 1, ..GpuCapabilities::default() };
            let gpus = SimulatedGpus::new(gpus).unwrap();
            let mut config = StagingConfig::default();
            (config.slot_bytes, config.slots) = (64, 2);
            let pools = SlotPools::new(config);
            let [one, other] = ["one", "other"].map(|name| Connection::new(&pools, name));
            one.make_ready(&gpus);
            let len = pools.incoming.stats().pinned_bytes as f64;
            assert!(len >= 128.0);
            assert_eq!(pinned(), len);
            other.make_ready(&gpus);
            assert_eq!(pinned(), len, "shared, so counted once");
            one.slots.release();
            pools.release();
            assert_eq!(pinned(), len, "the other connection keeps it");
            other.slots.release();
            assert_eq!(pinned(), 0.0);
        });
    }

    #[test]
    fn connections_share_the_memory_and_idle_memory_goes_back() {
        let gpus =
            SimulatedGpus::new(GpuCapabilities { gpus: 1, ..GpuCapabilities::default() }).unwrap();
        let mut config = StagingConfig::default();
        (config.slot_bytes, config.slots) = (64, 2);
        let pools = SlotPools::new(config);
        let [one, other] = ["one", "other"].map(|name| Connection::new(&pools, name));
        one.make_ready(&gpus);
        other.make_ready(&gpus);
        let slots = [&one, &other].map(|connection| connection.slots.join());
        let [a, b] = slots.each_ref().map(|member| member.take().unwrap().unwrap());
        assert_eq!(a.address().abs_diff(b.address()), 64, "slots of one piece of memory");
        assert_eq!(pools.incoming.stats().pinned_bytes, 128);
        assert!(!pools.are_idle(), "it was used since it was last looked at");
        assert!(pools.are_idle());
        // Not while a session may write to it.
        pools.release();
        assert_eq!(pools.incoming.stats().pinned_bytes, 128);
        a.release();
        b.release();
        drop(slots);
        one.slots.release();
        other.slots.release();
        pools.release();
        assert_eq!(pools.incoming.stats(), SlotStats { free: 2, ..SlotStats::default() });
        assert!(!pools.are_allocated() && !one.slots.is_ready());
        one.make_ready(&gpus);
        assert!(one.slots.join().take().unwrap().is_some());
    }

    #[test]
    fn no_other_thread_waits_for_memory_that_is_being_pinned() {
        let pools = SlotPools::new(StagingConfig::default());
        let pinning = pools.incoming.memory();
        let (asked, answers) = std::sync::mpsc::channel();
        let others = pools.clone();
        let asking = std::thread::spawn(move || {
            let bytes = others.incoming.stats().pinned_bytes;
            asked.send((others.are_allocated(), bytes)).unwrap();
        });
        assert_eq!(answers.recv_timeout(Duration::from_secs(10)), Ok((false, 0)));
        drop(pinning);
        asking.join().unwrap();
    }

    #[test]
    fn memory_that_a_peer_may_write_to_is_not_given_back() {
        let gpus =
            SimulatedGpus::new(GpuCapabilities { gpus: 1, ..GpuCapabilities::default() }).unwrap();
        let pools = SlotPools::new(StagingConfig::default());
        let connection = Connection::new(&pools, "one");
        connection.make_ready(&gpus);
        let mut slot = connection.slots.join().take().unwrap().unwrap();
        slot.quarantine();
        let stats = pools.incoming.stats();
        assert_eq!((stats.free, stats.quarantined), (15, 1));
        pools.release();
        assert!(pools.are_allocated());
        slot.release();
        assert_eq!(pools.incoming.stats().free, 16);
        pools.release();
        assert!(!pools.are_allocated());
    }
}

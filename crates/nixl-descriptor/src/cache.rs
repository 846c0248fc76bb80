//! The registration cache: every region is registered once per engine.
//!
//! The hold on a cached registration is a *slot* that the region and the cache share. The region finds its slot without
//! a search through the cache, and empties it when it goes; the cache empties it to evict. Neither keeps the other
//! alive, and no lock but the slot's own `registering` is held while an engine works.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use nixl_device::LeakInChild;
use nixl_device::locks::{lock, try_lock};

use crate::region::{ReclaimError, Region, RegionId};
use crate::registration::{RegisterError, Registrar, Registration};

/// How much a [`RegistrationCache`] may keep registered that is not in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CacheLimits {
    entries: usize,
    bytes: u64,
}

impl CacheLimits {
    /// At most this many regions, by default 1024; zero turns the cache off. At most this many bytes of all those regions, by
    /// default any number. A larger region is registered for each use, so leave room for the largest.
    #[must_use]
    pub const fn new(entries: usize, bytes: u64) -> Self {
        Self { entries, bytes }
    }

    /// Number of regions.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.entries
    }

    /// Bytes of all those regions.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// 1024 regions of any size.
impl Default for CacheLimits {
    fn default() -> Self {
        Self { entries: 1024, bytes: u64::MAX }
    }
}

/// What a [`RegistrationCache`] did and holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheStats {
    hits: u64,
    misses: u64,
    evictions: u64,
    entries: usize,
    pub(crate) bytes: u64,
}

impl CacheStats {
    /// Lookups that found a registration.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Calls of the engine to register.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses
    }

    /// Registrations given up to stay within the limits.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Regions cached now.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Bytes of the regions cached now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Registrations with one engine, kept for the next use of the same region.
///
/// Bounded; the least recently used goes first. To evict is to give up the cache's hold: a [`Registration`] that
/// in use lives on. An entry goes when its region does, and all go when the cache does. Buffers of one slab of the
/// [`BufferPool`](crate::BufferPool) have one registration, that of the slab.
#[derive(Debug)]
pub struct RegistrationCache {
    shared: LeakInChild<Arc<Shared>>,
}

impl RegistrationCache {
    /// A cache in front of `registrar`.
    #[must_use]
    pub fn new(registrar: Arc<dyn Registrar>, limits: CacheLimits) -> Self {
        Self { shared: LeakInChild::new(Arc::new(Shared::new(registrar, limits))) }
    }

    /// The region's registration, if it is cached. Never blocks on the engine and does not allocate.
    #[must_use]
    pub fn get(&self, region: &Region) -> Option<Registration> {
        let region = region.whole_region();
        let registration = region.engine_caches().get(&self.shared)?;
        self.shared.hits.fetch_add(1, Relaxed);
        Some(registration)
    }

    /// The region's registration, registering it if it is not cached. **Blocks** in that case; threads that ask for the
    /// same region at the same time wait for one registration.
    ///
    /// # Errors
    /// The registrar's error; nothing is cached then.
    pub fn get_or_register(&self, region: &Region) -> Result<Registration, RegisterError> {
        if let Some(registration) = self.get(region) {
            return Ok(registration);
        }
        let region = region.whole_region();
        let slot = region.engine_caches().slot(&self.shared, region.len() as u64);
        let _registering = lock(&slot.registering);
        if let Some(registration) = self.get(region) {
            return Ok(registration);
        }
        self.shared.misses.fetch_add(1, Relaxed);
        let registration = Registration::new(&self.shared.registrar, region)?;
        self.shared.admit(region.id(), &slot, &registration);
        Ok(registration)
    }

    /// As [`get_or_register`](Self::get_or_register), if the region is cached or the engine registers it
    /// [quickly](Registrar::register_quickly). `None` if it would block.
    ///
    /// # Errors
    /// As there.
    pub fn get_or_register_quickly(
        &self,
        region: &Region,
    ) -> Option<Result<Registration, RegisterError>> {
        if let Some(registration) = self.get(region) {
            return Some(Ok(registration));
        }
        let region = region.whole_region();
        let slot = region.engine_caches().slot(&self.shared, region.len() as u64);
        let _registering = try_lock(&slot.registering)?;
        if let Some(registration) = self.get(region) {
            return Some(Ok(registration));
        }
        let registration = Registration::quickly(&self.shared.registrar, region)?;
        self.shared.misses.fetch_add(1, Relaxed);
        Some(registration.inspect(|made| self.shared.admit(region.id(), &slot, made)))
    }

    /// Gives up the cache's hold on the region's registration, which then ends with its last handle. Does not block on the engine.
    pub fn evict(&self, region: &Region) {
        let evicted = lock(&self.shared.entries).remove(region.whole_region().id());
        // Outside the lock: the last handle may go here, and its registrar deregisters.
        evicted.into_iter().for_each(|slot| slot.empty());
    }

    /// Registrations that the cache has made. One that is counted is in what the engine exports from then on.
    #[must_use]
    pub fn registered(&self) -> u64 {
        self.shared.registered.load(Acquire)
    }

    /// Counters since the cache was made, and what it holds now.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let entries = lock(&self.shared.entries);
        CacheStats {
            hits: self.shared.hits.load(Relaxed),
            misses: self.shared.misses.load(Relaxed),
            evictions: self.shared.evictions.load(Relaxed),
            entries: entries.slots.len(),
            bytes: entries.bytes,
        }
    }
}

impl Drop for RegistrationCache {
    fn drop(&mut self) {
        if self.shared.is_inherited() {
            return;
        }
        let slots = std::mem::take(&mut *lock(&self.shared.entries)).slots;
        for slot in slots.into_values() {
            slot.empty();
        }
    }
}

#[derive(Debug)]
struct Shared {
    registrar: Arc<dyn Registrar>,
    limits: CacheLimits,
    entries: Mutex<Entries>,
    /// Counts uses; a slot keeps its value at the last use.
    clock: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    registered: AtomicU64,
    evictions: AtomicU64,
}

/// The slots that hold a registration, and the sum of their bytes.
#[derive(Debug, Default)]
struct Entries {
    slots: HashMap<RegionId, Arc<Slot>>,
    bytes: u64,
}

impl Shared {
    fn new(registrar: Arc<dyn Registrar>, limits: CacheLimits) -> Self {
        Self {
            registrar,
            limits,
            entries: Mutex::default(),
            clock: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            registered: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        }
    }

    /// Caches a registration, evicting others as needed; not if it alone exceeds the limits.
    fn admit(&self, region: RegionId, slot: &Arc<Slot>, registration: &Registration) {
        self.registered.fetch_add(1, Release);
        if self.limits.entries == 0 || slot.bytes > self.limits.bytes {
            return;
        }
        let mut evicted = Vec::new();
        let mut entries = lock(&self.entries);
        slot.fill(registration.clone(), self.tick());
        entries.insert(region, Arc::clone(slot));
        while entries.slots.len() > self.limits.entries || entries.bytes > self.limits.bytes {
            let Some(oldest) = entries.oldest() else {
                break;
            };
            evicted.extend(entries.remove(oldest));
        }
        drop(entries);
        self.evictions.fetch_add(evicted.len() as u64, Relaxed);
        // Outside the lock: the last handle may go here, and its registrar deregisters.
        for slot in evicted {
            slot.empty();
        }
    }

    fn forget(&self, region: RegionId) {
        let removed = lock(&self.entries).remove(region);
        drop(removed);
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Relaxed)
    }
}

impl Entries {
    fn insert(&mut self, region: RegionId, slot: Arc<Slot>) {
        self.remove(region);
        // Cannot wrap: a sum of sizes of memory that exists at the same time.
        self.bytes += slot.bytes;
        self.slots.insert(region, slot);
    }

    fn remove(&mut self, region: RegionId) -> Option<Arc<Slot>> {
        let slot = self.slots.remove(&region)?;
        self.bytes -= slot.bytes;
        Some(slot)
    }

    /// A scan, because it is made once per registration, which costs a thousand times as much.
    fn oldest(&self) -> Option<RegionId> {
        self.slots
            .iter()
            .min_by_key(|(_, slot)| slot.last_used.load(Relaxed))
            .map(|(region, _)| *region)
    }
}

/// The place of one region's registration in one cache.
#[derive(Debug)]
struct Slot {
    cache: Weak<Shared>,
    bytes: u64,
    last_used: AtomicU64,
    current: Mutex<Option<Registration>>,
    /// Held while the engine registers, so that it does so once.
    registering: Mutex<()>,
}

impl Slot {
    fn new(cache: &Arc<Shared>, bytes: u64) -> Self {
        Self {
            cache: Arc::downgrade(cache),
            bytes,
            last_used: AtomicU64::new(0),
            current: Mutex::default(),
            registering: Mutex::default(),
        }
    }

    /// The registration, used now.
    fn current(&self, cache: &Shared) -> Option<Registration> {
        let registration = lock(&self.current).clone()?;
        self.last_used.store(cache.tick(), Relaxed);
        Some(registration)
    }

    fn belongs_to(&self, cache: &Arc<Shared>) -> bool {
        Weak::as_ptr(&self.cache) == Arc::as_ptr(cache)
    }

    fn fill(&self, registration: Registration, now: u64) {
        self.last_used.store(now, Relaxed);
        *lock(&self.current) = Some(registration);
    }

    fn empty(&self) {
        // Taken out first: what dropping it does must not happen under the lock.
        let registration = lock(&self.current).take();
        drop(registration);
    }
}

/// A region's slots, one for each cache that it was used with. Most regions are used with one, whose slot is found without a lock.
#[derive(Debug, Default)]
pub(crate) struct EngineCaches {
    first: OnceLock<Arc<Slot>>,
    more: Mutex<Vec<Arc<Slot>>>,
}

impl EngineCaches {
    fn get(&self, cache: &Arc<Shared>) -> Option<Registration> {
        match self.first.get()? {
            first if first.belongs_to(cache) => first.current(cache),
            _ => lock(&self.more).iter().find(|slot| slot.belongs_to(cache))?.current(cache),
        }
    }

    /// This region's slot in `cache`, made if need be.
    fn slot(&self, cache: &Arc<Shared>, bytes: u64) -> Arc<Slot> {
        let made = || Arc::new(Slot::new(cache, bytes));
        let first = self.first.get_or_init(made);
        if first.belongs_to(cache) {
            return Arc::clone(first);
        }
        let mut more = lock(&self.more);
        if let Some(slot) = more.iter().find(|slot| slot.belongs_to(cache)) {
            return Arc::clone(slot);
        }
        more.retain(|slot| slot.cache.strong_count() > 0);
        let slot = made();
        more.push(Arc::clone(&slot));
        slot
    }

    /// Gives up all registrations, because the region is going, or will not be used again. Does not block on an engine.
    pub(crate) fn retire_all(&self, region: RegionId) {
        let more = std::mem::take(&mut *lock(&self.more));
        // The first stays, empty, for the next registration.
        for slot in self.first.get().into_iter().chain(&more) {
            if let Some(cache) = slot.cache.upgrade() {
                cache.forget(region);
            }
            slot.empty();
        }
    }

    /// Deregisters all registrations and waits for it, because the memory is to be taken back. Stops at the first that
    /// is in use, or that an engine fails to deregister.
    pub(crate) fn deregister_all(&mut self, region: RegionId) -> Result<(), ReclaimError> {
        for slot in self.first.get().into_iter().chain(lock(&self.more).iter()) {
            let mut current = lock(&slot.current);
            // Only the holder of this lock can make more handles of a sole one.
            if current.as_ref().is_some_and(|registration| !registration.is_sole()) {
                return Err(ReclaimError::Registered);
            }
            let registration = current.take();
            drop(current);
            if let Some(cache) = slot.cache.upgrade() {
                cache.forget(region);
            }
            if let Some(retired) = registration.and_then(Registration::into_retired) {
                retired.deregister().map_err(ReclaimError::Deregister)?;
            }
        }
        Ok(())
    }
}

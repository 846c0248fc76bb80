//! The registration cache against a model, and between threads.
#![allow(unsafe_code, reason = "implements traits that are trusted with memory")]

use std::collections::VecDeque;
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;

use nixl_descriptor::{
    CacheLimits, Region, RegionSpan, RegisterError, Registered, Registrar, RegistrarId,
    Registration, RegistrationCache, Retired,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::fake::{Engine, Log};

#[derive(Clone, Debug)]
enum Step {
    NewRegion(usize),
    DropRegion(Index),
    Reclaim(Index),
    Get(Index),
    GetOrRegister(Index),
    Release(Index),
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..40usize).prop_map(Step::NewRegion),
        1 => any::<Index>().prop_map(Step::DropRegion),
        1 => any::<Index>().prop_map(Step::Reclaim),
        2 => any::<Index>().prop_map(Step::Get),
        6 => any::<Index>().prop_map(Step::GetOrRegister),
        3 => any::<Index>().prop_map(Step::Release),
        1 => Just(Step::Settle),
    ]
}

/// Which regions are cached, by position of their id in the test; the least recently used first.
struct Model {
    limits: CacheLimits,
    cached: VecDeque<(usize, u64)>,
    evictions: u64,
    hits: u64,
    misses: u64,
}

impl Model {
    fn bytes(&self) -> u64 {
        self.cached.iter().map(|(_, bytes)| bytes).sum()
    }

    fn forget(&mut self, name: usize) -> Option<(usize, u64)> {
        let at = self.cached.iter().position(|(cached, _)| *cached == name)?;
        self.cached.remove(at)
    }

    fn hit(&mut self, name: usize) -> bool {
        let Some(entry) = self.forget(name) else { return false };
        self.cached.push_back(entry);
        self.hits += 1;
        true
    }

    fn miss(&mut self, name: usize, bytes: u64) {
        self.misses += 1;
        if self.limits.entries() == 0 || bytes > self.limits.bytes() {
            return;
        }
        self.cached.push_back((name, bytes));
        while self.cached.len() > self.limits.entries() || self.bytes() > self.limits.bytes() {
            self.cached.pop_front();
            self.evictions += 1;
        }
    }
}

proptest! {
    #[test]
    fn the_cache_agrees_with_the_model(
        steps in prop::collection::vec(step(), 1..80), entries in 0..5usize, bytes in 20..120u64,
    ) {
        let limits = CacheLimits::new(entries, bytes);
        let log = Log::default();
        let engine = Engine::new(&log);
        let cache = RegistrationCache::new(Arc::clone(&engine) as Arc<dyn Registrar>, limits);
        let mut model = Model { limits, cached: VecDeque::new(), evictions: 0, hits: 0, misses: 0 };
        let mut regions: Vec<(usize, Region)> = Vec::new();
        let mut held: Vec<Registration> = Vec::new();
        let mut names = 0;

        for step in steps {
            match step {
                Step::NewRegion(len) => {
                    regions.push((names, log.region(len)));
                    names += 1;
                }
                Step::Release(index) if !held.is_empty() => drop(held.swap_remove(index.index(held.len()))),
                Step::Settle => prop_assert_eq!(engine.settle(), 0),
                _ if regions.is_empty() => {}
                Step::DropRegion(index) => {
                    let (name, region) = regions.swap_remove(index.index(regions.len()));
                    drop(region);
                    model.forget(name);
                }
                Step::Reclaim(index) => {
                    let (name, region) = regions.swap_remove(index.index(regions.len()));
                    let in_use = held.iter().any(|held| held.span().address() == region.address());
                    match region.try_into_inner::<bytes::Bytes>() {
                        Ok(_) => {
                            prop_assert!(!in_use);
                            model.forget(name);
                        }
                        Err(refused) => {
                            // In use, or not yet deregistered; a cached one that is in use stays cached.
                            let cached = model.cached.iter().any(|(cached, _)| *cached == name);
                            prop_assert!(in_use || engine.retired() > 0);
                            let still = cache.get(refused.region()).is_some();
                            if still {
                                prop_assert!(model.hit(name));
                            } else if cached {
                                model.forget(name);
                            }
                            regions.push((name, refused.into_region()));
                        }
                    }
                }
                Step::Get(index) => {
                    let (name, region) = &regions[index.index(regions.len())];
                    prop_assert_eq!(cache.get(region).is_some(), model.hit(*name));
                }
                Step::GetOrRegister(index) => {
                    let (name, region) = &regions[index.index(regions.len())];
                    let before = log.registered();
                    let registration = cache.get_or_register(region).unwrap();
                    prop_assert_eq!(registration.span().address(), region.address());
                    prop_assert_eq!(registration.span().len(), region.len());
                    held.push(registration);
                    if model.hit(*name) {
                        prop_assert_eq!(log.registered(), before, "a hit costs no registration");
                    } else {
                        model.miss(*name, region.len() as u64);
                        prop_assert_eq!(log.registered(), before + 1);
                    }
                }
                Step::Release(_) => {}
            }
            let stats = cache.stats();
            prop_assert!(stats.entries() <= limits.entries() && stats.bytes() <= limits.bytes());
            prop_assert_eq!((stats.entries(), stats.bytes()), (model.cached.len(), model.bytes()));
            prop_assert_eq!((stats.hits(), stats.misses(), stats.evictions()), (model.hits, model.misses, model.evictions));
            log.check();
        }

        drop((held, regions, cache));
        engine.settle();
        log.check();
        prop_assert_eq!(log.registered(), log.deregistered());
        prop_assert_eq!(log.freed(), names);
    }
}

#[test]
fn threads_that_miss_together_register_once() {
    let log = Log::default();
    let engine = Engine::new(&log);
    let cache = RegistrationCache::new(engine, CacheLimits::default());
    let region = log.region(8);
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                cache.get_or_register(&region).unwrap();
            });
        }
    });
    assert_eq!(log.registered(), 1);
    assert_eq!((cache.stats().misses(), cache.stats().hits()), (1, 3));
}

#[test]
fn a_region_has_a_registration_in_each_cache() {
    let log = Log::default();
    let cache = || RegistrationCache::new(Engine::new(&log), CacheLimits::default());
    let (region, first, second) = (log.region(8), cache(), cache());
    for _ in 0..2 {
        drop(first.get_or_register(&region).unwrap());
        drop(second.get_or_register(&region).unwrap());
    }
    assert_eq!(log.registered(), 2);
    drop(first);
    let third = cache();
    assert!(second.get(&region).is_some() && third.get(&region).is_none());
    drop(third.get_or_register(&region).unwrap());
    assert!(second.get(&region).is_some() && third.get(&region).is_some());
    drop(region);
    assert_eq!([second, third].map(|cache| cache.stats().entries()), [0, 0]);
}

#[test]
fn eviction_spares_a_registration_in_use() {
    let log = Log::default();
    let engine = Engine::new(&log);
    let limits = CacheLimits::new(1, u64::MAX);
    let cache = RegistrationCache::new(Arc::clone(&engine) as Arc<dyn Registrar>, limits);
    let (a, b) = (log.region(8), log.region(8));
    let used = cache.get_or_register(&a).unwrap();
    drop(cache.get_or_register(&b).unwrap());
    assert!(cache.get(&a).is_none());
    assert_eq!(engine.retired(), 0);
    drop(used);
    assert_eq!(engine.retired(), 1);
}

#[test]
fn what_is_evicted_by_its_region_ends_with_its_last_handle() {
    let log = Log::default();
    let engine = Engine::new(&log);
    let registrar = Arc::clone(&engine) as Arc<dyn Registrar>;
    let cache = RegistrationCache::new(registrar, CacheLimits::default());
    let (a, b) = (log.region(8), log.region(8));
    let used = cache.get_or_register(&a).unwrap();
    cache.evict(&a);
    cache.evict(&b);
    assert!(cache.get(&a).is_none());
    assert_eq!((engine.retired(), cache.stats().entries(), cache.stats().bytes()), (0, 0, 0));
    drop(used);
    assert_eq!(engine.retired(), 1);
    drop(cache.get_or_register(&a).unwrap());
    assert_eq!((cache.stats().misses(), cache.stats().entries()), (2, 1));
    cache.evict(&a);
    assert_eq!(engine.retired(), 2);
}

/// Registers only when told to.
#[derive(Debug)]
struct Slow {
    entered: Mutex<mpsc::Sender<()>>,
    go: Mutex<mpsc::Receiver<()>>,
}

#[derive(Debug)]
struct Nothing;

// SAFETY: there is no engine behind it, so nothing touches the memory.
unsafe impl Registered for Nothing {
    fn deregister(self: Box<Self>) -> Result<(), RegisterError> {
        Ok(())
    }
}

// SAFETY: there is no engine behind it, so nothing touches the memory.
unsafe impl Registrar for Slow {
    fn id(&self) -> RegistrarId {
        RegistrarId::new()
    }

    fn register(&self, _: &RegionSpan) -> Result<Box<dyn Registered>, RegisterError> {
        self.entered.lock().unwrap().send(()).unwrap();
        self.go.lock().unwrap().recv().unwrap();
        Ok(Box::new(Nothing))
    }

    fn retire(&self, retired: Retired) {
        drop(retired);
    }
}

#[test]
fn looking_up_does_not_wait_for_the_engine() {
    let (entered_sender, entered) = mpsc::channel();
    let (go, go_receiver) = mpsc::channel();
    let slow = Slow { entered: Mutex::new(entered_sender), go: Mutex::new(go_receiver) };
    let cache = RegistrationCache::new(Arc::new(slow), CacheLimits::default());
    let region = Region::zeroed(8).unwrap();
    thread::scope(|scope| {
        let registering = scope.spawn(|| cache.get_or_register(&region).map(drop));
        entered.recv().unwrap();
        assert!(cache.get(&region).is_none());
        assert_eq!(cache.stats().entries(), 0);
        go.send(()).unwrap();
        registering.join().unwrap().unwrap();
    });
    assert!(cache.get(&region).is_some());
}

/// Everything at once: no deadlock, nothing freed while registered, and the books balance.
#[test]
fn threads_use_drop_and_evict() {
    let rounds = if cfg!(miri) { 5 } else { 300 };
    let log = Log::default();
    let engine = Engine::new(&log);
    let limits = CacheLimits::new(2, 64);
    let cache = RegistrationCache::new(Arc::clone(&engine) as Arc<dyn Registrar>, limits);
    let shared: Vec<Region> = (0..3).map(|_| log.region(16)).collect();
    thread::scope(|scope| {
        for thread in 0..3 {
            let (log, engine, cache, shared) = (&log, &engine, &cache, &shared);
            scope.spawn(move || {
                for round in 0..rounds {
                    let registration =
                        cache.get_or_register(&shared[(thread + round) % 3]).unwrap();
                    let own = log.region(16);
                    drop(cache.get_or_register(&own).unwrap());
                    drop(registration);
                    match own.try_into_inner::<bytes::Bytes>() {
                        Ok(memory) => drop(memory),
                        Err(refused) => drop(refused.into_region()),
                    }
                    engine.settle();
                }
            });
        }
    });
    let stats = cache.stats();
    assert!(stats.entries() <= 2 && stats.bytes() <= 64);
    drop((shared, cache));
    engine.settle();
    assert_eq!(log.registered(), log.deregistered());
    assert_eq!(log.freed(), 3 + 3 * rounds);
}

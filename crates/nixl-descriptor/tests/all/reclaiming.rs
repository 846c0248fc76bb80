//! Memory comes back when no other handle can touch it, and is freed only then.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use nixl_descriptor::{
    CacheLimits, LeaseMode, Leases, Reclaim, ReclaimError, Region, Registrar, Registration,
    RegistrationCache,
};

use crate::fake::{Engine, Event, Log, refusal};

fn cache(engine: &Arc<Engine>) -> RegistrationCache {
    RegistrationCache::new(Arc::clone(engine) as Arc<dyn Registrar>, CacheLimits::default())
}

/// Tries to take the memory back, expecting a refusal; the region again.
fn refused(region: Region, expected: &ReclaimError) -> Region {
    let (region, reason) = parts(region.try_into_inner::<Bytes>().unwrap_err());
    assert_eq!(reason, *expected);
    region
}

fn parts(refused: Reclaim) -> (Region, ReclaimError) {
    let reason = refused.reason().clone();
    (refused.into_region(), reason)
}

#[test]
fn other_handles_keep_the_memory() {
    let region = Log::default().region(16);
    let other = region.clone();
    let region = refused(region, &ReclaimError::Shared);
    drop(other);
    let part = region.descriptor(2..3).unwrap();
    let region = refused(region, &ReclaimError::Shared);
    drop(part);
    let lease = Leases::acquire(&[region.whole()], LeaseMode::Read).unwrap();
    let region = refused(region, &ReclaimError::Shared);
    drop(lease);
    assert!(region.try_into_inner::<Bytes>().is_ok());
}

#[test]
fn the_wrong_type_is_refused_and_costs_nothing() {
    let (log, region) = tracked();
    let engine = Engine::new(&log);
    let cache = cache(&engine);
    drop(cache.get_or_register(&region).unwrap());
    let (region, reason) = parts(region.try_into_vec().unwrap_err());
    assert!(matches!(reason, ReclaimError::WrongType { .. }));
    assert!(cache.get(&region).is_some(), "the registration stays");
}

fn tracked() -> (Log, Region) {
    let log = Log::default();
    let region = log.region(16);
    (log, region)
}

#[test]
fn cached_registrations_end_before_the_memory_comes_back() {
    let (log, region) = tracked();
    let engines = [Engine::new(&log), Engine::new(&log)];
    let caches = engines.each_ref().map(cache);
    for cache in &caches {
        drop(cache.get_or_register(&region).unwrap());
    }
    let memory = region.try_into_inner::<Bytes>().unwrap();
    assert_eq!((log.registered(), log.deregistered(), log.freed()), (2, 2, 0));
    assert!(caches.iter().all(|cache| cache.stats().entries() == 0 && cache.stats().bytes() == 0));
    assert!(engines.iter().all(|engine| engine.retired() == 0), "deregistered at once");
    drop(memory);
    log.check();
    assert_eq!(log.freed(), 1);
}

#[test]
fn a_registration_in_use_keeps_the_memory() {
    let (log, region) = tracked();
    let engine = Engine::new(&log);
    let cache = cache(&engine);
    let registration = cache.get_or_register(&region).unwrap();
    let region = refused(region, &ReclaimError::Registered);
    drop(registration);
    assert!(region.try_into_inner::<Bytes>().is_ok());
    log.check();
}

#[test]
fn a_deregistration_under_way_keeps_the_memory() {
    let (log, region) = tracked();
    let engine = Engine::new(&log);
    let registrar: Arc<dyn Registrar> = Arc::clone(&engine) as _;
    let registration = Registration::new(&registrar, &region).unwrap();
    assert_eq!(registration.registrar(), engine.id());
    assert_eq!(registration.span().address(), region.address());
    let region = refused(region, &ReclaimError::Registered);
    drop(registration);
    let region = refused(region, &ReclaimError::Registered);
    assert_eq!(engine.settle(), 0);
    assert!(region.try_into_inner::<Bytes>().is_ok());
    log.check();
}

#[test]
fn memory_is_freed_after_its_registrations() {
    let (log, region) = tracked();
    let address = region.address();
    let engine = Engine::new(&log);
    let cache = cache(&engine);
    drop(cache.get_or_register(&region).unwrap());
    drop(region);
    assert_eq!(log.events(), [Event::Registered(address)], "dropping does not wait for the engine");
    assert_eq!(cache.stats().entries(), 0);
    engine.settle();
    assert_eq!(
        log.events(),
        [Event::Registered(address), Event::Deregistered(address), Event::Freed(address)]
    );
}

#[test]
fn a_registration_alone_keeps_the_memory() {
    let (log, region) = tracked();
    let engine = Engine::new(&log);
    let cache = cache(&engine);
    let registration = cache.get_or_register(&region).unwrap();
    drop(region);
    drop(cache);
    assert_eq!((engine.retired(), log.freed()), (0, 0));
    drop(registration);
    assert_eq!((engine.retired(), log.freed()), (1, 0));
    engine.settle();
    assert_eq!(log.freed(), 1);
    log.check();
}

#[test]
fn two_engines_share_the_memory() {
    let (log, region) = tracked();
    let engines = [Engine::new(&log), Engine::new(&log)];
    let caches = engines.each_ref().map(cache);
    for cache in &caches {
        drop(cache.get_or_register(&region).unwrap());
    }
    drop(region);
    engines[0].settle();
    assert_eq!(log.freed(), 0);
    engines[1].settle();
    assert_eq!(log.freed(), 1);
    log.check();
}

#[test]
fn the_cache_gives_up_everything_when_it_goes() {
    let (log, region) = tracked();
    let engine = Engine::new(&log);
    let first = cache(&engine);
    drop(first.get_or_register(&region).unwrap());
    drop(first);
    assert_eq!(engine.retired(), 1);
    engine.settle();
    // The region is none the worse for it.
    let second = cache(&engine);
    assert!(second.get(&region).is_none());
    drop(second.get_or_register(&region).unwrap());
    assert!(region.try_into_inner::<Bytes>().is_ok());
    assert_eq!((log.registered(), log.deregistered()), (2, 2));
    log.check();
}

#[test]
fn a_failed_registration_leaves_nothing() {
    let (log, region) = tracked();
    let engine = Engine::new(&log);
    let cache = cache(&engine);
    engine.refuse_register.store(true, Ordering::SeqCst);
    assert_eq!(cache.get_or_register(&region).unwrap_err(), refusal());
    assert_eq!(cache.stats().entries(), 0);
    engine.refuse_register.store(false, Ordering::SeqCst);
    assert!(cache.get_or_register(&region).is_ok());
    assert!(region.try_into_inner::<Bytes>().is_ok());
    log.check();
}

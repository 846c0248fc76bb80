//! Buffers of the process's pool with engines and leases. The pool is shared with the other tests of this program.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use memmap2::{Mmap, MmapMut};
use nixl_descriptor::{
    BufferPool, CacheLimits, DescriptorList, LeaseError, LeaseMode, Leases, Region, Registration,
    RegistrationCache,
};

use crate::fake::{Engine, Log};

const MIB: usize = 1 << 20;

fn cache(engine: &Arc<Engine>) -> RegistrationCache {
    RegistrationCache::new(engine.clone(), CacheLimits::default())
}

#[test]
fn a_slab_is_registered_once_for_all_its_buffers() {
    let log = Log::default();
    let engine = Engine::new(&log);
    let cache = cache(&engine);
    let (mut names, mut held) = (HashSet::new(), Vec::new());
    for len in (1..200).map(|index| 20 * index) {
        let region = BufferPool::global().buffer(len).unwrap();
        names.insert(region.shared_name().unwrap());
        let registration = cache.get_or_register(&region).unwrap();
        assert!(registration.span().len() as u64 == region.shared_name().unwrap().len);
        let first = registration.span().address();
        assert_eq!(region.address() - region.shared_offset(), first);
        assert!(first + registration.span().len() as u64 >= region.address() + len as u64);
        assert!(cache.get(&region).is_some());
        held.push(region);
    }
    assert_eq!(log.registered(), names.len());
    assert!(names.len() <= 2, "at most from one slab to the next");
    assert_eq!(cache.stats().entries(), names.len());
    // One buffer is left in each slab.
    held.drain(1..held.len() - 1);
    assert_eq!(engine.retired(), 0, "buffers are gone, their slabs are not");
    drop(cache);
    assert_eq!(engine.settle(), 0);
    assert_eq!(log.deregistered(), names.len());
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn a_retired_slab_is_deregistered() {
    let log = Log::default();
    let engine = Engine::new(&log);
    let cache = cache(&engine);
    let buffers = [(); 3].map(|()| BufferPool::global().buffer(50 * MIB).unwrap());
    for region in &buffers {
        cache.get_or_register(region).unwrap();
    }
    let names = buffers.each_ref().map(|region| region.shared_name().unwrap());
    drop(buffers);
    let due = BufferPool::global().trim(Instant::now() + Duration::from_secs(3));
    assert!(due.is_some());
    let there = names.iter().filter(|name| name.is_there()).count();
    assert!(there <= 1, "no more than 64 MiB are kept");
    assert_eq!(cache.stats().entries(), there);
    assert_eq!(engine.retired(), 3 - there);
}

#[test]
fn leases_of_neighbours_have_nothing_to_do_with_each_other() {
    let regions = [(); 3].map(|()| BufferPool::global().buffer(3 * 4096).unwrap());
    let list: DescriptorList =
        regions[..2].iter().map(Region::whole).collect::<Vec<_>>().try_into().unwrap();
    let lease = Leases::acquire(list.as_slice(), LeaseMode::Write).unwrap();
    let conflict = Leases::acquire(&[regions[1].whole()], LeaseMode::Read).unwrap_err();
    let held = LeaseMode::Write;
    assert_eq!(conflict, LeaseError::Conflict { region: regions[1].id(), held });
    drop(Leases::acquire(&[regions[2].whole()], LeaseMode::Write).unwrap());
    regions[2].copy_from_slice(0, &[1; 3 * 4096]).unwrap();
    assert!(regions[0].copy_from_slice(0, &[1]).is_err());
    drop(lease);
    regions[0].copy_from_slice(0, &[1]).unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn memory_knows_whether_its_pages_can_be_written() {
    let log = Log::default();
    let engine: Arc<dyn nixl_descriptor::Registrar> = Engine::new(&log);
    let file = File::open("/proc/self/exe").unwrap();
    // SAFETY: the program's file does not change while it runs.
    #[allow(unsafe_code)]
    let file = unsafe { Mmap::map(&file) }.unwrap();
    let memory = [
        (Region::try_from(file), false),
        (Region::try_from(Bytes::from_static(b"constant")), false),
        (Region::try_from(MmapMut::map_anon(5000).unwrap().make_read_only().unwrap()), false),
        (Region::try_from(Bytes::from(vec![0; 100])), true),
        (Region::try_from(vec![0; 100]), true),
        (Region::zeroed(100), true),
        (Region::shared(100), true),
    ];
    for (index, (region, writable)) in memory.into_iter().enumerate() {
        let registration = Registration::new(&engine, &region.unwrap()).unwrap();
        assert_eq!(registration.span().has_writable_pages(), writable, "number {index}");
    }
}

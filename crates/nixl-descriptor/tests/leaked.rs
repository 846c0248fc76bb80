//! Memory that an engine may still write to is leaked and counted. The counters belong to the process, so this test has
//! one of its own.
#![allow(unsafe_code, reason = "implements traits that are trusted with memory")]
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};
use nixl_descriptor::{
    AccessError, CacheLimits, LeaseMode, Leased, Leases, ReclaimError, Region, RegionSpan,
    RegisterError, Registered, Registrar, RegistrarId, Registration, RegistrationCache, Retired,
    leaked,
};
use nixl_device::SharedError;

/// An engine that never lets go.
#[derive(Debug)]
struct Stuck {
    id: RegistrarId,
    failures: Mutex<Vec<RegisterError>>,
}

#[derive(Debug)]
struct Known;

// SAFETY: there is no engine behind it, so nothing touches the memory.
unsafe impl Registered for Known {
    fn deregister(self: Box<Self>) -> Result<(), RegisterError> {
        Err(RegisterError::Engine { engine: "stuck", error: SharedError::text("busy") })
    }
}

// SAFETY: there is no engine behind it, so nothing touches the memory.
unsafe impl Registrar for Stuck {
    fn id(&self) -> RegistrarId {
        self.id
    }

    fn register(&self, _: &RegionSpan) -> Result<Box<dyn Registered>, RegisterError> {
        Ok(Box::new(Known))
    }

    fn retire(&self, retired: Retired) {
        self.failures.lock().unwrap().extend(retired.deregister().err());
    }
}

/// Memory that must not be freed.
struct Precious(Vec<u8>);

impl AsRef<[u8]> for Precious {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Precious {
    fn drop(&mut self) {
        panic!("memory was freed that an engine still knows");
    }
}

fn precious(len: usize) -> Region {
    Bytes::from_owner(Precious(vec![0; len])).try_into().unwrap()
}

#[test]
fn what_an_engine_may_touch_is_leaked_and_counted() {
    assert_eq!(leaked(), Default::default());

    // A lease that is never released: the memory stays, out of reach.
    let region = Region::zeroed(100).unwrap();
    let parts = [region.descriptor(..10).unwrap(), region.descriptor(5..20).unwrap()];
    Leases::acquire(&parts, LeaseMode::Read).unwrap().leak();
    drop(parts);
    assert_eq!((leaked().leases(), leaked().regions(), leaked().bytes()), (1, 0, 20));
    assert_eq!(region.copy_from_slice(0, &[1]), Err(AccessError::Leased { mode: LeaseMode::Read }));
    assert!(region.try_into_inner::<memmap2::MmapMut>().is_err());

    // The same of blocks: two, in each of two layers, of 6 bytes.
    let geometry = LayoutGeometry::try_from(Dimensions {
        blocks: 4,
        layers: 3,
        outer: 1,
        page_size: 2,
        inner: Inner::Elements(3),
        element_width: 1,
    })
    .unwrap();
    let part = |_| Region::zeroed(geometry.bytes()).unwrap().whole();
    let parts: Vec<_> = (0..3).map(part).collect();
    let layout = Layout::per_layer(geometry, LayerOrder::BlockFirst, parts).unwrap();
    layout.lease(&[3, 1], 1..3, LeaseMode::Write).unwrap().leak();
    assert_eq!((leaked().leases(), leaked().regions(), leaked().bytes()), (2, 0, 44));
    assert!(layout.lease(&[3], 2..3, LeaseMode::Read).is_err());

    // A proof of a lease: whichever clone is leaked, it counts once and holds for all.
    let region = Region::zeroed(50).unwrap();
    let leased = Leases::acquire_list(region.whole().into(), LeaseMode::Write).unwrap();
    let clones = [leased.clone(), leased.clone()];
    clones.into_iter().for_each(Leased::leak);
    assert!(leased.is_leaked());
    drop(leased);
    assert_eq!((leaked().leases(), leaked().regions(), leaked().bytes()), (3, 0, 94));
    assert!(region.copy_to_slice(0, &mut [0]).is_err());

    // A registration that cannot be ended, found out when the region is dropped.
    let engine = Arc::new(Stuck { id: RegistrarId::new(), failures: Mutex::default() });
    let registrar: Arc<dyn Registrar> = Arc::clone(&engine) as _;
    let region = precious(1000);
    drop(Registration::new(&registrar, &region).unwrap());
    assert_eq!(engine.failures.lock().unwrap().len(), 1);
    drop(region);
    assert_eq!((leaked().leases(), leaked().regions(), leaked().bytes()), (3, 1, 1094));

    // The same, found out when the memory is to be taken back.
    let cache = RegistrationCache::new(registrar, CacheLimits::default());
    let region = precious(5000);
    drop(cache.get_or_register(&region).unwrap());
    let refused = region.try_into_inner::<Bytes>().unwrap_err();
    assert!(matches!(refused.reason(), ReclaimError::Deregister(_)));
    let refused = refused.into_region().try_into_inner::<Bytes>().unwrap_err();
    assert_eq!(refused.reason(), &ReclaimError::Withheld);
    // It can still be used.
    assert_eq!(refused.region().to_vec().unwrap(), vec![0; 5000]);
    drop(refused);
    assert_eq!((leaked().leases(), leaked().regions(), leaked().bytes()), (3, 2, 6094));
}

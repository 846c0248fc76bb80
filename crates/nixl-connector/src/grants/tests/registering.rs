//! The registration of exports: its progress, its failures, and its end before it is done.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::Region;
use nixl_descriptor::layout::Layout;
use nixl_ops::ManualClock;

use super::{geometry, per_layer};
use crate::simulated::{Fabric, Faults};
use crate::{Connector, ConnectorError, Export, ExportOptions, ExportProgress};

const DELAY: Duration = Duration::from_secs(1);

/// An owner, and its export that is being made: each registration takes [`DELAY`] on a clock that stands still.
struct World {
    clock: Arc<ManualClock>,
    faults: Faults,
    owner: Connector,
    progress: ExportProgress,
    cache: Vec<Region>,
    exporting: tokio::task::JoinHandle<Result<Export, ConnectorError>>,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::new());
        let fabric = Fabric::new(Arc::<ManualClock>::clone(&clock));
        let owner = Connector::builder().transport(fabric.transport("owner"));
        let owner = owner.build().await.unwrap();
        let faults = fabric.faults();
        faults.delay_registrations(DELAY);
        let progress = ExportProgress::new();
        let (layout, cache) = per_layer();
        let exporting = {
            let (owner, progress) = (owner.clone(), progress.clone());
            let options = ExportOptions::new().progress(&progress);
            tokio::spawn(async move { owner.export_with([("full", layout)], options).await })
        };
        Self { clock, faults, owner, progress, cache, exporting }
    }

    /// Lets time pass until `is_so`.
    async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            self.clock.advance(DELAY / 2);
            tokio::task::yield_now().await;
        }
    }

    fn registered(&self) -> usize {
        self.owner.stats().registrations().entries()
    }
}

#[tokio::test]
async fn an_export_tells_how_far_it_has_come() {
    let world = World::new().await;
    let total = geometry().bytes() as u64;
    world.until(|world| world.progress.bytes_registered() > 0).await;
    assert_eq!(world.progress.total(), total);
    assert!(world.progress.bytes_registered() <= total && !world.exporting.is_finished());
    world.until(|world| world.exporting.is_finished()).await;
    assert_eq!((world.progress.bytes_registered(), world.progress.bytes_populated()), (total, 0));
    // The words too.
    assert_eq!(world.registered(), world.cache.len() + 1);
    drop(world.exporting.await.unwrap().unwrap());
}

#[tokio::test]
async fn a_part_that_cannot_be_registered_is_named_and_the_others_are_given_up() {
    let world = World::new().await;
    world.until(|world| world.progress.bytes_registered() > 0).await;
    // The next may have been asked for already.
    world.faults.refuse_registrations(true);
    world.until(|world| world.exporting.is_finished()).await;
    let registered = world.registered();
    let error = world.exporting.await.unwrap().unwrap_err();
    let ConnectorError::ExportedMemory { layout, part, len, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((layout.as_str(), *len), ("full", world.cache[0].len()));
    assert!((1..3).contains(part), "{error}");
    assert_eq!(registered, 0);
}

#[tokio::test]
async fn an_export_that_is_dropped_gives_up_what_it_has_registered() {
    let world = World::new().await;
    world.until(|world| world.registered() > 0).await;
    world.exporting.abort();
    world.until(|world| world.exporting.is_finished()).await;
    world.until(|world| world.registered() == 0 && world.owner.stats().blocking_calls() == 0).await;
    world.faults.delay_registrations(Duration::ZERO);
    for region in world.cache {
        // No engine knows it any more.
        region.try_into_vec().unwrap();
    }
}

#[tokio::test]
async fn pages_are_allocated_by_several_threads_and_bytes_stay() {
    let fabric = Fabric::new(Arc::new(nixl_ops::SystemClock::new()));
    let owner = Connector::builder().transport(fabric.transport("owner")).build().await.unwrap();
    for threads in [1, 3, 1000] {
        let (layout, cache) = per_layer();
        let before: Vec<_> = cache.iter().map(|region| region.to_vec().unwrap()).collect();
        let progress = ExportProgress::new();
        let threads = NonZeroUsize::new(threads).unwrap();
        let options = ExportOptions::new().populate(threads).progress(&progress);
        let _export = owner.export_with([("full", layout)], options).await.unwrap();
        let total = geometry().bytes() as u64;
        assert_eq!((progress.bytes_populated(), progress.bytes_registered()), (total, total));
        assert!(cache.iter().map(|region| region.to_vec().unwrap()).eq(before));
    }
}

/// Layouts whose parts lie in one region.
#[tokio::test]
async fn a_region_of_several_parts_is_registered_once() {
    let fabric = Fabric::new(Arc::new(nixl_ops::SystemClock::new()));
    let owner = Connector::builder().transport(fabric.transport("owner")).build().await.unwrap();
    let len = geometry().bytes();
    let region = Region::zeroed(2 * len).unwrap();
    let part = |start| {
        let part = region.descriptor(start..start + len).unwrap();
        Layout::fully_contiguous(geometry(), part).unwrap()
    };
    let progress = ExportProgress::new();
    let options = ExportOptions::new().progress(&progress);
    let layouts = [("first", part(0)), ("second", part(len))];
    let _export = owner.export_with(layouts, options).await.unwrap();
    assert_eq!((progress.total(), progress.bytes_registered()), (2 * len as u64, 2 * len as u64));
    assert_eq!(owner.stats().registrations().misses(), 2);
}

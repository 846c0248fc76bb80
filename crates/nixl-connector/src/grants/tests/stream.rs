//! Grants that begin, end and get ready in the order of a queue of work.

use std::collections::VecDeque;
use std::sync::Mutex;

use nixl_descriptor::{DependencyError, QueuedFunction, WorkQueue};

use super::*;

/// A stream that does one piece of its work at a test's command.
#[derive(Default)]
pub(super) struct Stream {
    queued: Mutex<VecDeque<QueuedFunction>>,
    refuses: bool,
}

impl Stream {
    /// Does the next piece of work.
    pub(super) fn step(&self, done: Result<(), DependencyError>) {
        let next = self.queued.lock().unwrap().pop_front();
        let Some(next) = next else { panic!("nothing is queued") };
        next(done);
    }

    /// What is queued, which is not called any more.
    pub(super) fn take(&self) -> VecDeque<QueuedFunction> {
        std::mem::take(&mut self.queued.lock().unwrap())
    }

    /// Queues other work.
    fn push(&self, work: impl FnOnce() + Send + 'static) {
        self.queued.lock().unwrap().push_back(Box::new(move |_| work()));
    }
}

impl WorkQueue for Stream {
    fn call(&self, function: QueuedFunction) -> Result<(), DependencyError> {
        if self.refuses {
            return Err(failure());
        }
        self.queued.lock().unwrap().push_back(function);
        Ok(())
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

pub(super) fn failure() -> DependencyError {
    DependencyError::new("the stream is broken")
}

fn overwrite(cache: &[Region], id: usize, byte: u8) {
    let len = geometry().layer_len();
    for region in cache {
        region.copy_from_slice(id * len, &vec![byte; len]).unwrap();
    }
}

#[tokio::test]
async fn a_grant_ends_before_the_work_that_was_queued_behind_it_begins() {
    let world = World::new().await;
    for import in world.imports().await {
        overwrite(&world.cache, 5, 1);
        let (local, bytes) = contiguous();
        let grant = world.export.grant(0, &[5], GrantOptions::new()).unwrap();
        let ticket = grant.ticket().clone();
        let stream = Stream::default();
        grant.end_on(&stream).unwrap();
        let cache = world.cache.clone();
        // It would be refused if the blocks were not free.
        stream.push(move || overwrite(&cache, 5, 2));
        import.read_blocks(&ticket, &local, &[0]).await.unwrap();
        assert_eq!((read(&bytes, 0)[0], world.export.stats().alive()), (1, 1));
        stream.step(Ok(()));
        assert_eq!(world.export.stats().alive(), 0);
        let error = cause(import.read_blocks(&ticket, &local, &[0]).await);
        assert!(is_stale(&error), "{error}");
        stream.step(Ok(()));
        let error = cause(import.read_blocks(&ticket, &local, &[0]).await);
        assert!(is_stale(&error), "{error}");
    }
}

#[tokio::test]
async fn a_grant_becomes_valid_once_the_work_before_it_is_done() {
    let world = World::new().await;
    for import in world.imports().await {
        let (local, bytes) = contiguous();
        let stream = Arc::new(Stream::default());
        let after = || GrantOptions::new().after(stream.clone());
        let cache = world.cache.clone();
        stream.push(move || overwrite(&cache, 5, 3));
        stream.step(Ok(()));
        let grant = world.export.grant(0, &[5], after()).unwrap();
        let error = cause(import.read_blocks(grant.ticket(), &local, &[0]).await);
        assert!(is_stale(&error), "{error}");
        let own = world.reader.import(world.export.metadata()).await.unwrap();
        let error = cause(own.read_blocks(grant.ticket(), &local, &[0]).await);
        assert_eq!(error, nixl_ops::GrantError::Unpublished.into());
        stream.step(Ok(()));
        import.read_blocks(grant.ticket(), &local, &[0]).await.unwrap();
        assert_eq!(read(&bytes, 0), vec![3; geometry().block_len()]);
        own.read_blocks(grant.ticket(), &local, &[0]).await.unwrap();
        drop(grant);
        // Work that failed has filled nothing.
        let grant = world.export.grant(0, &[5], after()).unwrap();
        stream.step(Err(failure()));
        assert_eq!(world.export.stats().alive(), 0);
        let error = cause(import.read_blocks(grant.ticket(), &local, &[0]).await);
        assert!(is_stale(&error), "{error}");
        assert!(!grant.end(), "it has ended");
    }
}

#[tokio::test]
async fn layers_are_ready_once_the_work_before_is_done() {
    let world = World::new().await;
    let [import, _] = world.imports().await;
    let stream = Stream::default();
    let grant = world.export.grant(0, &[1], GrantOptions::new().ready(0)).unwrap();
    let ticket = grant.ticket().clone();
    for layers in 1..=3 {
        grant.ready_through_on(layers, &stream).unwrap();
    }
    assert_eq!(import.layers_ready(&ticket).await, Ok(0));
    stream.step(Ok(()));
    assert_eq!(import.layers_ready(&ticket).await, Ok(1));
    stream.step(Err(failure()));
    assert_eq!(import.layers_ready(&ticket).await, Ok(1));
    drop(grant);
    stream.step(Ok(()));
}

#[tokio::test]
async fn what_comes_late_does_not_touch_the_next_grant_of_the_slot() {
    let world = World::new().await;
    let [import, _] = world.imports().await;
    let stream = Arc::new(Stream::default());
    let time = Duration::from_millis(1);
    let options = GrantOptions::new().time_to_live(time).after(stream.clone());
    let grant = world.export.grant(0, &[1], options).unwrap();
    let slot = grant.ticket().slot();
    grant.ready_through_on(3, &*stream).unwrap();
    let free = grant.free_blocks().unwrap();
    grant.end_on(&*stream).unwrap();
    // Its time is over before.
    tokio::time::timeout(Duration::from_secs(20), free).await.unwrap();
    let next = world.export.grant(0, &[1], GrantOptions::new().ready(1)).unwrap();
    assert_eq!(next.ticket().slot(), slot);
    for _ in 0..3 {
        stream.step(Ok(()));
    }
    assert_eq!(import.layers_ready(next.ticket()).await, Ok(1));
    let (local, _bytes) = contiguous();
    let options = BlockTransferOptions::new().layers(0..1);
    import.read_blocks_with(next.ticket(), &local, &[0], options).await.unwrap();
}

#[tokio::test]
async fn a_queue_that_refuses_ends_the_grant_at_once() {
    let world = World::new().await;
    let stream = Arc::new(Stream { refuses: true, ..Stream::default() });
    let refused = ConnectorError::WorkQueue(failure());
    let grant = world.export.grant(0, &[1], GrantOptions::new()).unwrap();
    assert_eq!(grant.ready_through_on(1, &*stream), Err(refused.clone()));
    assert_eq!(world.export.stats().alive(), 1);
    assert_eq!(grant.end_on(&*stream), Err(refused.clone()));
    assert_eq!(world.export.stats().alive(), 0);
    let error = world.export.grant(0, &[1], GrantOptions::new().after(stream)).unwrap_err();
    assert_eq!((error, world.export.stats().alive()), (refused, 0));
}

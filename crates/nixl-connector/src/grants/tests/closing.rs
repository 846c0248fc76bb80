//! The end of exports: with writers at work, with an import in their own process, and before they are made.

use super::*;
use crate::TransferLimits;
use crate::grants::export::ExportShared;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_closed_export_ends_its_grants_to_write() {
    let world = World::new().await;
    let [import, _] = world.imports().await;
    let mut grant = world.export.grant_write(0, &[3], WriteGrantOptions::new()).await.unwrap();
    let ticket = grant.ticket().clone();
    assert!(world.export.close(PATIENCE).await, "no writer has begun");
    assert_eq!(grant.written().await.unwrap_err(), crate::OperationError::Cancelled);
    let error = import.write_blocks(&ticket, &filled(), &[0]).await.unwrap_err();
    assert!(error.to_string().contains("the offer cannot be used"), "{error}");
    drop((grant, import));
    for region in world.cache {
        assert!(region.try_into_vec().is_ok());
    }
}

/// An export, and a write of one of its blocks that has begun.
struct Written {
    world: World,
    _grant: crate::WriteGrant,
    writing: tokio::task::JoinHandle<Result<crate::Completion, crate::BlockWriteError>>,
}

impl Written {
    /// By a writer that maps the owner's page, or by one that claims with a message.
    async fn new(is_here: bool) -> Self {
        let world = World::new().await;
        let [here, afar] = world.imports().await;
        let import = if is_here { here } else { afar };
        let grant = world.export.grant_write(0, &[3], WriteGrantOptions::new()).await.unwrap();
        let ticket = grant.ticket().clone();
        let faults = world.fabric.faults_of(world.reader.name()).unwrap();
        faults.next([Fault::Stalls { after: 70 }]);
        let writing =
            tokio::spawn(async move { import.write_blocks(&ticket, &filled(), &[0]).await });
        while faults.left() > 0 {
            tokio::task::yield_now().await;
        }
        Self { world, _grant: grant, writing }
    }
}

#[tokio::test]
async fn a_closed_export_waits_for_a_writer_that_has_begun() {
    for is_here in [true, false] {
        let Written { world, _grant, writing } = Written::new(is_here).await;
        let faults = world.fabric.faults_of(world.reader.name()).unwrap();
        let shared = Arc::clone(world.export.shared());
        let closing = tokio::spawn(world.export.close(PATIENCE));
        until_closed(&shared).await;
        assert_eq!(world.owner.stats().quarantined().offers(), 1);
        assert!(!closing.is_finished());
        faults.release();
        writing.await.unwrap().unwrap();
        assert!(closing.await.unwrap());
        assert_eq!(world.owner.stats().quarantined().offers(), 0);
    }
}

async fn until_closed(shared: &ExportShared) {
    let closed = async {
        while shared.writers().check_open().is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
}

/// Readers at work, readers that wait for their turn, and readers that come late.
#[tokio::test]
async fn an_export_that_closes_with_readers_at_work_leaves_them_errors_alone() {
    const TIME: Duration = Duration::from_secs(5);
    const SKEW: Duration = Duration::from_secs(60);
    for is_here in [true, false] {
        let clock = Arc::new(ManualClock::new());
        let limits = TransferLimits::new().per_peer(1);
        let reader = |reader: ConnectorBuilder| reader.transfer_limits(limits);
        let world = World::at(Arc::<ManualClock>::clone(&clock), reader, per_layer()).await;
        let [here, afar] = world.imports().await;
        let import = if is_here { here } else { afar };
        let options = GrantOptions::new().time_to_live(TIME);
        let grant = world.export.grant(0, &[5], options).unwrap();
        let ticket = grant.ticket().clone();
        let (local, _bytes) = contiguous();
        let begin = |id: usize| {
            let (import, ticket, local) = (import.clone(), ticket.clone(), local.clone());
            tokio::spawn(async move { import.read_blocks(&ticket, &local, &[id]).await })
        };
        let faults = world.fabric.faults_of(world.reader.name()).unwrap();
        faults.next([Fault::Stalls { after: 70 }]);
        let at_work = begin(0);
        while faults.left() > 0 {
            tokio::task::yield_now().await;
        }
        let waiting = begin(1);
        while world.reader.connection().admission().waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let shared = Arc::clone(world.export.shared());
        let closing = tokio::spawn(world.export.close(2 * (TIME + SKEW)));
        until_closed(&shared).await;
        drop((shared, grant));
        // The blocks are the owner's to change, and their memory stays.
        for region in &world.cache {
            region.copy_from_slice(0, &vec![0xff; region.len()]).unwrap();
        }
        let late = begin(2);
        faults.release();
        for (reading, id) in [at_work, waiting, late].into_iter().zip(0..) {
            let error = reading.await.unwrap().unwrap_err();
            assert!(is_stale(error.cause()), "{error}");
            assert_eq!(error.blocks(), [id]);
        }
        assert!(!closing.is_finished());
        assert_eq!(world.owner.stats().retained().offers(), 1);
        clock.advance(TIME + SKEW);
        assert!(tokio::time::timeout(PATIENCE, closing).await.unwrap().unwrap());
        assert_eq!(world.owner.stats().retained().offers(), 0);
        for region in world.cache {
            assert!(region.try_into_vec().is_ok());
        }
        // The driver drops a task that its waiter saw end at its next turn.
        let idle = async {
            while world.reader.stats().active() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, idle).await.unwrap();
    }
}

#[tokio::test]
async fn an_export_that_is_being_written_at_the_deadline_is_not_quiet() {
    for is_here in [true, false] {
        let Written { world, _grant, writing } = Written::new(is_here).await;
        assert!(!world.export.close(Duration::ZERO).await);
        assert_eq!(world.owner.stats().quarantined().offers(), 1);
        world.fabric.faults_of(world.reader.name()).unwrap().release();
        writing.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_grant_to_write_keeps_its_export_open() {
    let world = World::new().await;
    let [import, _] = world.imports().await;
    let mut grant = world.export.grant_write(0, &[3], WriteGrantOptions::new()).await.unwrap();
    drop(world.export);
    import.write_blocks(grant.ticket(), &filled(), &[0]).await.unwrap();
    grant.written().await.unwrap();
}

#[tokio::test]
async fn an_import_of_its_own_process_does_not_keep_an_export_open() {
    let world = World::new().await;
    let metadata = world.export.metadata().clone();
    let own = world.reader.import(&metadata).await.unwrap();
    let grant = world.export.grant(0, &[1], GrantOptions::new()).unwrap();
    let ticket = grant.ticket().clone();
    own.read_blocks(&ticket, &contiguous().0, &[0]).await.unwrap();
    drop(grant);
    drop(world.export);
    let closed = ConnectorError::ExportClosed { export: metadata.export() };
    let error = cause(own.read_blocks(&ticket, &contiguous().0, &[0]).await);
    assert_eq!(error, closed);
    assert_eq!(own.layers_ready(&ticket).await, Err(closed.clone()));
    assert_eq!(own.renew(&ticket).await, Err(closed.clone()));
    assert_eq!(own.notify(b"late").await, Err(closed));
    own.done(&ticket).await.unwrap();
    assert_eq!(world.owner.stats().retained().offers(), 1, "for readers elsewhere");
}

/// Late readers of the export before reach the words through the engine.
#[tokio::test]
async fn an_export_that_fails_leaves_the_words_of_the_one_before() {
    let world = World::new().await;
    let [_, afar] = world.imports().await;
    let words = *world.export.metadata().words();
    let ticket = ticket_of(&world, &[7]);
    world.export.close(Duration::ZERO).await;
    let faults = world.fabric.faults_of(world.owner.name()).unwrap();
    let refused = async || {
        let (layout, _) = per_layer();
        faults.refuse_registrations(true);
        let error = world.owner.export([("full", layout)]).await.unwrap_err();
        faults.refuse_registrations(false);
        error
    };
    for _ in 0..3 {
        assert!(matches!(refused().await, ConnectorError::ExportedMemory { .. }));
        let (local, _bytes) = contiguous();
        let error = cause(afar.read_blocks(&ticket, &local, &[0]).await);
        assert!(is_stale(&error), "{error}");
    }
    let (layout, _cache) = per_layer();
    let next = world.owner.export([("full", layout)]).await.unwrap();
    assert_eq!(next.metadata().words().address, words.address);
}

/// The application keeps the memory.
#[tokio::test]
async fn a_closed_export_registers_its_memory_no_longer() {
    let (layout, cache) = per_layer();
    let world = World::with(|reader| reader, (layout, cache.clone())).await;
    let of_before = Region::zeroed(64).unwrap();
    let kept = world.owner.create_readable(of_before.whole()).await.unwrap();
    let registered = || world.owner.stats().registrations().entries();
    let before = registered();
    assert!(world.export.close(PATIENCE).await);
    // Not the words, which serve the next export.
    assert_eq!(before - registered(), cache.len());
    drop(kept);
    assert!(cache.iter().all(|region| region.to_vec().is_ok()));
}

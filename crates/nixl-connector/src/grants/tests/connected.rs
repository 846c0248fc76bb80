//! Connections that end before a read, and exports that end before a probe: reads reach only memory that its owner still keeps.

use nixl_ops::{Driver, PeerId, Transport};

use super::*;
use crate::simulated::Faults;

/// The transfers of the words before, of the bytes, and of the words after them.
const ANEW: usize = 3;
/// Those of a read on a connection that is known.
const KNOWN: usize = 2;
const TIME: Duration = Duration::from_secs(5);
/// For a task that goes on by itself.
const PATIENCE: Duration = Duration::from_secs(20);

fn transport(world: &World) -> Arc<dyn Transport> {
    Arc::clone(world.reader.connection().transport())
}

fn owner(world: &World) -> PeerId {
    PeerId::new(world.owner.name())
}

/// Counts the posts of so many transfers.
fn counted(world: &World, transfers: usize) -> Faults {
    let faults = world.fabric.faults_of(world.reader.name()).unwrap();
    (0..transfers).for_each(|_| faults.next([]));
    faults
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

/// The owner may have seen the end of the connection before, closed the export and freed its memory.
#[tokio::test]
async fn a_read_on_a_new_connection_looks_at_the_words_before_it_moves_a_byte() {
    for class in [TransferClass::Interactive, TransferClass::Bulk] {
        let world = World::new().await;
        let [_, afar] = world.imports().await;
        let grant = world.export.grant(0, &[5], GrantOptions::new()).unwrap();
        let (local, bytes) = contiguous();
        let options = || BlockTransferOptions::new().class(class);
        let read_once = || afar.read_blocks_with(grant.ticket(), &local, &[1], options());
        let faults = counted(&world, KNOWN + ANEW + KNOWN);
        read_once().await.unwrap();
        assert_eq!(faults.left(), ANEW + KNOWN);
        transport(&world).disconnect(&owner(&world)).unwrap();
        read_once().await.unwrap();
        assert_eq!(faults.left(), KNOWN);
        read_once().await.unwrap();
        assert_eq!(faults.left(), 0);
        transport(&world).disconnect(&owner(&world)).unwrap();
        bytes.copy_from_slice(0, &vec![0; bytes.len()]).unwrap();
        let ticket = grant.ticket().clone();
        assert!(grant.end());
        let error = cause(afar.read_blocks_with(&ticket, &local, &[1], options()).await);
        assert!(is_stale(&error), "{error}");
        assert_eq!(read(&bytes, 1), vec![0; geometry().block_len()], "nothing has moved");
    }
}

/// Between the look at the words and the post, which has to wait.
#[tokio::test]
async fn a_read_that_waits_while_its_connection_ends_looks_at_the_words_again() {
    for class in [TransferClass::Interactive, TransferClass::Bulk] {
        for ends in [false, true] {
            let world = World::new().await;
            let [_, afar] = world.imports().await;
            let grant = world.export.grant(0, &[5], GrantOptions::new()).unwrap();
            let ticket = grant.ticket().clone();
            let (local, bytes) = contiguous();
            let options = BlockTransferOptions::new().class(class);
            let held = transport(&world).until_idle(&owner(&world)).await;
            let reading = tokio::spawn({
                let (afar, ticket, local) = (afar.clone(), ticket.clone(), local.clone());
                async move { afar.read_blocks_with(&ticket, &local, &[1], options).await }
            });
            until(|| !world.reader.connection().admission().is_idle()).await;
            let faults = counted(&world, ANEW);
            transport(&world).disconnect(&owner(&world)).unwrap();
            if ends {
                assert!(grant.end());
            }
            drop(held);
            let done = tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap();
            if ends {
                let error = cause(done);
                assert!(is_stale(&error), "{error}");
                assert_eq!(faults.left(), ANEW - 1, "the look alone");
                assert_eq!(read(&bytes, 1), vec![0; geometry().block_len()], "nothing has moved");
            } else {
                done.unwrap();
                assert_eq!(faults.left(), 0);
                assert_eq!(read(&bytes, 1), block(5));
            }
        }
    }
}

/// Its owner waits no longer for reads that begin later.
#[tokio::test]
async fn a_read_that_waits_until_its_ticket_expires_posts_nothing() {
    for is_here in [true, false] {
        let clock = Arc::new(ManualClock::new());
        let world = World::at(Arc::<ManualClock>::clone(&clock), |r| r, per_layer()).await;
        let [here, afar] = world.imports().await;
        let import = if is_here { here } else { afar };
        let options = GrantOptions::new().time_to_live(TIME);
        let grant = world.export.grant(0, &[5], options).unwrap();
        let ticket = grant.ticket().clone();
        let (local, bytes) = contiguous();
        let held = transport(&world).until_idle(&owner(&world)).await;
        let reading = tokio::spawn(async move { import.read_blocks(&ticket, &local, &[1]).await });
        until(|| !world.reader.connection().admission().is_idle()).await;
        let faults = counted(&world, 1);
        clock.advance(TIME);
        until(|| world.export.stats().alive() == 0).await;
        // Still held: the check before the post ends it, and no poll that has passed the check before is under way then.
        until(|| {
            clock.advance(Duration::from_micros(100));
            reading.is_finished()
        })
        .await;
        drop(held);
        let error = cause(reading.await.unwrap());
        match is_here {
            true => assert!(is_stale(&error), "{error}"),
            false => assert_eq!(error, TicketError::Expired.into()),
        }
        assert_eq!(faults.left(), 1, "nothing was posted");
        assert_eq!(read(&bytes, 1), vec![0; geometry().block_len()]);
    }
}

/// The owner keeps memory for a time after the last look that found the export open.
#[tokio::test]
async fn a_probe_is_not_posted_long_after_the_look_before_it() {
    for closes in [false, true] {
        let clock = Arc::new(ManualClock::new());
        let world = World::at(Arc::<ManualClock>::clone(&clock), |r| r, per_layer()).await;
        let metadata = from_afar(world.export.metadata());
        let faults = world.fabric.faults_of(world.reader.name()).unwrap();
        // It has found the export open, and has not ended.
        faults.next([Fault::Stalls { after: WordsLocation::SLOT_BYTES }]);
        // The second look, and the probe after it.
        (0..2).for_each(|_| faults.next([]));
        let importing = tokio::spawn({
            let reader = world.reader.clone();
            async move { reader.import_unless(&metadata, None, ImportOptions::new()).await }
        });
        until(|| faults.left() == 2).await;
        clock.advance(Driver::IMPORT);
        let World { export, reader, owner, .. } = world;
        let shared = Arc::clone(export.shared());
        let closing = closes.then(|| tokio::spawn(export.close(PATIENCE)));
        until(|| closes == shared.writers().check_open().is_err()).await;
        until(|| {
            faults.release();
            clock.advance(Duration::from_micros(100));
            importing.is_finished()
        })
        .await;
        let imported = importing.await.unwrap();
        match closes {
            true => {
                let error = imported.unwrap_err();
                assert!(matches!(error, ConnectorError::ExportClosed { .. }), "{error}");
                assert_eq!(faults.left(), 1, "no probe");
            }
            false => {
                imported.unwrap();
                assert_eq!(faults.left(), 0);
            }
        }
        drop((closing, shared, reader, owner));
    }
}

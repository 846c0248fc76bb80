//! The message `done` of an import: none of its reads meets memory that is freed then.

use nixl_ops::PeerId;

use super::*;

/// Also of a read that nothing waits for any more.
#[tokio::test]
async fn an_import_is_done_once_its_reads_have_ended() {
    let world = World::new().await;
    for import in world.imports().await {
        let readers = GrantOptions::new().readers(2.try_into().unwrap());
        let grant = world.export.grant(0, &[5], readers).unwrap();
        let ticket = grant.ticket().clone();
        let (local, _bytes) = contiguous();
        let faults = world.fabric.faults_of(world.reader.name()).unwrap();
        faults.next([Fault::Stalls { after: 70 }]);
        let reading = tokio::spawn({
            let (import, ticket, local) = (import.clone(), ticket.clone(), local.clone());
            async move { import.read_blocks(&ticket, &local, &[0]).await }
        });
        while faults.left() > 0 {
            tokio::task::yield_now().await;
        }
        reading.abort();
        assert!(reading.await.unwrap_err().is_cancelled());
        let mut done = Box::pin(import.done(&ticket));
        let waits = tokio::time::timeout(Duration::from_millis(50), &mut done).await;
        assert!(waits.is_err(), "the owner could free what the engine reads");
        let error = cause(import.read_blocks(&ticket, &local, &[1]).await);
        assert!(is_stale(&error), "{error}");
        faults.release();
        done.await.unwrap();
    }
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
        let look = || afar.read_blocks_with(grant.ticket(), &local, &[1], options());
        look().await.unwrap();
        let before = afar.word_requests();
        let transport = world.reader.connection().transport();
        transport.disconnect(&PeerId::new(world.owner.name())).unwrap();
        look().await.unwrap();
        assert_eq!(afar.word_requests() - before, 2, "before and after");
        look().await.unwrap();
        assert_eq!(afar.word_requests() - before, 3);
        transport.disconnect(&PeerId::new(world.owner.name())).unwrap();
        bytes.copy_from_slice(0, &vec![0; bytes.len()]).unwrap();
        let ticket = grant.ticket().clone();
        assert!(grant.end());
        let error = cause(afar.read_blocks_with(&ticket, &local, &[1], options()).await);
        assert!(is_stale(&error), "{error}");
        assert_eq!(read(&bytes, 1), vec![0; geometry().block_len()], "nothing has moved");
    }
}

//! The message `done` of an import: none of its reads meets memory that is freed then.

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

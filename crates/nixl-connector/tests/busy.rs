//! An operation whose peer must be loaded anew waits for the transfers that use what is known of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use nixl_connector::simulated::{Fabric, Fault};
use nixl_connector::{Connector, ConnectorError};
use nixl_descriptor::Region;
use nixl_metadata::RdmaMetadata;
use nixl_ops::{OperationError, OperationOptions, ReadOperation, ReadableOperation, SystemClock};

struct World {
    fabric: Fabric,
    owner: Connector,
    reader: Connector,
}

impl World {
    async fn new() -> Self {
        let fabric = Fabric::new(Arc::new(SystemClock::new()));
        let connector = |name| Connector::builder().transport(fabric.transport(name)).build();
        let (owner, reader) =
            (connector("owner").await.unwrap(), connector("reader").await.unwrap());
        Self { fabric, owner, reader }
    }

    async fn offer(&self, bytes: Vec<u8>) -> (ReadableOperation, RdmaMetadata) {
        let region = Region::try_from(bytes).unwrap();
        let offer = self.owner.create_readable(region).await.unwrap();
        let metadata = offer.metadata().clone();
        (offer, metadata)
    }

    /// Memory that the reader knows, registered anew, and a read of other memory that keeps the reader's peer busy.
    async fn registered_anew_while_busy(
        &self,
    ) -> (ReadOperation, (ReadableOperation, RdmaMetadata)) {
        let bytes = vec![1; 4096];
        let (offer, metadata) = self.offer(bytes).await;
        let mut read =
            self.reader.begin_read(&metadata, Region::zeroed(4096).unwrap()).await.unwrap();
        read.wait_for_completion().await.unwrap();
        let memory = offer.reclaim().await.memory.unwrap();
        self.fabric.faults().next([Fault::Stalls { after: 0 }]);
        let (_stalled_offer, stalled) = self.offer(vec![2; 10]).await;
        let stalled = self.reader.begin_read(&stalled, Region::zeroed(10).unwrap()).await.unwrap();
        std::mem::forget(_stalled_offer);
        let region = memory.as_slice()[0].region().clone();
        drop(memory);
        let mut bytes = region.try_into_vec().unwrap();
        bytes.fill(3);
        (stalled, self.offer(bytes).await)
    }
}

#[tokio::test]
async fn begin_waits_until_the_peer_is_idle() {
    let world = World::new().await;
    let (mut stalled, (_offer, metadata)) = world.registered_anew_while_busy().await;
    let local = Region::zeroed(4096).unwrap();
    let begin = world.reader.begin_read(&metadata, local.clone());
    tokio::pin!(begin);
    tokio::select! {
        biased;
        _ = &mut begin => panic!("the peer is busy"),
        () = tokio::time::sleep(Duration::from_millis(50)) => {}
    }
    world.fabric.faults().release();
    begin.await.unwrap().wait_for_completion().await.unwrap();
    stalled.wait_for_completion().await.unwrap();
    let mut bytes = vec![0; 4096];
    local.copy_to_slice(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 3));
}

#[tokio::test]
async fn a_wait_for_a_busy_peer_ends_by_the_deadline_and_holds_nothing() {
    let world = World::new().await;
    let (mut stalled, (_offer, metadata)) = world.registered_anew_while_busy().await;
    let options = OperationOptions::new().timeout(Duration::from_millis(50));
    let local = Region::zeroed(4096).unwrap();
    let late = world.reader.begin_read_with(&metadata, local.clone(), options).await;
    let timed_out = |error: &ConnectorError| {
        matches!(error, ConnectorError::Operation(OperationError::TimedOut { .. }))
    };
    assert!(late.as_ref().is_err_and(timed_out), "{late:?}");
    world.fabric.faults().release();
    stalled.wait_for_completion().await.unwrap();
    let again = world.reader.begin_read(&metadata, local).await;
    again.unwrap().wait_for_completion().await.unwrap();
}

#[tokio::test]
async fn an_operation_that_waits_for_a_busy_peer_does_not_begin_after_a_drain() {
    let world = World::new().await;
    let (mut stalled, (_offer, metadata)) = world.registered_anew_while_busy().await;
    let begin = world.reader.begin_read(&metadata, Region::zeroed(4096).unwrap());
    let drain = world.reader.drain(Duration::from_secs(20));
    let release = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.fabric.faults().release();
        stalled.wait_for_completion().await.unwrap();
    };
    let (begin, drained, ()) = tokio::join!(begin, drain, release);
    assert!(matches!(begin, Err(ConnectorError::Draining)), "{begin:?}");
    assert!(drained.is_complete());
}

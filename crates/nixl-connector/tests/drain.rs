//! Bringing a connector to an end, and what probes hear of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use nixl_connector::simulated::{Fabric, Fault};
use nixl_connector::{Connector, ConnectorError, OperationError};
use nixl_descriptor::Region;
use nixl_ops::{PeerId, SystemClock};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

async fn pair() -> (Fabric, Connector, Connector) {
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let connector = |name| Connector::builder().transport(fabric.transport(name)).build();
    let (a, b) = (connector("a").await.unwrap(), connector("b").await.unwrap());
    (fabric, a, b)
}

fn region() -> Region {
    Region::zeroed(64).unwrap()
}

/// `from` reads memory of `to`.
async fn read(from: &Connector, to: &Connector) {
    let mut offer = to.create_readable(region()).await.unwrap();
    let mut read = from.begin_read(offer.metadata(), region()).await.unwrap();
    read.wait_for_completion().await.unwrap();
    offer.wait_for_completion().await.unwrap();
}

#[tokio::test]
async fn a_drained_connector_begins_nothing_and_says_so() {
    let (_fabric, a, b) = pair().await;
    read(&a, &b).await;
    assert!(b.health().await.is_ready());
    let offered = a.create_readable(region()).await.unwrap();
    let metadata = offered.metadata().clone();
    assert!(b.drain(LONG).await.is_complete());
    let refused = |error| matches!(error, ConnectorError::Draining);
    assert!(b.create_readable(region()).await.is_err_and(refused));
    assert!(b.create_writable(region()).await.is_err_and(refused));
    assert!(b.begin_read(&metadata, region()).await.is_err_and(refused));
    let health = b.health().await;
    assert!(health.is_draining() && health.is_live() && !health.is_ready());
    assert!(b.drain(LONG).await.is_complete(), "again");
}

#[tokio::test]
async fn operations_in_hand_are_waited_for() {
    let (fabric, a, b) = pair().await;
    fabric.faults().next([Fault::Stalls { after: 0 }]);
    let mut offer = b.create_readable(region()).await.unwrap();
    let mut read = a.begin_read(offer.metadata(), region()).await.unwrap();
    let drains = async { tokio::join!(a.drain(LONG), b.drain(LONG)) };
    tokio::pin!(drains);
    tokio::select! {
        biased;
        _ = &mut drains => panic!("a read is in flight"),
        () = tokio::time::sleep(SHORT) => {}
    }
    fabric.faults().release();
    read.wait_for_completion().await.unwrap();
    offer.wait_for_completion().await.unwrap();
    let (a, b) = drains.await;
    assert!(a.is_complete() && b.is_complete());
}

#[tokio::test]
async fn what_is_left_at_the_deadline_is_counted_and_offers_are_revoked() {
    let (fabric, a, b) = pair().await;
    fabric.faults().next([Fault::Stalls { after: 0 }]);
    let mut taken = b.create_readable(region()).await.unwrap();
    let _read = a.begin_read(taken.metadata(), region()).await.unwrap();
    let mut unused = b.create_readable(region()).await.unwrap();
    let _metadata = unused.metadata().clone();
    let left = b.drain(SHORT).await;
    assert_eq!((left.revoked(), left.active()), (2, 0));
    assert_eq!(unused.wait_for_completion().await, Err(OperationError::Cancelled));
    assert_eq!(taken.wait_for_completion().await, Err(OperationError::Cancelled));
    let left = a.drain(SHORT).await;
    assert_eq!((left.revoked(), left.active()), (0, 1));
    fabric.faults().release();
}

#[tokio::test]
async fn peers_that_were_met_forget_the_one_that_leaves() {
    let (_fabric, a, b) = pair().await;
    read(&a, &b).await;
    read(&b, &a).await;
    assert_eq!(b.stats().peers(), 1);
    assert!(a.drain(LONG).await.is_complete());
    let forgotten = async {
        while b.stats().peers() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, forgotten).await.unwrap();
}

/// "I have drained and am about to go", as an agent sends it.
fn leaving(name: &str) -> Vec<u8> {
    let head = [b"\x89NXC".as_slice(), &[1, 8, name.len() as u8]].concat();
    [&head, name.as_bytes(), &[0; 8]].concat()
}

/// The sender of a notification is not proven, so that it may be another's word.
#[tokio::test]
async fn a_peer_that_is_said_to_leave_loses_nothing_that_is_under_way_and_is_let_go_once() {
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let transport = fabric.transport("a");
    let a = Connector::builder().transport(Arc::clone(&transport)).build().await.unwrap();
    let b = Connector::builder().transport(fabric.transport("b")).build().await.unwrap();
    read(&a, &b).await;
    read(&b, &a).await;
    let says = || assert!(transport.notify(&PeerId::new("b"), &leaving("a")).is_ready());
    fabric.faults().next([Fault::Stalls { after: 0 }]);
    let mut offer = a.create_readable(region()).await.unwrap();
    let mut under_way = b.begin_read(offer.metadata(), region()).await.unwrap();
    says();
    // Taken by the time that a later message is.
    read(&a, &b).await;
    assert_eq!(b.stats().peers(), 1);
    fabric.faults().release();
    under_way.wait_for_completion().await.unwrap();
    offer.wait_for_completion().await.unwrap();
    // It was believed once, and could not be let go.
    for _ in 0..3 {
        says();
        read(&a, &b).await;
        read(&b, &a).await;
        assert_eq!(b.stats().peers(), 1);
    }
}

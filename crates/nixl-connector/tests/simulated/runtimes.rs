//! Runtimes that end, drains and drops in the middle of operations.

use std::thread;
use std::time::Duration;

use nixl_connector::simulated::Fault;
use nixl_connector::{Connector, ConnectorError, OperationError, OperationOptions};
use nixl_descriptor::Region;
use nixl_metadata::RdmaMetadata;
use tokio::runtime::Builder;

use crate::net::{Net, net};

const SECOND: Duration = Duration::from_secs(1);

fn byte() -> Region {
    Region::zeroed(1).unwrap()
}

async fn offer(target: &Connector) -> (nixl_connector::ReadableOperation, RdmaMetadata) {
    let offer = target.create_readable(byte()).await.unwrap();
    let metadata = offer.metadata().clone();
    (offer, metadata)
}

/// Nothing is in hand after a while, and another operation works.
async fn goes_on(net: &Net) {
    while net.initiator.stats().active() > 0 || net.target.stats().passive() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (offered, metadata) = offer(&net.target).await;
    net.initiator.read(&metadata, byte()).await.unwrap();
    offered.await.unwrap();
}

#[test]
fn a_runtime_that_ends_in_the_middle_leaves_the_connectors_usable() {
    let runtime = || Builder::new_current_thread().enable_time().build().unwrap();
    let net = runtime().block_on(net());
    for round in 0..20 {
        let tasks = Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        net.fabric.faults().next([(); 16].map(|()| Fault::Delay(Duration::from_millis(2))));
        for _ in 0..64 {
            let (target, initiator) = (net.target.clone(), net.initiator.clone());
            tasks.spawn(async move {
                loop {
                    let (offered, metadata) = offer(&target).await;
                    initiator.read(&metadata, byte()).await.unwrap();
                    offered.await.unwrap();
                }
            });
        }
        thread::sleep(Duration::from_micros(500 * round));
        tasks.shutdown_background();
        runtime().block_on(goes_on(&net));
    }
}

#[tokio::test]
async fn two_drains_at_once_and_a_third_end_alike() {
    let net = net().await;
    let (offered, metadata) = offer(&net.target).await;
    let drains = async {
        let drain = || net.target.drain(10 * SECOND);
        tokio::join!(drain(), drain())
    };
    let read = async {
        tokio::task::yield_now().await;
        net.initiator.read(&metadata, byte()).await.unwrap();
        offered.await.unwrap();
    };
    let ((first, second), ()) = tokio::join!(drains, read);
    let third = net.target.drain(10 * SECOND).await;
    for drained in [first, second, third] {
        assert!(drained.is_complete(), "{drained:?}");
    }
    let refused = net.target.create_readable(byte()).await.unwrap_err();
    assert!(matches!(refused, ConnectorError::Draining));
}

/// What was begun before a drain is finished, what comes after is refused, and nothing waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_amid_begins_ends_and_so_do_they() {
    for _ in 0..20 {
        let net = net().await;
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let (target, initiator) = (net.target.clone(), net.initiator.clone());
                tokio::spawn(async move {
                    loop {
                        let (offered, metadata) = offer(&target).await;
                        match initiator.read(&metadata, byte()).await {
                            Ok(_) => _ = offered.await.unwrap(),
                            Err(error) => break error,
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(2)).await;
        let drained = net.initiator.drain(10 * SECOND).await;
        assert!(drained.is_complete(), "{drained:?}");
        for task in tasks {
            let error = task.await.unwrap();
            assert!(matches!(error, ConnectorError::Draining), "{error}");
        }
    }
}

#[tokio::test]
async fn offers_outlive_their_connector_until_their_deadlines() {
    let Net { fabric: _fabric, target, initiator } = net().await;
    let options = OperationOptions::new().timeout(Duration::from_millis(50));
    let mut first = target.create_writable_with(byte(), options).await.unwrap();
    let mut second = target.create_readable_with(byte(), options).await.unwrap();
    let _ = (first.metadata(), second.metadata());
    let (mut used, metadata) = offer(&target).await;
    initiator.read(&metadata, byte()).await.unwrap();
    drop((target, initiator));
    let waiter = thread::spawn(move || first.wait_blocking().unwrap_err());
    let timed_out = |error: &OperationError| matches!(error, OperationError::TimedOut { .. });
    assert!(timed_out(&second.wait_for_completion().await.unwrap_err()));
    assert!(timed_out(&waiter.join().unwrap()));
    assert_eq!(used.wait_blocking().unwrap().bytes(), 1);
}

//! Threads that block until an offer has ended.

use std::thread;
use std::time::Duration;

use nixl_connector::{OperationError, OperationOptions};
use nixl_descriptor::Region;
use nixl_metadata::RdmaMetadata;

use crate::net::{Net, net};

/// Offers a byte for reading on a thread of its own, which blocks until the offer has ended `rounds` times, and reads it here.
async fn rounds(net: &Net, rounds: usize) {
    let (offers, mut offered) = tokio::sync::mpsc::unbounded_channel::<RdmaMetadata>();
    let target = net.target.clone();
    let waiter = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for round in 0..rounds {
            let region = Region::try_from(vec![u8::try_from(round % 251).unwrap()]).unwrap();
            let mut offer = runtime.block_on(target.create_readable(region)).unwrap();
            offers.send(offer.metadata().clone()).unwrap();
            assert_eq!(offer.wait_blocking().unwrap().bytes(), 1);
            // The answer stays the same.
            assert_eq!(offer.wait_blocking().unwrap().bytes(), 1);
        }
    });
    for round in 0..rounds {
        let (offer, local) = (offered.recv().await.unwrap(), Region::zeroed(1).unwrap());
        net.initiator.read(&offer, local.clone()).await.unwrap();
        assert_eq!(local.to_vec().unwrap(), [u8::try_from(round % 251).unwrap()]);
    }
    waiter.join().unwrap();
}

#[tokio::test]
async fn an_initiator_ends_the_wait_of_a_thread() {
    rounds(&net().await, 200).await;
}

/// Some of them have the bell, and the driver's thread wakes the others.
#[tokio::test]
async fn several_threads_of_one_connection_wait_at_once() {
    let net = net().await;
    tokio::join!(rounds(&net, 50), rounds(&net, 50), rounds(&net, 50), rounds(&net, 50));
    assert_eq!(net.target.stats().passive(), 0);
}

/// A task waits for another offer meanwhile.
#[tokio::test]
async fn tasks_wait_beside_a_thread() {
    let net = net().await;
    let tasks = async {
        for _ in 0..50 {
            let mut offer = net.target.create_readable(Region::zeroed(1).unwrap()).await.unwrap();
            let local = Region::zeroed(1).unwrap();
            net.initiator.read(offer.metadata(), local).await.unwrap();
            offer.wait_for_completion().await.unwrap();
        }
    };
    tokio::join!(tasks, rounds(&net, 50));
}

#[tokio::test]
async fn a_thread_waits_no_longer_than_the_deadline_and_learns_of_a_decline() {
    let net = net().await;
    let options = OperationOptions::new().timeout(Duration::from_millis(20));
    let memory = Region::zeroed(1).unwrap();
    let mut offer = net.target.create_writable_with(memory, options).await.unwrap();
    // A peer has it, so that the offer does not end with the question for its metadata.
    let _ = offer.metadata();
    let ended = thread::spawn(move || offer.wait_blocking().unwrap_err()).join().unwrap();
    assert!(matches!(ended, OperationError::TimedOut { .. }), "{ended}");
    let mut offer = net.target.create_readable(Region::zeroed(1).unwrap()).await.unwrap();
    let metadata = offer.metadata().clone();
    let waiter = thread::spawn(move || offer.wait_blocking().unwrap_err());
    net.initiator.decline(&metadata).await.unwrap();
    assert_eq!(waiter.join().unwrap(), OperationError::Declined);
}

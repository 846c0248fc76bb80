//! Transfers from begin to end in one call, and those that are cancelled from elsewhere.

use std::time::Duration;

use nixl_connector::simulated::Fault;
use nixl_connector::{
    CancelOutcome, ConnectorError, OperationError, OperationOptions, TransportError,
};
use nixl_descriptor::{Descriptor, LeaseMode, Leases, Region};
use nixl_metadata::RdmaMetadata;
use proptest::prelude::*;

use crate::net::net;
use crate::side::pattern;

fn sent(metadata: &RdmaMetadata) -> RdmaMetadata {
    RdmaMetadata::decode(metadata.to_dynamo_json().as_bytes()).unwrap()
}

fn is_leased(region: &Region) -> bool {
    Leases::acquire(&[region.whole()], LeaseMode::Write).is_err()
}

#[tokio::test]
async fn a_read_and_a_write_are_one_call_each() {
    let net = net().await;
    let offered = net.target.create_readable(Region::try_from(pattern(64)).unwrap()).await.unwrap();
    let local = Region::zeroed(64).unwrap();
    let done = net.initiator.read(&sent(offered.metadata()), local.clone()).await.unwrap();
    assert_eq!(done.bytes(), 64);
    assert_eq!(local.to_vec().unwrap(), pattern(64));
    assert_eq!(offered.await.unwrap().bytes(), 64);

    let memory = Region::zeroed(64).unwrap();
    let offered = net.target.create_writable(memory.clone()).await.unwrap();
    net.initiator.write(local, &sent(offered.metadata())).await.unwrap();
    offered.await.unwrap();
    assert_eq!(memory.to_vec().unwrap(), pattern(64));
}

#[tokio::test]
async fn errors_of_both_halves_arrive() {
    let net = net().await;
    let offered = net.target.create_readable(Region::zeroed(64).unwrap()).await.unwrap();
    let remote = sent(offered.metadata());
    let local = Region::zeroed(32).unwrap();
    let error = net.initiator.read(&remote, local).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Pairing(_)), "{error:?}");

    net.fabric.faults().next([Fault::PeerDies { after: 32 }]);
    let error = net.initiator.read(&remote, Region::zeroed(64).unwrap()).await.unwrap_err();
    let gone = TransportError::PeerGone { name: net.target.name().to_owned() };
    assert_eq!(error, ConnectorError::Operation(OperationError::Transport(gone)));
}

#[tokio::test]
async fn options_are_those_of_the_transfer() {
    let net = net().await;
    net.fabric.faults().always([Fault::Stalls { after: 0 }]);
    let after = Duration::from_millis(20);
    let options = OperationOptions::new().timeout(after);
    let timed_out = ConnectorError::Operation(OperationError::TimedOut { after });
    let (ours, theirs) = (Region::zeroed(64).unwrap(), Region::zeroed(64).unwrap());
    let offered = net.target.create_readable(theirs.clone()).await.unwrap();
    let remote = sent(offered.metadata());
    let read = net.initiator.read_with(&remote, ours, options);
    assert_eq!(read.await.unwrap_err(), timed_out);
    let (ours, theirs) = (Region::zeroed(64).unwrap(), Region::zeroed(64).unwrap());
    let offered = net.target.create_writable(theirs).await.unwrap();
    let remote = sent(offered.metadata());
    let write = net.initiator.write_with(ours, &remote, options);
    assert_eq!(write.await.unwrap_err(), timed_out);
    net.fabric.faults().release();
}

/// However far it is: the memory comes back, and the next transfer is not concerned.
#[tokio::test]
async fn a_read_can_be_dropped_after_any_number_of_polls() {
    let net = net().await;
    for polls in 0..20 {
        let memory = Region::try_from(pattern(64)).unwrap();
        let offered = net.target.create_readable(memory).await.unwrap();
        let (remote, local) = (sent(offered.metadata()), Region::zeroed(64).unwrap());
        net.fabric.faults().always([Fault::Stalls { after: 32 }]);
        let mut read = Box::pin(net.initiator.read(&remote, local.clone()));
        for _ in 0..polls {
            tokio::select! {
                biased;
                ended = &mut read => panic!("{ended:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
        drop(read);
        net.fabric.faults().always([]);
        net.fabric.faults().release();
        let quiet = async {
            while is_leased(&local) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), quiet).await.unwrap();
    }
    let offered = net.target.create_readable(Region::try_from(pattern(64)).unwrap()).await.unwrap();
    let bytes = net.initiator.read_to_vec(&sent(offered.metadata()), 64).await.unwrap();
    assert_eq!(bytes, pattern(64));
}

#[tokio::test]
async fn a_handle_cancels_what_another_task_awaits() {
    let net = net().await;
    let offered = net.target.create_readable(Region::zeroed(64).unwrap()).await.unwrap();
    let (remote, local) = (sent(offered.metadata()), Region::zeroed(64).unwrap());
    net.fabric.faults().next([Fault::Stalls { after: 32 }]);
    let read = net.initiator.begin_read(&remote, local).await.unwrap();
    let handle = read.cancel_handle();
    let waiter = tokio::spawn(read.reclaim());
    assert_eq!(handle.cancel(), CancelOutcome::Cancelled);
    net.fabric.faults().release();
    let reclaimed = waiter.await.unwrap();
    assert_eq!(reclaimed.outcome, Err(OperationError::Cancelled));
    assert!(reclaimed.memory.is_some());
}

#[tokio::test]
async fn more_bytes_than_the_caller_takes_are_refused() {
    let net = net().await;
    let offered = net.target.create_readable(Region::try_from(pattern(64)).unwrap()).await.unwrap();
    let remote = sent(offered.metadata());
    let refused = net.initiator.read_to_vec(&remote, 63).await;
    assert_eq!(refused, Err(ConnectorError::OverLimit { bytes: 64, limit: 63 }));
    assert_eq!(net.initiator.read_to_vec(&remote, 64).await.unwrap(), pattern(64));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_bytes_come_in_the_order_of_the_descriptors(
        ranges in prop::collection::vec((0..256usize).prop_flat_map(|a| (Just(a), a + 1..=256)), 1..8)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let net = net().await;
            let bytes = pattern(256);
            let region = Region::try_from(bytes.clone()).unwrap();
            let parts = ranges.iter().map(|(start, end)| region.descriptor(*start..*end));
            let parts: Vec<Descriptor> = parts.collect::<Result<_, _>>().unwrap();
            let offered = net.target.create_readable(parts).await.unwrap();
            let read = net.initiator.read_to_vec(&sent(offered.metadata()), 1 << 20).await;
            let expected = ranges.iter().flat_map(|(start, end)| &bytes[*start..*end]).copied();
            assert_eq!(read.unwrap(), expected.collect::<Vec<u8>>());
        });
    }
}

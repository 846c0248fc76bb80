//! Faults as an application sees them, through connectors on real time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use nixl_connector::simulated::{Fabric, Fault};
use nixl_connector::{
    Connector, ConnectorError, EndedOffer, OperationError, OperationOptions, TransportError,
};
use nixl_descriptor::{LeaseMode, Leases, Region, RegionError};
use nixl_device::MachineIdentity;
use nixl_metadata::RdmaMetadata;
use nixl_ops::SystemClock;

use crate::net::net;

#[tokio::test]
async fn an_offer_says_where_its_owner_runs() {
    let net = net().await;
    let offer = net.target.create_readable(Region::zeroed(64).unwrap()).await.unwrap();
    let message = offer.metadata().to_native_bytes().unwrap();
    let metadata = RdmaMetadata::decode(&message).unwrap();
    let said = metadata.peer().unwrap().host();
    let here = MachineIdentity::discover();
    assert_eq!(said.boot_id(), here.boot_id());
    assert_eq!(said.pid(), std::process::id());
    assert_eq!(said.pid_namespace(), here.pid_namespace());
    assert_eq!(said.ipc_namespace(), here.ipc_namespace());
}

#[tokio::test]
async fn a_connector_reports_whether_cuda_is_there() {
    let net = net().await;
    assert_eq!(net.target.is_cuda_available(), nixl_device::cuda::is_available());
}

#[tokio::test]
async fn a_refused_registration_is_an_error_of_that_operation_only() {
    let net = net().await;
    let faults = net.fabric.faults_of(net.target.name()).unwrap();
    faults.refuse_registrations(true);
    let region = Region::zeroed(64).unwrap();
    let refused = net.target.create_readable(region.clone()).await.unwrap_err();
    assert!(matches!(refused, ConnectorError::Register(_)));
    faults.refuse_registrations(false);
    let mut offer = net.target.create_readable(region).await.unwrap();
    let local = Region::zeroed(64).unwrap();
    let mut read = net.initiator.begin_read(offer.metadata(), local).await.unwrap();
    read.wait_for_completion().await.unwrap();
    offer.wait_for_completion().await.unwrap();
}

#[tokio::test]
async fn buffers_are_registered_once_for_all_that_share_a_slab() {
    const COUNT: usize = 40;
    let net = net().await;
    let mut names = HashSet::new();
    for round in 0..COUNT {
        let (ours, theirs) = (net.target.buffer(5000), net.initiator.buffer(5000));
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
        names.extend([&ours, &theirs].map(|region| region.shared_name().unwrap().name));
        let bytes = vec![u8::try_from(round).unwrap(); 5000];
        ours.copy_from_slice(0, &bytes).unwrap();
        let mut offer = net.target.create_readable(ours).await.unwrap();
        let mut read = net.initiator.begin_read(offer.metadata(), theirs.clone()).await.unwrap();
        read.wait_for_completion().await.unwrap();
        offer.wait_for_completion().await.unwrap();
        assert_eq!(theirs.to_vec().unwrap(), bytes);
    }
    // One slab, or two where the first is used up.
    assert!(names.len() <= 2);
    for connector in [&net.target, &net.initiator] {
        let registrations = connector.stats().registrations();
        assert!(registrations.misses() <= names.len() as u64, "{registrations:?}");
        assert!(registrations.hits() + registrations.misses() >= COUNT as u64, "{registrations:?}");
    }
    assert_eq!(net.target.buffer(0).unwrap_err(), ConnectorError::Memory(RegionError::Empty));
}

#[tokio::test]
async fn a_write_that_is_late_meets_no_other_buffer() {
    let net = net().await;
    let mut offer = net.target.create_writable(net.target.buffer(5000).unwrap()).await.unwrap();
    let metadata = offer.metadata().clone();
    let local = Region::try_from(vec![9; 5000]).unwrap();
    let mut write = net.initiator.begin_write(local.clone(), &metadata).await.unwrap();
    write.wait_for_completion().await.unwrap();
    offer.wait_for_completion().await.unwrap();
    // The memory goes back to the pool, and other requests have their buffers from there.
    drop((offer, write));
    let others: Vec<_> = (0..10).map(|_| net.target.buffer(5000).unwrap()).collect();
    for other in &others {
        other.copy_from_slice(0, &[1; 5000]).unwrap();
    }
    let mut late = net.initiator.begin_write(local, &metadata).await.unwrap();
    let used = TransportError::OfferEnded { why: EndedOffer::Used };
    assert_eq!(late.wait_for_completion().await, Err(OperationError::Transport(used)));
    assert!(others.iter().all(|other| other.to_vec().unwrap() == [1; 5000]));
}

#[tokio::test]
async fn foreign_memory_is_offered_for_writing_unless_that_is_refused() {
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let builder = || Connector::builder().transport(fabric.transport("target"));
    let foreign = || Region::try_from(vec![0; 64]).unwrap();
    let lenient = builder().build().await.unwrap();
    lenient.create_writable(foreign()).await.unwrap();
    let strict = builder().refuse_foreign_memory().build().await.unwrap();
    let refused = strict.create_writable(foreign()).await.unwrap_err();
    assert_eq!(refused, ConnectorError::ForeignMemory { index: 0 });
    // What peers may only read, and memory of the library.
    strict.create_readable(foreign()).await.unwrap();
    strict.create_writable(strict.buffer(64).unwrap()).await.unwrap();
    strict.create_writable(Region::shared(64).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_dead_peer_is_an_error_and_others_are_not_concerned() {
    let net = net().await;
    let offer = net.target.create_readable(Region::zeroed(64).unwrap()).await.unwrap();
    let local = Region::zeroed(64).unwrap();
    net.fabric.faults().next([Fault::PeerDies { after: 32 }]);
    let mut read = net.initiator.begin_read(offer.metadata(), local.clone()).await.unwrap();
    let gone = TransportError::PeerGone { name: net.target.name().to_owned() };
    let ended = read.wait_for_completion().await;
    assert_eq!(ended, Err(OperationError::Transport(gone.clone())));
    drop(read);
    let refused = net.initiator.begin_read(offer.metadata(), local.clone()).await.unwrap_err();
    assert_eq!(refused, ConnectorError::Transport(gone));

    let other =
        Connector::builder().transport(net.fabric.transport("other")).build().await.unwrap();
    let offer = other.create_readable(Region::try_from(vec![3; 64]).unwrap()).await.unwrap();
    let mut read = net.initiator.begin_read(offer.metadata(), local.clone()).await.unwrap();
    read.wait_for_completion().await.unwrap();
    assert_eq!(local.to_vec().unwrap(), [3; 64]);
}

#[tokio::test]
async fn a_stalled_read_times_out_and_gives_its_memory_back_late() {
    let net = net().await;
    let faults = net.fabric.faults();
    let offer = net.target.create_readable(Region::try_from(vec![3; 64]).unwrap()).await.unwrap();
    let local = Region::zeroed(64).unwrap();
    faults.next([Fault::Stalls { after: 32 }]);
    let after = Duration::from_millis(20);
    let options = OperationOptions::new().timeout(after);
    let mut read =
        net.initiator.begin_read_with(offer.metadata(), local.clone(), options).await.unwrap();
    assert_eq!(read.wait_for_completion().await, Err(OperationError::TimedOut { after }));
    let leased = || Leases::acquire(&[local.whole()], LeaseMode::Write).is_err();
    assert!(leased());
    faults.release();
    let reclaimed = read.reclaim().await;
    assert!(reclaimed.memory.is_some());
    assert!(!leased());
    assert_eq!(local.to_vec().unwrap(), [3; 64], "written after the wait had ended");
}

/// Registering takes three seconds of real time here, so the deadline of the call must end it.
#[tokio::test]
async fn the_deadline_bounds_what_comes_before_the_transfer() {
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let connector = Connector::builder().transport(fabric.transport("slow")).build().await.unwrap();
    fabric.faults().delay_registrations(Duration::from_secs(3));
    let timeout = Duration::from_millis(50);
    let options = OperationOptions::new().timeout(timeout);
    let region = Region::zeroed(64).unwrap();
    let error = connector.create_readable_with(region, options).await.unwrap_err();
    let timed_out = OperationError::TimedOut { after: timeout };
    assert_eq!(error, ConnectorError::Operation(timed_out));
    assert_eq!(connector.stats().active(), 0);
}

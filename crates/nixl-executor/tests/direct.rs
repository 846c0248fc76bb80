//! The direct executor: copies inside the process, and everything else to the transport.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use nixl_connector::simulated::Fabric;
use nixl_connector::{Connector, ConnectorError, EndedOffer, OperationStatus, TransportError};
use nixl_descriptor::{Descriptor, Region};
use nixl_executor::{DirectExecutor, PathKind};
use nixl_metadata::{OperationKind, RdmaMetadata, SerializedDescriptor};
use nixl_ops::SystemClock;
use proptest::prelude::*;

async fn connector(fabric: &Fabric, name: &str) -> Connector {
    Connector::builder()
        .transport(fabric.transport(name))
        .executor(Arc::new(DirectExecutor::new()))
        .build()
        .await
        .unwrap()
}

fn fabric() -> Fabric {
    Fabric::new(Arc::new(SystemClock::new()))
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Cuts a region of its own into descriptors of these lengths, in this order, with gaps.
fn scatter(lens: &[usize], order: &[usize], seed: u8) -> (Region, Vec<Descriptor>) {
    let total: usize = lens.iter().map(|len| len + 3).sum();
    let bytes: Vec<u8> = (0..total).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
    let region = Region::try_from(bytes).unwrap();
    let mut places = vec![0..0; lens.len()];
    let mut at = 0;
    for index in order {
        places[*index] = at..at + lens[*index];
        at += lens[*index] + 3;
    }
    let list = places.into_iter().map(|place| region.descriptor(place).unwrap()).collect();
    (region, list)
}

fn bytes(list: &[Descriptor]) -> Vec<Vec<u8>> {
    list.iter()
        .map(|d| {
            let mut bytes = vec![0; d.len()];
            d.region().copy_to_slice(d.offset(), &mut bytes).unwrap();
            bytes
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn scattered_lists_arrive_whole(
        lens in proptest::collection::vec(1usize..400_000, 1..6),
        kind in any::<bool>(), shuffle in any::<prop::sample::Index>(),
    ) {
        block_on(async {
            let fabric = fabric();
            let (a, b) = (connector(&fabric, "a").await, connector(&fabric, "b").await);
            let straight: Vec<_> = (0..lens.len()).collect();
            let mut turned = straight.clone();
            turned.rotate_left(shuffle.index(lens.len()));
            let (there, offered) = scatter(&lens, &turned, 1);
            let (here, local) = scatter(&lens, &straight, 2);
            let before = (there.to_vec().unwrap(), here.to_vec().unwrap());
            let path = if kind {
                let mut target = a.create_readable(offered.clone()).await.unwrap();
                let mut read = b.begin_read(target.metadata(), local.clone()).await.unwrap();
                let done = read.wait_for_completion().await.unwrap();
                target.wait_for_completion().await.unwrap();
                assert_eq!(bytes(&local), bytes(&offered));
                assert_eq!(there.to_vec().unwrap(), before.0);
                done.path().unwrap().kind()
            } else {
                let mut target = a.create_writable(offered.clone()).await.unwrap();
                let mut write = b.begin_write(local.clone(), target.metadata()).await.unwrap();
                let done = write.wait_for_completion().await.unwrap();
                target.wait_for_completion().await.unwrap();
                assert_eq!(bytes(&offered), bytes(&local));
                assert_eq!(here.to_vec().unwrap(), before.1);
                done.path().unwrap().kind()
            };
            assert_eq!(path, PathKind::SameProcessCopy);
            assert_eq!((a.stats().active(), a.stats().passive()), (0, 0));
        });
    }
}

#[test]
fn a_connector_reads_what_it_offers_itself() {
    block_on(async {
        let fabric = fabric();
        let a = connector(&fabric, "a").await;
        let mut offered =
            a.create_readable(Region::try_from(vec![7u8; 100]).unwrap()).await.unwrap();
        let local = Region::zeroed(100).unwrap();
        let mut read = a.begin_read(offered.metadata(), local.clone()).await.unwrap();
        read.wait_for_completion().await.unwrap();
        offered.wait_for_completion().await.unwrap();
        assert_eq!(local.to_vec().unwrap(), [7; 100]);
    });
}

#[test]
fn others_offers_go_over_the_transport_and_the_report_says_why() {
    block_on(async {
        let fabric = fabric();
        // Offered by a connector that does not announce: as if it were another process.
        let plain =
            Connector::builder().transport(fabric.transport("plain")).build().await.unwrap();
        let direct = connector(&fabric, "direct").await;
        let offered =
            plain.create_readable(Region::try_from(vec![7u8; 100]).unwrap()).await.unwrap();
        let mut offered = offered;
        let remote = offered.metadata().clone();
        let mut read = direct.begin_read(&remote, Region::zeroed(100).unwrap()).await.unwrap();
        let done = read.wait_for_completion().await.unwrap();
        let path = done.path().unwrap();
        assert_eq!(path.kind(), PathKind::Direct);
        assert_eq!(path.rejected()[0].kind(), PathKind::SameProcessCopy);
        assert!(path.to_string().contains("not same-process-copy"), "{path}");
        offered.wait_for_completion().await.unwrap();
    });
}

#[test]
fn an_offer_serves_once_and_its_key_does_not_fit_another() {
    block_on(async {
        let fabric = fabric();
        let (a, b) = (connector(&fabric, "a").await, connector(&fabric, "b").await);
        let secret = Region::try_from(vec![9u8; 4096]).unwrap();
        let small = Region::try_from(vec![7u8; 64]).unwrap();
        let mut offered = a.create_readable(small.clone()).await.unwrap();
        let genuine = offered.metadata().clone();

        // The key of this offer with the address of other memory: refused, and nothing is read.
        let elsewhere = SerializedDescriptor::new(secret.device(), secret.address(), 64).unwrap();
        let forged = RdmaMetadata::new(
            OperationKind::Read,
            vec![elsewhere],
            genuine.agent_metadata().clone(),
            genuine.notification_key().clone(),
        )
        .unwrap();
        let local = Region::zeroed(64).unwrap();
        let error = b.begin_read(&forged, local.clone()).await.unwrap_err();
        assert!(
            matches!(error, ConnectorError::Transport(TransportError::BadMetadata { .. })),
            "{error}"
        );
        assert_eq!(local.to_vec().unwrap(), [0; 64]);
        assert_eq!(offered.status(), OperationStatus::Initialized);

        let mut read = b.begin_read(&genuine, local.clone()).await.unwrap();
        read.wait_for_completion().await.unwrap();
        offered.wait_for_completion().await.unwrap();
        // It has ended: the second time it is an error, not a copy.
        let error = b.begin_read(&genuine, local).await.unwrap_err();
        let used = TransportError::OfferEnded { why: EndedOffer::Used };
        assert_eq!(error, ConnectorError::Transport(used));
    });
}

#[test]
fn a_cancelled_offer_gives_its_memory_back_and_serves_no_more() {
    block_on(async {
        let fabric = fabric();
        let (a, b) = (connector(&fabric, "a").await, connector(&fabric, "b").await);
        let region = Region::zeroed(64).unwrap();
        let mut offered = a.create_writable(region.clone()).await.unwrap();
        let remote = offered.metadata().clone();
        offered.cancel();
        let error = b.begin_write(Region::zeroed(64).unwrap(), &remote).await.unwrap_err();
        let revoked = TransportError::OfferEnded { why: EndedOffer::Revoked };
        assert_eq!(error, ConnectorError::Transport(revoked));
    });
}

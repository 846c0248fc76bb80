//! Transfers of blocks take turns: in classes, within bounds, and those of the bulk class in pieces.

use super::*;
use crate::TransferLimits;

/// More bytes than a piece has, and no multiple of them.
const LARGE: usize = 700 << 10;
/// Of three such blocks.
const PIECES: u64 = 33;
const ALL: Fault = Fault::Stalls { after: u64::MAX };

pub(super) fn large() -> (Layout, Vec<Region>) {
    let region = Region::zeroed(3 * LARGE).unwrap();
    for (index, byte) in [7, 8, 9].into_iter().enumerate() {
        region.copy_from_slice(index * LARGE, &vec![byte; LARGE]).unwrap();
    }
    let geometry = LayoutGeometry::try_from(Dimensions {
        blocks: 3,
        layers: 2,
        outer: 1,
        page_size: 1,
        inner: Inner::Elements(LARGE / 4),
        element_width: 2,
    })
    .unwrap();
    (Layout::fully_contiguous(geometry, region.clone()).unwrap(), vec![region])
}

fn bulk() -> BlockTransferOptions {
    let operation = OperationOptions::new().timeout(Duration::from_secs(60));
    BlockTransferOptions::new().class(TransferClass::Bulk).operation(operation)
}

async fn until_idle(reader: &Connector) {
    while reader.stats().active() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_bulk_read_brings_the_same_bytes_in_pieces() {
    let world = World::with(|reader| reader, large()).await;
    let grant = world.export.grant(0, &[2, 0, 1], GrantOptions::new()).unwrap();
    for import in world.imports().await {
        let (local, bytes) = large();
        let read = import.read_blocks_with(grant.ticket(), &local, &[0, 1, 2], bulk());
        let done = read.await.unwrap();
        assert_eq!(done.bytes(), 3 * LARGE as u64);
        assert_eq!(done.path().map(|path| path.chunks()), Some(PIECES));
        let expected: Vec<u8> = [9, 7, 8].into_iter().flat_map(|byte| vec![byte; LARGE]).collect();
        assert!(bytes[0].to_vec().unwrap() == expected);
        // Of one layer only.
        let (local, bytes) = large();
        let options = bulk().layers(1..2);
        import.read_blocks_with(grant.ticket(), &local, &[0, 1, 2], options).await.unwrap();
        let layer = |block: usize| bytes[0].to_vec().unwrap()[block * LARGE..][..LARGE].to_vec();
        let half = LARGE / 2;
        assert!(layer(0) == [vec![7; half], vec![9; half]].concat());
        assert!(layer(1) == [vec![8; half], vec![7; half]].concat());
    }
}

#[tokio::test]
async fn a_piece_that_fails_or_comes_too_late_fails_the_read_and_leaves_nothing() {
    let world = World::with(|reader| reader, large()).await;
    let [_, import] = world.imports().await;
    let (local, _bytes) = large();
    let faults = world.fabric.faults_of(world.reader.name()).unwrap();
    for fault in [Fault::Fails { after: 10 }, Fault::PostFails] {
        let grant = world.export.grant(0, &[0, 1, 2], GrantOptions::new()).unwrap();
        faults.next([]);
        faults.next([fault]);
        let read = import.read_blocks_with(grant.ticket(), &local, &[0, 1, 2], bulk()).await;
        let error = read.unwrap_err();
        assert_eq!(error.blocks(), [0, 1, 2]);
        assert!(!is_stale(error.cause()), "{error}");
        until_idle(&world.reader).await;
        import.read_blocks_with(grant.ticket(), &local, &[0, 1, 2], bulk()).await.unwrap();
    }
    // The grant ends between two pieces.
    let grant = world.export.grant(0, &[0, 1, 2], GrantOptions::new()).unwrap();
    faults.next([]);
    faults.next([ALL]);
    let (reading, ticket) = (import.clone(), grant.ticket().clone());
    let reading =
        tokio::spawn(
            async move { reading.read_blocks_with(&ticket, &local, &[0, 1, 2], bulk()).await },
        );
    while world.reader.stats().active() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(grant.end());
    while !reading.is_finished() {
        faults.release();
        tokio::task::yield_now().await;
    }
    assert!(is_stale(&cause(reading.await.unwrap())));
}

#[tokio::test]
async fn a_read_waits_for_its_turn_and_is_refused_beyond_the_depth_of_the_queue() {
    let limits = TransferLimits::new().per_peer(1).queued(1);
    let world = World::with(|reader| reader.transfer_limits(limits), per_layer()).await;
    let [_, import] = world.imports().await;
    let (local, bytes) = contiguous();
    let grant = world.export.grant(0, &[5], GrantOptions::new()).unwrap();
    let faults = world.fabric.faults_of(world.reader.name()).unwrap();
    faults.next([ALL]);
    let begin = |id: usize| {
        let (import, ticket, local) = (import.clone(), grant.ticket().clone(), local.clone());
        tokio::spawn(async move { import.read_blocks(&ticket, &local, &[id]).await })
    };
    let first = begin(0);
    while faults.left() > 0 {
        tokio::task::yield_now().await;
    }
    // One that waits and is dropped makes room for the next.
    let dropped = begin(1);
    tokio::task::yield_now().await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    let waits = begin(2);
    let refused = loop {
        tokio::task::yield_now().await;
        let options = OperationOptions::new().timeout(Duration::from_millis(1));
        let options = BlockTransferOptions::new().operation(options);
        let error = cause(import.read_blocks_with(grant.ticket(), &local, &[3], options).await);
        if !matches!(error, ConnectorError::Operation(_)) {
            break error;
        }
    };
    assert_eq!(refused, ConnectorError::WouldBlock { queued: 1 });
    assert!(!first.is_finished() && !waits.is_finished());
    faults.release();
    first.await.unwrap().unwrap();
    waits.await.unwrap().unwrap();
    assert_eq!([read(&bytes, 0), read(&bytes, 2)], [block(5), block(5)]);
}

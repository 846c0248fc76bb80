//! Waits for the connection's thread, and the memory that is closed after a peer has left.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::Poll;
use std::time::Duration;

use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};
use nixl_metadata::RdmaMetadata;
use nixl_ops::{OperationError, OperationOptions, PeerId, SystemClock, TransportError};

use crate::ended::PeerProcess;
use crate::simulated::Fabric;
use crate::{
    BlockTransferOptions, Connector, ConnectorError, GrantOptions, ImportOptions, TransferClass,
};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(20);

async fn pair(timeout: Duration) -> [Connector; 2] {
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let builder = |name| Connector::builder().transport(fabric.transport(name));
    [builder("a").build().await.unwrap(), builder("b").timeout(timeout).build().await.unwrap()]
}

fn region() -> Region {
    Region::zeroed(64).unwrap()
}

/// `from` reads memory of `to`.
async fn read(from: &Connector, to: &Connector) {
    let mut offer = to.create_readable(region()).await.unwrap();
    from.read(offer.metadata(), region()).await.unwrap();
    offer.wait_for_completion().await.unwrap();
}

fn layout() -> Layout {
    let inner = Inner::Elements(8);
    let dimensions =
        Dimensions { blocks: 2, layers: 1, outer: 1, page_size: 4, inner, element_width: 2 };
    let geometry = LayoutGeometry::try_from(dimensions).unwrap();
    let part = Region::zeroed(geometry.blocks() * geometry.layer_len()).unwrap().whole();
    Layout::per_layer(geometry, LayerOrder::BlockFirst, vec![part]).unwrap()
}

/// Has the connection's thread wait, as a blocking call of the engine's with another peer does, until the sender is dropped.
fn blocked(connector: &Connector) -> Sender<()> {
    let (release, gate) = channel::<()>();
    let (begin, begun) = channel();
    connector.connection().control().post(move || {
        begin.send(()).unwrap();
        let _ = gate.recv();
    });
    begun.recv().unwrap();
    release
}

#[tokio::test]
async fn no_call_waits_for_the_connections_thread_beyond_its_deadline() {
    let [a, b] = pair(SHORT).await;
    let export = a.export([("full", layout())]).await.unwrap();
    let import = b.import_unless(export.metadata(), None, ImportOptions::new()).await.unwrap();
    let grant = export.grant(0, &[0], GrantOptions::new()).unwrap();
    let ticket = grant.ticket();
    let offer = a.create_readable(region()).await.unwrap();
    let remote = RdmaMetadata::decode(&offer.metadata().to_native_bytes().unwrap()).unwrap();
    // Its page has to be opened anew.
    b.connection().slots.close_of(std::process::id());
    // And the peer has to be loaded anew.
    let owner = PeerId::new(a.name());
    b.connection().transport().disconnect(&owner).unwrap();
    let release = blocked(&b);
    let late = |result: Result<(), ConnectorError>| {
        let is_late =
            matches!(&result, Err(ConnectorError::Operation(OperationError::TimedOut { .. })));
        assert!(is_late, "{result:?}");
    };
    late(b.decline(&remote).await);
    late(b.export([("full", layout())]).await.map(drop));
    late(b.import_unless(export.metadata(), None, ImportOptions::new()).await.map(drop));
    let bulk = BlockTransferOptions::new().class(TransferClass::Bulk);
    let bulk = bulk.operation(OperationOptions::new().timeout(SHORT));
    let read = import.read_blocks_with(ticket, &layout(), &[0], bulk).await;
    late(read.map(drop).map_err(|error| error.cause().clone()));
    late(b.begin_read(&remote, region()).await.map(drop));
    // The messages of an import need no thread of the connection's. Reads by the ticket are refused after the last.
    import.renew(ticket).await.unwrap();
    import.notify(b"hello").await.unwrap();
    import.done(ticket).await.unwrap();
    drop(release);
}

#[tokio::test]
async fn memory_of_a_peer_that_has_left_is_closed() {
    let [a, b] = pair(LONG).await;
    read(&a, &b).await;
    read(&b, &a).await;
    let slots = Arc::clone(&b.connection().slots);
    let open = || format!("{slots:?}").contains("open: 1");
    assert!(open());
    assert!(a.drain(LONG).await.is_complete());
    drop(a);
    let closed = async {
        while open() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, closed).await.unwrap();
    assert_eq!(b.stats().peers(), 0);
}

async fn until_forgotten(connector: &Connector) {
    let forgotten = async {
        while connector.stats().peers() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, forgotten).await.unwrap();
}

#[tokio::test]
async fn a_peer_is_forgotten_once_the_engine_finds_its_connection_dead() {
    let [a, b] = pair(LONG).await;
    read(&b, &a).await;
    let peer = PeerId::new(a.name());
    assert_eq!(b.stats().peers(), 1);
    drop(a);
    let transport = Arc::clone(b.connection().transport());
    let is_gone = || match transport.notify(&peer, b"are you there?") {
        Poll::Ready(Err(error)) => matches!(error, TransportError::PeerGone { .. }),
        _ => false,
    };
    // Its threads end first.
    while !is_gone() {
        tokio::task::yield_now().await;
    }
    until_forgotten(&b).await;
}

/// A connect may take seconds.
#[tokio::test]
async fn the_end_of_a_process_is_dealt_with_beside_a_connect() {
    let [a, b] = pair(LONG).await;
    read(&b, &a).await;
    let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    b.connection()
        .knowledge()
        .forget_at_exit(&PeerId::new(a.name()), PeerProcess::Here(process.id()));
    let release = blocked(&b);
    process.kill().unwrap();
    until_forgotten(&b).await;
    drop(release);
    process.wait().unwrap();
}

/// It has sent a message, and this side has never used its memory.
#[tokio::test]
async fn a_peer_that_introduced_itself_is_let_go_at_the_end_of_its_process() {
    let [a, b] = pair(LONG).await;
    let metadata = a.connection().local_metadata().await.unwrap();
    let blob = metadata.inflate(&nixl_metadata::Limits::default()).unwrap();
    let (peer, transport) = (PeerId::new(a.name()), Arc::clone(b.connection().transport()));
    transport.connect(&blob).unwrap();
    let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    for _ in 0..2 {
        b.connection().knowledge().let_go_at_exit(&peer, process.id());
    }
    process.kill().unwrap();
    let forgotten = async {
        // The engine knows it until then.
        while !matches!(
            transport.notify(&peer, b"hello"),
            Poll::Ready(Err(TransportError::UnknownPeer { .. }))
        ) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, forgotten).await.unwrap();
    process.wait().unwrap();
    assert!(!b.connection().peers.watches_introduced(&peer));
}

//! Exports over the simulated network: reads of granted blocks, and refusals of others.

use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};
use nixl_descriptor::{PublishedWords, Region};
use nixl_metadata::{ExportMetadata, Rights, SharedFile, Ticket, TicketTerms, WordsLocation};
use nixl_ops::{Clock, ManualClock, SystemClock, TransportError};

use super::{
    BlockReadError, BlockTransferOptions, Export, GrantOptions, ImportOptions, RemoteExport,
    TicketError, WriteGrantOptions,
};
use crate::simulated::{Fabric, Fault};
use crate::{Connector, ConnectorBuilder, ConnectorError, OperationOptions, TransferClass};

mod closing;
mod connected;
mod counted;
mod done;
mod late;
mod notifications;
mod own;
mod parts;
mod plain;
mod prepared;
mod ready;
mod registering;
mod renewal;
mod stream;
mod tensors;
mod turns;
mod waits;
mod words;
mod writes;

const BLOCKS: usize = 12;

fn geometry() -> LayoutGeometry {
    LayoutGeometry::try_from(Dimensions {
        blocks: BLOCKS,
        layers: 3,
        outer: 2,
        page_size: 4,
        inner: Inner::Elements(8),
        element_width: 2,
    })
    .unwrap()
}

/// A cache of one part for each layer, whose bytes say their place.
fn per_layer() -> (Layout, Vec<Region>) {
    let geometry = geometry();
    let regions: Vec<_> = (0..geometry.layers())
        .map(|layer| {
            let len = geometry.blocks() * geometry.layer_len();
            let bytes: Vec<u8> =
                (0..len).map(|at| (at / geometry.layer_len() * 16 + layer) as u8).collect();
            Region::try_from(bytes).unwrap()
        })
        .collect();
    let parts = regions.iter().map(|region| region.whole()).collect();
    (Layout::per_layer(geometry, LayerOrder::BlockFirst, parts).unwrap(), regions)
}

fn contiguous() -> (Layout, Region) {
    let region = Region::zeroed(geometry().bytes()).unwrap();
    (Layout::fully_contiguous(geometry(), region.clone()).unwrap(), region)
}

/// What a block of the cache reads as in a contiguous one.
fn block(id: u8) -> Vec<u8> {
    let layer = geometry().layer_len();
    (0..3).flat_map(|index| vec![id * 16 + index; layer]).collect()
}

fn read(region: &Region, id: usize) -> Vec<u8> {
    let len = geometry().block_len();
    region.to_vec().unwrap()[id * len..][..len].to_vec()
}

/// As a peer of another host has it: the words cannot be mapped.
fn from_afar(metadata: &ExportMetadata) -> ExportMetadata {
    ExportMetadata::new(
        metadata.export(),
        metadata.agent_metadata().clone(),
        metadata.peer().clone(),
        metadata.layouts().to_vec(),
        WordsLocation { file: None, ..*metadata.words() },
    )
    .unwrap()
}

struct World {
    fabric: Fabric,
    reader: Connector,
    owner: Connector,
    export: Export,
    cache: Vec<Region>,
}

impl World {
    async fn new() -> Self {
        Self::with(|reader| reader, per_layer()).await
    }

    async fn with(
        reader: impl FnOnce(ConnectorBuilder) -> ConnectorBuilder,
        of: (Layout, Vec<Region>),
    ) -> Self {
        Self::at(Arc::new(SystemClock::new()), reader, of).await
    }

    async fn at(
        clock: Arc<dyn Clock>,
        reader: impl FnOnce(ConnectorBuilder) -> ConnectorBuilder,
        (layout, cache): (Layout, Vec<Region>),
    ) -> Self {
        let fabric = Fabric::new(Arc::clone(&clock));
        let builder =
            |name| Connector::builder().transport(fabric.transport(name)).clock(Arc::clone(&clock));
        let owner = builder("owner").build().await.unwrap();
        let reader = reader(builder("reader")).build().await.unwrap();
        let export = owner.export([("full", layout)]).await.unwrap();
        Self { fabric, reader, owner, export, cache }
    }

    /// The export as a reader of this host and as one of another host reach it.
    async fn imports(&self) -> [RemoteExport; 2] {
        let here = self
            .reader
            .import_unless(self.export.metadata(), None, ImportOptions::new())
            .await
            .unwrap();
        let afar = from_afar(self.export.metadata());
        let afar = self.reader.import_unless(&afar, None, ImportOptions::new()).await.unwrap();
        assert!(here.words_are_mapped() && !afar.words_are_mapped());
        [here, afar]
    }
}

fn cause(result: Result<crate::Completion, BlockReadError>) -> ConnectorError {
    result.unwrap_err().cause().clone()
}

fn is_stale(error: &ConnectorError) -> bool {
    let stale = |error: &TransportError| *error == TransportError::Stale;
    match error {
        ConnectorError::Transport(error) => stale(error),
        ConnectorError::Operation(crate::OperationError::Transport(error)) => stale(error),
        _ => false,
    }
}

#[tokio::test]
async fn granted_blocks_are_read_by_id() {
    let world = World::new().await;
    for import in world.imports().await {
        let (local, bytes) = contiguous();
        let grant = world.export.grant(0, &[7, 2, 3], GrantOptions::new()).unwrap();
        let done = import.read_blocks(grant.ticket(), &local, &[0, 4, 5]).await.unwrap();
        assert_eq!(done.bytes(), 3 * geometry().block_len() as u64);
        assert_eq!(done.path().unwrap().kind(), crate::PathKind::Direct);
        for (granted, local) in [(7, 0), (2, 4), (3, 5)] {
            assert_eq!(read(&bytes, local), block(granted));
        }
        // Again, and only one layer.
        let options = BlockTransferOptions::new().layers(1..2);
        let (local, bytes) = contiguous();
        import.read_blocks_with(grant.ticket(), &local, &[0, 1, 2], options).await.unwrap();
        let layer = geometry().layer_len();
        let mut expected = vec![0; 3 * layer];
        expected[layer..2 * layer].fill(7 * 16 + 1);
        assert_eq!(read(&bytes, 0), expected);
        assert!(world.cache[0].copy_from_slice(7 * layer, &[1]).is_err(), "it is granted");
        assert!(grant.end());
        let error = cause(import.read_blocks(&ticket_of(&world, &[7]), &local, &[0]).await);
        assert!(is_stale(&error), "{error}");
    }
    assert_eq!(world.export.stats().alive(), 0);
}

/// A ticket whose grant has ended.
fn ticket_of(world: &World, blocks: &[u32]) -> Ticket {
    world.export.grant(0, blocks, GrantOptions::new()).unwrap().ticket().clone()
}

#[tokio::test]
async fn a_grant_that_ends_while_it_is_read_makes_the_read_stale() {
    let world = World::new().await;
    for import in world.imports().await {
        for overwrite in [true, false] {
            let (local, _bytes) = contiguous();
            let grant = world.export.grant(0, &[5, 6], GrantOptions::new()).unwrap();
            let ticket = grant.ticket().clone();
            let faults = world.fabric.faults_of(world.reader.name()).unwrap();
            faults.next([Fault::Stalls { after: 70 }]);
            let reading = {
                let (import, local) = (import.clone(), local.clone());
                tokio::spawn(async move { import.read_blocks(&ticket, &local, &[1, 2]).await })
            };
            // Until the engine has the request, which stalls.
            while world.reader.stats().active() == 0 {
                tokio::task::yield_now().await;
            }
            assert!(grant.end());
            if overwrite {
                let len = geometry().layer_len();
                world.cache[1].copy_from_slice(5 * len, &vec![0xff; len]).unwrap();
                world.cache[1].copy_from_slice(5 * len, &vec![5 * 16 + 1; len]).unwrap();
            }
            // It may stall only now.
            while !reading.is_finished() {
                faults.release();
                tokio::task::yield_now().await;
            }
            let error = reading.await.unwrap().unwrap_err();
            assert!(is_stale(error.cause()), "{error}");
            assert_eq!(error.blocks(), [1, 2]);
        }
    }
}

#[tokio::test]
async fn a_grant_ends_by_its_readers_words() {
    let world = World::new().await;
    let [here, afar] = world.imports().await;
    let options = GrantOptions::new().readers(2.try_into().unwrap());
    let grant = world.export.grant(0, &[1, 2], options).unwrap();
    let ticket = grant.ticket().clone();
    here.done(&ticket).await.unwrap();
    here.done(&ticket).await.unwrap();
    let free = grant.free_blocks().unwrap();
    let other = world.export.grant(0, &[2], GrantOptions::new()).unwrap();
    afar.done(&ticket).await.unwrap();
    let waits = world.export.free_blocks(0, &[1]).unwrap();
    tokio::time::timeout(Duration::from_secs(20), waits).await.unwrap();
    assert_eq!(world.export.stats().alive(), 1, "the other covers block 2");
    drop(other);
    tokio::time::timeout(Duration::from_secs(20), free).await.unwrap();
    assert!(!grant.end(), "it had ended");
    let layer = geometry().layer_len();
    world.cache[0].copy_from_slice(layer, &[9]).unwrap();
}

/// Another import, which may be in another process, is another reader of the same ticket.
#[tokio::test]
async fn a_reader_that_is_done_ends_no_read_of_another() {
    let world = World::new().await;
    let [here, afar] = world.imports().await;
    let options = GrantOptions::new().readers(2.try_into().unwrap());
    let grant = world.export.grant(0, &[5, 6], options).unwrap();
    let ticket = grant.ticket().clone();
    let (local, bytes) = contiguous();
    let faults = world.fabric.faults_of(world.reader.name()).unwrap();
    faults.next([Fault::Stalls { after: 70 }]);
    let reading = {
        let (import, ticket, local) = (afar.clone(), ticket.clone(), local.clone());
        tokio::spawn(async move { import.read_blocks(&ticket, &local, &[1, 2]).await })
    };
    while world.reader.stats().active() == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        here.done(&ticket).await.unwrap();
    }
    let error = cause(here.read_blocks(&ticket, &local, &[3, 4]).await);
    assert!(is_stale(&error), "{error}");
    // The owner has taken all that was sent before.
    let other = world.export.grant(0, &[0], GrantOptions::new()).unwrap();
    here.done(other.ticket()).await.unwrap();
    let waits = world.export.free_blocks(0, &[0]).unwrap();
    tokio::time::timeout(Duration::from_secs(20), waits).await.unwrap();
    assert_eq!(world.export.stats().alive(), 1);
    while !reading.is_finished() {
        faults.release();
        tokio::task::yield_now().await;
    }
    reading.await.unwrap().unwrap();
    assert_eq!([read(&bytes, 1), read(&bytes, 2)], [block(5), block(6)]);
    let free = grant.free_blocks().unwrap();
    afar.done(&ticket).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), free).await.unwrap();
    assert_eq!(world.export.stats().alive(), 0);
}

#[tokio::test]
async fn a_grant_ends_when_its_time_is_over() {
    let clock = Arc::new(ManualClock::new());
    let fabric = Fabric::new(clock.clone());
    let build =
        |name| Connector::builder().transport(fabric.transport(name)).clock(clock.clone()).build();
    let (owner, reader) = (build("owner").await.unwrap(), build("reader").await.unwrap());
    let (layout, cache) = per_layer();
    let export = owner.export([("full", layout)]).await.unwrap();
    let import = reader.import_unless(export.metadata(), None, ImportOptions::new()).await.unwrap();
    let time = Duration::from_secs(5);
    let grant = export.grant(0, &[3], GrantOptions::new().time_to_live(time)).unwrap();
    let free = export.free_blocks(0, &[3]).unwrap();
    clock.advance(time);
    free.await;
    let layer = geometry().layer_len();
    cache[0].copy_from_slice(3 * layer, &[1]).unwrap();
    let (local, _bytes) = contiguous();
    let error = cause(import.read_blocks(grant.ticket(), &local, &[0]).await);
    assert_eq!(error, TicketError::Expired.into());
}

#[tokio::test]
async fn tickets_that_were_not_given_out_are_refused() {
    let world = World::new().await;
    let (layout, _cache) = per_layer();
    let other = world.owner.export([("full", layout)]).await.unwrap();
    for import in world.imports().await {
        let (local, _bytes) = contiguous();
        let grant = world.export.grant(0, &[1, 2], GrantOptions::new().layers(0..2)).unwrap();
        let ticket = grant.ticket();
        let terms = || TicketTerms {
            export: ticket.export(),
            layout: ticket.layout(),
            layers: ticket.layers(),
            rights: ticket.rights(),
            slot: ticket.slot(),
            generation: ticket.generation(),
            token: *ticket.token(),
            expires_unix_millis: ticket.expires_unix_millis(),
        };
        let refused = async |terms: TicketTerms, blocks: &[u32]| {
            let forged = Ticket::new(terms, blocks).unwrap();
            cause(import.read_blocks(&forged, &local, &[0, 1]).await)
        };
        let not_granted = |error: ConnectorError| {
            let text = error.to_string();
            assert!(text.contains("other blocks, layers or rights"), "{text}");
        };
        not_granted(refused(terms(), &[1, 3]).await);
        not_granted(refused(TicketTerms { layers: 0..3, ..terms() }, &[1, 2]).await);
        let slots = world.export.metadata().words().slots;
        let error = refused(TicketTerms { slot: slots, ..terms() }, &[1, 2]).await;
        assert_eq!(error, TicketError::NoSuchSlot { slot: slots, slots }.into());
        let error = refused(TicketTerms { layout: 1, ..terms() }, &[1, 2]).await;
        assert_eq!(error, TicketError::NoSuchLayout { layout: 1, layouts: 1 }.into());
        let error = refused(TicketTerms { rights: Rights::Write, ..terms() }, &[1, 2]).await;
        assert_eq!(error, TicketError::OtherRights { writing: true }.into());
        let error = refused(TicketTerms { slot: 77, ..terms() }, &[1, 2]).await;
        assert!(is_stale(&error), "{error}");
        // Where the words are mapped they are looked at first.
        match (import.words_are_mapped(), refused(terms(), &[1, BLOCKS as u32]).await) {
            (true, error) => not_granted(error),
            (false, ConnectorError::Ticket(TicketError::Pairing(_))) => {}
            (false, error) => panic!("{error}"),
        }
        let of_other = other.grant(0, &[1, 2], GrantOptions::new()).unwrap();
        let error = cause(import.read_blocks(of_other.ticket(), &local, &[0, 1]).await);
        assert!(
            matches!(error, ConnectorError::Ticket(TicketError::OtherExport { .. })),
            "{error}"
        );
        let options = BlockTransferOptions::new().layers(1..3);
        let error = cause(import.read_blocks_with(ticket, &local, &[0, 1], options.clone()).await);
        assert!(matches!(error, ConnectorError::Ticket(TicketError::Layers { .. })), "{error}");
        let error = cause(import.read_blocks(ticket, &local, &[0, 0]).await);
        assert!(matches!(error, ConnectorError::Ticket(TicketError::Pairing(_))), "{error}");
        // What was refused has harmed nothing.
        import.read_blocks(ticket, &local, &[0, 1]).await.unwrap();
    }
}

#[tokio::test]
async fn a_layout_that_does_not_agree_is_refused_with_the_dimension() {
    let world = World::new().await;
    let grant = world.export.grant(0, &[1], GrantOptions::new()).unwrap();
    let other = Dimensions { page_size: 8, ..Dimensions::from(geometry()) };
    let other = LayoutGeometry::try_from(other).unwrap();
    let local = Layout::fully_contiguous(other, Region::zeroed(other.bytes()).unwrap()).unwrap();
    for import in world.imports().await {
        for class in [TransferClass::Interactive, TransferClass::Bulk] {
            let options = BlockTransferOptions::new().class(class);
            let error =
                cause(import.read_blocks_with(grant.ticket(), &local, &[0], options.clone()).await);
            assert!(matches!(error, ConnectorError::Ticket(TicketError::Pairing(_))), "{error}");
            assert!(error.to_string().contains("page size"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_closed_export_is_neither_read_nor_imported() {
    let world = World::new().await;
    let imports = world.imports().await;
    let metadata = world.export.metadata().clone();
    let grant = world.export.grant(0, &[1], GrantOptions::new()).unwrap();
    let ticket = grant.ticket().clone();
    assert!(!world.export.close(Duration::ZERO).await, "a reader may have begun");
    for import in imports {
        let (local, _bytes) = contiguous();
        let error = cause(import.read_blocks(&ticket, &local, &[0]).await);
        assert!(is_stale(&error), "{error}");
    }
    let closed = ConnectorError::ExportClosed { export: metadata.export() };
    let error =
        world.reader.import_unless(&metadata, None, ImportOptions::new()).await.unwrap_err();
    assert_eq!(error, closed);
    let error = world
        .reader
        .import_unless(&from_afar(&metadata), None, ImportOptions::new())
        .await
        .unwrap_err();
    assert_eq!(error, closed);
    drop(grant);
    // The memory is the owner's to change, and stays for late reads.
    world.cache[0].copy_from_slice(0, &[1]).unwrap();
    assert_eq!(world.owner.stats().retained().offers(), 1);
}

#[tokio::test]
async fn memory_of_a_closed_export_without_tickets_is_free_after_a_proof() {
    let world = World::new().await;
    assert!(world.export.close(Duration::from_secs(20)).await);
    assert_eq!(world.owner.stats().retained().offers(), 0);
    for region in world.cache {
        assert!(region.try_into_vec().is_ok());
    }
}

#[tokio::test]
async fn blocks_of_this_process_are_copied_under_a_lease() {
    let world = World::new().await;
    let import = world.reader.import(world.export.metadata()).await.unwrap();
    let grant = world.export.grant(0, &[7, 2], GrantOptions::new()).unwrap();
    let (local, bytes) = contiguous();
    let done = import.read_blocks(grant.ticket(), &local, &[3, 0]).await.unwrap();
    assert_eq!(done.path().unwrap().kind(), crate::PathKind::SameProcessCopy);
    assert_eq!((read(&bytes, 3), read(&bytes, 0)), (block(7), block(2)));
    import.done(grant.ticket()).await.unwrap();
    let error = cause(import.read_blocks(grant.ticket(), &local, &[3, 0]).await);
    assert_eq!(error, TransportError::Stale.into());
}

#[tokio::test]
async fn a_cancelled_read_gives_its_blocks_back() {
    let world = World::new().await;
    for import in world.imports().await {
        let (local, bytes) = contiguous();
        let grant = world.export.grant(0, &[5], GrantOptions::new()).unwrap();
        let faults = world.fabric.faults_of(world.reader.name()).unwrap();
        faults.next([Fault::Stalls { after: 70 }]);
        let options = OperationOptions::new().timeout(Duration::from_millis(20));
        let options = BlockTransferOptions::new().operation(options);
        // One whose time is over before it is posted leaves nothing behind, and is not struck.
        while bytes.to_vec().is_ok() {
            let error =
                cause(import.read_blocks_with(grant.ticket(), &local, &[0], options.clone()).await);
            assert!(matches!(error, ConnectorError::Operation(_)), "{error}");
        }
        faults.release();
        while bytes.to_vec().is_err() {
            tokio::task::yield_now().await;
        }
        import.read_blocks(grant.ticket(), &local, &[0]).await.unwrap();
        assert_eq!(read(&bytes, 0), block(5));
    }
}

/// A local layout whose block `id` reads as `block(id)`.
fn filled() -> Layout {
    let (layout, region) = contiguous();
    let bytes: Vec<u8> = (0..BLOCKS as u8).flat_map(block).collect();
    region.copy_from_slice(0, &bytes).unwrap();
    layout
}

#[tokio::test]
async fn granted_blocks_are_written_once() {
    let world = World::new().await;
    for import in world.imports().await {
        let mut grant =
            world.export.grant_write(0, &[9, 4], WriteGrantOptions::new()).await.unwrap();
        let layer = geometry().layer_len();
        assert!(world.cache[0].copy_from_slice(9 * layer, &[1]).is_err(), "it is granted");
        let ticket = grant.ticket().clone();
        let done = import.write_blocks(&ticket, &filled(), &[1, 2]).await.unwrap();
        assert_eq!(done.bytes(), 2 * geometry().block_len() as u64);
        assert_eq!(grant.written().await.unwrap().bytes(), done.bytes());
        for (region, index) in world.cache.iter().zip(0..) {
            let bytes = region.to_vec().unwrap();
            assert_eq!(bytes[9 * layer..10 * layer], vec![16 + index; layer]);
            assert_eq!(bytes[4 * layer..5 * layer], vec![32 + index; layer]);
        }
        let error = import.write_blocks(&ticket, &filled(), &[1, 2]).await.unwrap_err();
        assert!(error.to_string().contains("the offer cannot be used"), "{error}");
        // Free for the next.
        drop(world.export.grant(0, &[9, 4], GrantOptions::new()).unwrap());
    }
}

#[tokio::test]
async fn a_write_grant_that_was_not_claimed_ends_at_once() {
    let world = World::new().await;
    for import in world.imports().await {
        let mut grant = world.export.grant_write(0, &[3], WriteGrantOptions::new()).await.unwrap();
        let second = world.export.grant_write(0, &[3], WriteGrantOptions::new()).await;
        assert!(matches!(second, Err(ConnectorError::Lease(_))), "{second:?}");
        let read = world.export.grant(0, &[3], GrantOptions::new());
        assert!(matches!(read, Err(ConnectorError::Grant(_))), "{read:?}");
        assert_eq!(grant.revoke(), crate::RevokeOutcome::Free);
        let error = import.write_blocks(grant.ticket(), &filled(), &[0]).await.unwrap_err();
        assert!(error.to_string().contains("the offer cannot be used"), "{error}");
        world.cache[0].copy_from_slice(0, &[0]).unwrap();
    }
}

#[tokio::test]
async fn tickets_are_for_reading_or_for_writing() {
    let world = World::new().await;
    let [import, _] = world.imports().await;
    let read = world.export.grant(0, &[1], GrantOptions::new()).unwrap();
    let error = import.write_blocks(read.ticket(), &filled(), &[0]).await.unwrap_err();
    assert_eq!(*error.cause(), TicketError::OtherRights { writing: false }.into());
    let write = world.export.grant_write(0, &[2], WriteGrantOptions::new()).await.unwrap();
    let error = cause(import.read_blocks(write.ticket(), &filled(), &[0]).await);
    assert_eq!(error, TicketError::OtherRights { writing: true }.into());
    let error = import.write_blocks(write.ticket(), &filled(), &[0, 1]).await.unwrap_err();
    assert!(matches!(error.cause(), ConnectorError::Ticket(TicketError::Pairing(_))), "{error}");
    assert!(error.blocks().is_empty(), "it has not begun");
    let error = world.export.grant_write(0, &[BLOCKS as u32], WriteGrantOptions::new()).await;
    assert!(matches!(error, Err(ConnectorError::Ticket(TicketError::Selection(_)))), "{error:?}");
    let layers = WriteGrantOptions::new().layers(1..4);
    let error = world.export.grant_write(0, &[5], layers).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Ticket(TicketError::Layers { .. })), "{error}");
}

#[tokio::test]
async fn futures_of_transfers_fit_small_stacks() {
    let world = World::new().await;
    let [import, _] = world.imports().await;
    let (read, _bytes) = contiguous();
    let grant = world.export.grant(0, &[1], GrantOptions::new()).unwrap();
    let reads = import.read_blocks(grant.ticket(), &read, &[0]);
    let writes = import.write_blocks(grant.ticket(), &read, &[0]);
    let sizes = [size_of_val(&reads), size_of_val(&writes)];
    assert!(sizes.into_iter().all(|bytes| bytes <= 24 << 10), "{sizes:?}");
}

#[tokio::test]
async fn a_claimed_write_keeps_its_blocks_until_it_is_quiet() {
    let world = World::new().await;
    for import in world.imports().await {
        let mut grant = world.export.grant_write(0, &[6], WriteGrantOptions::new()).await.unwrap();
        let ticket = grant.ticket().clone();
        let faults = world.fabric.faults_of(world.reader.name()).unwrap();
        faults.next([Fault::Stalls { after: 70 }]);
        let writing =
            tokio::spawn(async move { import.write_blocks(&ticket, &filled(), &[0]).await });
        let layer = geometry().layer_len();
        // It is claimed before its first bytes move.
        while faults.left() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(grant.revoke(), crate::RevokeOutcome::Held);
        assert!(world.cache[0].to_vec().is_err());
        while !writing.is_finished() {
            faults.release();
            tokio::task::yield_now().await;
        }
        writing.await.unwrap().unwrap();
        tokio::time::timeout(Duration::from_secs(20), async {
            while world.cache[0].copy_from_slice(6 * layer, &[1]).is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn layers_are_ready_one_after_the_other() {
    let world = World::new().await;
    let [here, afar] = world.imports().await;
    let own = world.reader.import(world.export.metadata()).await.unwrap();
    for import in [here, afar, own] {
        let grant = world.export.grant(0, &[1], GrantOptions::new().ready(1)).unwrap();
        let ticket = grant.ticket().clone();
        assert_eq!(import.layers_ready(&ticket).await, Ok(1));
        grant.ready_through(3).unwrap();
        assert_eq!(import.layers_ready(&ticket).await, Ok(3));
        grant.ready_through(2).unwrap();
        assert_eq!(import.layers_ready(&ticket).await, Ok(3));
        drop(grant);
        let error = import.layers_ready(&ticket).await.unwrap_err();
        assert!(is_stale(&error), "{error}");
    }
}

/// The file is sparse, and as long as its owner likes.
#[tokio::test]
async fn of_a_file_of_words_no_more_is_mapped_than_the_slots() {
    const SLOTS: u32 = 7;
    let world = World::new().await;
    let real = world.export.metadata();
    let words = PublishedWords::new(1 << 37).unwrap();
    words.word(3).unwrap().store(real.export().value(), std::sync::atomic::Ordering::Relaxed);
    let name = words.name();
    let file = SharedFile::new(name.pid, name.fd, name.name, name.len);
    let at = WordsLocation { slots: SLOTS, file: Some(file), ..*real.words() };
    let (agent, layouts) = (real.agent_metadata().clone(), real.layouts().to_vec());
    let metadata =
        ExportMetadata::new(real.export(), agent, real.peer().clone(), layouts, at).unwrap();
    let import = world.reader.import_unless(&metadata, None, ImportOptions::new()).await.unwrap();
    assert_eq!(import.mapped_words(), Some((SLOTS as usize + 1) * 4));
}

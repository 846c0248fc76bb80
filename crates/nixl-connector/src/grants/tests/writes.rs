//! Writes by tickets: of granted blocks alone, each with its permit until its engine is quiet.

use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::TransferLimits;
use crate::grants::tests::stream::{Stream, failure};
use crate::grants::write;

fn terms_of(ticket: &Ticket) -> TicketTerms {
    TicketTerms {
        export: ticket.export(),
        layout: ticket.layout(),
        layers: ticket.layers(),
        rights: ticket.rights(),
        slot: ticket.slot(),
        generation: ticket.generation(),
        token: *ticket.token(),
        expires_unix_millis: ticket.expires_unix_millis(),
    }
}

fn altered(terms: TicketTerms, blocks: &[u32]) -> Ticket {
    Ticket::new(terms, blocks).unwrap()
}

#[tokio::test]
async fn a_ticket_of_other_blocks_layers_or_rights_writes_nothing() {
    let world = World::new().await;
    let own = world.reader.import(world.export.metadata()).await.unwrap();
    let [here, afar] = world.imports().await;
    for import in [here, afar, own] {
        let before: Vec<_> = world.cache.iter().map(|region| region.to_vec().unwrap()).collect();
        let layers = WriteGrantOptions::new().layers(0..2);
        let mut grant = world.export.grant_write(0, &[9, 4], layers).await.unwrap();
        let terms = || terms_of(grant.ticket());
        let wider = TicketTerms { layers: 0..3, ..terms() };
        let other = TicketTerms { layers: 1..3, ..terms() };
        let read = world.export.grant(0, &[1, 2], GrantOptions::new()).unwrap();
        let to_write = TicketTerms { rights: Rights::Write, ..terms_of(read.ticket()) };
        let forged = [
            altered(terms(), &[9, 5]),
            altered(terms(), &[4, 9]),
            altered(wider, &[9, 4]),
            altered(other, &[9, 4]),
            altered(to_write, &[1, 2]),
        ];
        for ticket in forged {
            let error = import.write_blocks(&ticket, &filled(), &[1, 2]).await.unwrap_err();
            assert_eq!(*error.cause(), TransportError::NotGranted.into(), "{ticket:?}");
            assert!(error.blocks().is_empty(), "it has not begun");
        }
        let to_read = TicketTerms { rights: Rights::Read, ..terms() };
        let error = import.write_blocks(&altered(to_read, &[9, 4]), &filled(), &[1, 2]).await;
        let error = error.unwrap_err();
        assert_eq!(*error.cause(), TicketError::OtherRights { writing: false }.into());
        drop(read);
        // What was refused has claimed nothing.
        import.write_blocks(grant.ticket(), &filled(), &[1, 2]).await.unwrap();
        grant.written().await.unwrap();
        let layer = geometry().layer_len();
        for ((region, mut expected), index) in world.cache.iter().zip(before).zip(0..) {
            if index < 2 {
                expected[9 * layer..10 * layer].fill(16 + index);
                expected[4 * layer..5 * layer].fill(32 + index);
            }
            assert!(region.to_vec().unwrap() == expected, "layer {index}");
        }
    }
}

/// A writer that does not look at the ticket itself.
#[tokio::test]
async fn a_claim_names_what_is_written() {
    let world = World::new().await;
    let [_, afar] = world.imports().await;
    let grant = world.export.grant_write(0, &[9], WriteGrantOptions::new()).await.unwrap();
    let local = filled();
    let lists = |ticket: &Ticket| {
        let export = (afar.metadata(), afar.layout("full").unwrap().1);
        let layers = (0..3, Duration::from_secs(1));
        write::lists(export, ticket, (&local, &[0]), layers).unwrap().1
    };
    let key = |ticket: &Ticket| lists(ticket).notification_key().clone();
    let granted = key(grant.ticket());
    let forged = altered(terms_of(grant.ticket()), &[8]);
    assert_ne!(key(&forged), granted);
    let claimed = lists(&forged);
    assert_ne!(claimed.terms().unwrap().token(), lists(grant.ticket()).terms().unwrap().token());
}

#[tokio::test]
async fn a_cancelled_write_keeps_its_turn_until_it_is_quiet() {
    let limits = TransferLimits::new().per_peer(1).queued(0);
    let world = World::with(|reader| reader.transfer_limits(limits), per_layer()).await;
    for import in world.imports().await {
        let grant = world.export.grant_write(0, &[3], WriteGrantOptions::new()).await.unwrap();
        let read = world.export.grant(0, &[5], GrantOptions::new()).unwrap();
        let faults = world.fabric.faults_of(world.reader.name()).unwrap();
        faults.next([Fault::Stalls { after: 70 }]);
        let writing = {
            let (import, ticket) = (import.clone(), grant.ticket().clone());
            tokio::spawn(async move { import.write_blocks(&ticket, &filled(), &[0]).await })
        };
        while faults.left() > 0 {
            tokio::task::yield_now().await;
        }
        writing.abort();
        assert!(writing.await.unwrap_err().is_cancelled());
        let (local, _bytes) = contiguous();
        let error = cause(import.read_blocks(read.ticket(), &local, &[0]).await);
        assert_eq!(error, ConnectorError::WouldBlock { queued: 0 });
        faults.release();
        while world.reader.stats().active() > 0 {
            tokio::task::yield_now().await;
        }
        import.read_blocks(read.ticket(), &local, &[0]).await.unwrap();
    }
}

#[tokio::test]
async fn lists_that_are_not_made_in_time_end_the_write() {
    let world = World::new().await;
    let [import, _] = world.imports().await;
    let blocks: Vec<u32> = (0..BLOCKS as u32).collect();
    let grant = world.export.grant_write(0, &blocks, WriteGrantOptions::new()).await.unwrap();
    // The thread that makes long lists is held up.
    let (go, wait) = mpsc::channel::<()>();
    world.reader.connection().work().unwrap().post(move || _ = wait.recv());
    let after = Duration::from_millis(20);
    let options = BlockTransferOptions::new().operation(OperationOptions::new().timeout(after));
    let (local, ids) = (filled(), Vec::from_iter(0..BLOCKS));
    let write = import.write_blocks_with(grant.ticket(), &local, &ids, options);
    let ended = tokio::time::timeout(Duration::from_secs(20), write).await.unwrap();
    let timed_out = crate::OperationError::TimedOut { after };
    let error = ended.unwrap_err();
    assert_eq!(*error.cause(), ConnectorError::Operation(timed_out));
    assert!(error.blocks().is_empty(), "it has not begun");
    drop(go);
}

#[tokio::test]
async fn a_write_that_fails_after_its_begin_names_the_blocks_of_the_owner() {
    let world = World::new().await;
    for (import, granted) in world.imports().await.into_iter().zip([[9, 4], [8, 3]]) {
        let grant = world.export.grant_write(0, &granted, WriteGrantOptions::new()).await.unwrap();
        let faults = world.fabric.faults_of(world.reader.name()).unwrap();
        faults.next([Fault::Fails { after: 70 }]);
        let error = import.write_blocks(grant.ticket(), &filled(), &[1, 2]).await.unwrap_err();
        assert_eq!(error.blocks(), granted, "{error}");
    }
}

#[tokio::test]
async fn a_grant_to_write_begins_after_the_work_before_it() {
    let world = World::new().await;
    let stream = Arc::new(Stream::default());
    let options = || WriteGrantOptions::new().after(stream.clone());
    {
        let mut granting = Box::pin(world.export.grant_write(0, &[3], options()));
        assert!(polled(&mut granting).is_pending());
        // Until then the blocks are not granted.
        drop(world.export.grant(0, &[3], GrantOptions::new()).unwrap());
        stream.step(Ok(()));
        let grant = granting.await.unwrap();
        world.export.grant(0, &[3], GrantOptions::new()).unwrap_err();
        drop(grant);
    }
    let mut granting = Box::pin(world.export.grant_write(0, &[3], options()));
    assert!(polled(&mut granting).is_pending());
    stream.step(Err(failure()));
    assert_eq!(granting.await.unwrap_err(), failure().into());
    let mut granting = Box::pin(world.export.grant_write(0, &[3], options()));
    assert!(polled(&mut granting).is_pending());
    drop(stream.take());
    let error = granting.await.unwrap_err();
    assert!(matches!(error, ConnectorError::WorkQueue(_)), "{error}");
}

#[tokio::test]
async fn blocks_are_free_once_no_peer_writes_them() {
    let world = World::new().await;
    for import in world.imports().await {
        let mut grant =
            world.export.grant_write(0, &[6, 7], WriteGrantOptions::new()).await.unwrap();
        let mut free = Box::pin(world.export.free_blocks(0, &[5, 7]).unwrap());
        assert!(polled(&mut free).is_pending(), "it is granted");
        let others = world.export.free_blocks(0, &[5, 8]).unwrap();
        others.await;
        let ticket = grant.ticket().clone();
        let faults = world.fabric.faults_of(world.reader.name()).unwrap();
        faults.next([Fault::Stalls { after: 70 }]);
        let writing =
            tokio::spawn(async move { import.write_blocks(&ticket, &filled(), &[0, 1]).await });
        while faults.left() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(grant.revoke(), crate::RevokeOutcome::Held);
        assert!(polled(&mut free).is_pending(), "it is being written");
        while !writing.is_finished() {
            faults.release();
            tokio::task::yield_now().await;
        }
        writing.await.unwrap().unwrap();
        let layer = geometry().layer_len();
        tokio::time::timeout(Duration::from_secs(20), free).await.unwrap();
        world.cache[0].copy_from_slice(7 * layer, &[1]).unwrap();
        grant.free_blocks().unwrap().await;
        // One that was never claimed, and one that was refused.
        let unclaimed = world.export.grant_write(0, &[6], WriteGrantOptions::new()).await.unwrap();
        world.export.grant_write(0, &[6, 8], WriteGrantOptions::new()).await.unwrap_err();
        world.export.free_blocks(0, &[8]).unwrap().await;
        let free = unclaimed.free_blocks().unwrap();
        drop(unclaimed);
        tokio::time::timeout(Duration::from_secs(20), free).await.unwrap();
    }
}

fn polled(future: &mut (impl Future + Unpin)) -> Poll<()> {
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(future).poll(&mut cx).map(drop)
}

/// 70,000 chunks: more than metadata may list, 65,536 by default.
#[tokio::test]
async fn as_many_chunks_are_granted_as_there_are() {
    let geometry = LayoutGeometry::try_from(Dimensions {
        blocks: 700,
        layers: 50,
        outer: 2,
        page_size: 1,
        inner: Inner::Elements(4),
        element_width: 1,
    })
    .unwrap();
    let regions: Vec<_> = (0..50)
        .map(|_| Region::zeroed(geometry.blocks() * geometry.layer_len()).unwrap())
        .collect();
    let parts = regions.iter().map(Region::whole).collect();
    let layout = Layout::per_layer(geometry, LayerOrder::BlockFirst, parts).unwrap();
    let world = World::with(|reader| reader, (layout, regions)).await;
    let bytes: Vec<u8> = (0..geometry.bytes()).map(|at| (at % 251) as u8).collect();
    let filled = Region::try_from(bytes.clone()).unwrap();
    let filled = Layout::fully_contiguous(geometry, filled).unwrap();
    for import in world.imports().await {
        let all: Vec<u32> = (0..700).collect();
        let mut grant = world.export.grant_write(0, &all, WriteGrantOptions::new()).await.unwrap();
        let local: Vec<usize> = (0..700).collect();
        let done = import.write_blocks(grant.ticket(), &filled, &local).await.unwrap();
        assert_eq!(done.bytes(), bytes.len() as u64);
        assert_eq!(grant.written().await.unwrap().bytes(), bytes.len() as u64);
        drop(grant);
        for (layer, region) in world.cache.iter().enumerate() {
            let found = region.to_vec().unwrap();
            let len = geometry.layer_len();
            for block in 0..700 {
                let at = block * geometry.block_len() + layer * len;
                assert_eq!(found[block * len..][..len], bytes[at..][..len]);
            }
            region.copy_from_slice(0, &vec![0; found.len()]).unwrap();
        }
    }
}

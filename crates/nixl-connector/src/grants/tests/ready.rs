//! Layers are read once they are ready, and not before.

use nixl_ops::GrantTerms;

use super::*;

const ALL: Fault = Fault::Stalls { after: u64::MAX };

fn not_ready(ready: u64) -> ConnectorError {
    TransportError::NotReady { ready, asked: 3 }.into()
}

fn first_layer() -> BlockTransferOptions {
    BlockTransferOptions::new().layers(0..1)
}

#[tokio::test]
async fn layers_that_are_not_ready_are_not_read() {
    let world = World::new().await;
    let [here, afar] = world.imports().await;
    let own = world.reader.import(world.export.metadata()).await.unwrap();
    for import in [here, afar, own] {
        for class in [TransferClass::Interactive, TransferClass::Bulk] {
            let (local, bytes) = contiguous();
            let grant = world.export.grant(0, &[5], GrantOptions::new().ready(1)).unwrap();
            let ticket = grant.ticket();
            let all = || BlockTransferOptions::new().class(class);
            let error = cause(import.read_blocks_with(ticket, &local, &[0], all()).await);
            assert_eq!(error, not_ready(1));
            assert_eq!(error.advice(), crate::Advice::Retry);
            assert_eq!(read(&bytes, 0), vec![0; geometry().block_len()], "nothing moves");
            let one = first_layer().class(class);
            import.read_blocks_with(ticket, &local, &[0], one).await.unwrap();
            assert_eq!(
                read(&bytes, 0)[..geometry().layer_len()],
                block(5)[..geometry().layer_len()]
            );
            grant.ready_through(2).unwrap();
            let error = cause(import.read_blocks_with(ticket, &local, &[0], all()).await);
            assert_eq!(error, not_ready(2));
            grant.ready_through(3).unwrap();
            import.read_blocks_with(ticket, &local, &[0], all()).await.unwrap();
            assert_eq!(read(&bytes, 0), block(5));
        }
    }
}

/// Without the look before it, the read would bring the bytes of before and the number of after.
#[tokio::test]
async fn a_layer_that_becomes_ready_during_a_read_does_not_count() {
    let world = World::new().await;
    let [_, afar] = world.imports().await;
    let (local, _bytes) = contiguous();
    let grant = world.export.grant(0, &[5], GrantOptions::new().ready(0)).unwrap();
    let faults = world.fabric.faults_of(world.reader.name()).unwrap();
    faults.next([ALL]);
    let reading = {
        let (import, ticket, local) = (afar.clone(), grant.ticket().clone(), local.clone());
        tokio::spawn(async move { import.read_blocks(&ticket, &local, &[0]).await })
    };
    while faults.left() > 0 {
        tokio::task::yield_now().await;
    }
    grant.ready_through(3).unwrap();
    while !reading.is_finished() {
        faults.release();
        tokio::task::yield_now().await;
    }
    assert_eq!(cause(reading.await.unwrap()), not_ready(0));
    afar.read_blocks(grant.ticket(), &local, &[0]).await.unwrap();
}

#[tokio::test]
async fn layers_that_were_seen_to_be_ready_take_no_further_request() {
    let world = World::new().await;
    let [_, afar] = world.imports().await;
    let (local, _bytes) = contiguous();
    let requests = async |ticket: &Ticket, options: BlockTransferOptions| {
        let before = afar.word_requests();
        afar.read_blocks_with(ticket, &local, &[0], options).await.unwrap();
        afar.word_requests() - before
    };
    let all = BlockTransferOptions::new;
    let filled = world.export.grant(0, &[5], GrantOptions::new()).unwrap();
    assert_eq!(requests(filled.ticket(), all()).await, 1);
    let grant = world.export.grant(0, &[5], GrantOptions::new().ready(1)).unwrap();
    assert_eq!(requests(grant.ticket(), first_layer()).await, 2);
    assert_eq!(requests(grant.ticket(), first_layer()).await, 1);
    grant.ready_through(3).unwrap();
    assert_eq!(afar.layers_ready(grant.ticket()).await, Ok(3));
    assert_eq!(requests(grant.ticket(), all()).await, 1);
}

/// The ticket of an owner that does not say that layers are filled later.
#[tokio::test]
async fn the_look_after_a_read_sees_layers_that_are_not_ready() {
    let world = World::new().await;
    let table = world.export.shared().table();
    let granted = table.grant(&GrantTerms::new(0), &[5]).unwrap();
    let terms = TicketTerms {
        export: world.export.metadata().export(),
        layout: 0,
        layers: 0..3,
        rights: Rights::Read,
        slot: granted.slot(),
        generation: granted.generation(),
        token: granted.token(),
        expires_unix_millis: u64::MAX,
    };
    let ticket = Ticket::new(terms, [5]).unwrap();
    table.publish(granted.slot(), granted.generation(), ticket.digest(), 1).unwrap();
    for import in world.imports().await {
        let (local, _bytes) = contiguous();
        let error = cause(import.read_blocks(&ticket, &local, &[0]).await);
        assert_eq!(error, not_ready(1));
        import.read_blocks_with(&ticket, &local, &[0], first_layer()).await.unwrap();
    }
}

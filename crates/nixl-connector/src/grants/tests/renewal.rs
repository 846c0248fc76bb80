//! Grants are renewed by their owner and their readers, which read on by the tickets that they have.

use nixl_ops::WordCheck;

use super::*;

/// By which side a grant is renewed.
#[derive(Clone, Copy, Debug)]
enum By {
    Owner,
    Reader(usize),
}

#[tokio::test]
async fn a_renewed_grant_is_read_beyond_the_time_of_its_ticket() {
    const TIME: Duration = Duration::from_secs(20);
    let clock = Arc::new(ManualClock::new());
    let fabric = Fabric::new(clock.clone());
    let build =
        |name| Connector::builder().transport(fabric.transport(name)).clock(clock.clone()).build();
    let (owner, reader) = (build("owner").await.unwrap(), build("reader").await.unwrap());
    let (layout, _cache) = per_layer();
    let export = owner.export([("full", layout)]).await.unwrap();
    let metadata = export.metadata();
    let imports = [
        reader.import_unless(metadata, None, ImportOptions::new()).await.unwrap(),
        reader.import_unless(&from_afar(metadata), None, ImportOptions::new()).await.unwrap(),
        reader.import(metadata).await.unwrap(),
    ];
    let (local, bytes) = contiguous();
    let options = || GrantOptions::new().time_to_live(TIME);
    let mut renewals = vec![By::Owner];
    renewals.extend((0..imports.len()).map(By::Reader));
    // The first has slot 0, and the second another.
    let mut of_slot_0 = None;
    for by in renewals.iter().chain(&renewals) {
        let grant = export.grant(0, &[5], options()).unwrap();
        let free = export.free_blocks(0, &[5]).unwrap();
        clock.advance(TIME / 2);
        let ticket = grant.ticket();
        let check = WordCheck::new(ticket.slot(), ticket.generation(), ticket.digest());
        let renewed = || export.shared().table().words().renewed_until(&check);
        match *by {
            By::Owner => grant.renew().unwrap(),
            By::Reader(import) => imports[import].renew(grant.ticket()).await.unwrap(),
        }
        // An idle driver takes what arrives once a second, and may have begun to wait a little late.
        let mut waited = Duration::ZERO;
        while renewed() == Ok(0) {
            clock.advance(Duration::from_millis(1));
            waited += Duration::from_millis(1);
            assert!(waited < TIME / 4, "it is not renewed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        clock.advance(TIME / 2 + Duration::from_secs(1));
        for import in &imports {
            import.read_blocks(grant.ticket(), &local, &[1]).await.unwrap();
            assert_eq!(read(&bytes, 1), block(5), "renewed by {by:?}");
            assert_eq!(import.layers_ready(grant.ticket()).await.unwrap(), 3);
        }
        clock.advance(TIME);
        free.await;
        for import in &imports {
            let error = cause(import.read_blocks(grant.ticket(), &local, &[1]).await);
            assert_eq!(error, TicketError::Expired.into());
        }
        assert!(grant.renew().is_err(), "it has ended");
        if matches!(by, By::Reader(2)) && of_slot_0.is_none() {
            let long = GrantOptions::new().time_to_live(Duration::from_secs(3600));
            of_slot_0 = Some(export.grant(0, &[1], long).unwrap());
        }
    }
}

#[tokio::test]
async fn only_holders_of_a_ticket_renew_its_grant() {
    let world = World::new().await;
    let import = world.reader.import(world.export.metadata()).await.unwrap();
    let grant = world.export.grant(0, &[1], GrantOptions::new()).unwrap();
    let ticket = grant.ticket();
    let terms = TicketTerms {
        export: ticket.export(),
        layout: ticket.layout(),
        layers: ticket.layers(),
        rights: ticket.rights(),
        slot: ticket.slot(),
        generation: ticket.generation(),
        token: [0; 16],
        expires_unix_millis: ticket.expires_unix_millis(),
    };
    let forged = Ticket::new(terms, vec![1]).unwrap();
    let until = || world.export.shared().table().tickets().until().unwrap();
    let before = until();
    let error = import.renew(&forged).await.unwrap_err();
    let slot = ticket.slot();
    assert_eq!(error, ConnectorError::Grant(crate::GrantError::WrongToken { slot }));
    assert_eq!(until(), before);
    // Ends are kept in steps.
    while until() == before {
        import.renew(ticket).await.unwrap();
        tokio::task::yield_now().await;
    }
    // A closed export's memory is kept for it.
    assert!(!world.export.close(Duration::ZERO).await);
}

#[tokio::test]
async fn a_renewed_grant_is_written_beyond_the_time_of_its_ticket() {
    const TIME: Duration = Duration::from_secs(20);
    let clock = Arc::new(ManualClock::new());
    let world = World::at(clock.clone(), |reader| reader, per_layer()).await;
    let [here, afar] = world.imports().await;
    let own = world.reader.import(world.export.metadata()).await.unwrap();
    let imports = [here, afar, own];
    let mut heard = world.export.notifications().unwrap();
    let options = || WriteGrantOptions::new().time_to_live(TIME);
    for (number, import) in imports.iter().enumerate() {
        for by in [By::Owner, By::Reader(number)] {
            let mut grant = world.export.grant_write(0, &[5], options()).await.unwrap();
            let ticket = grant.ticket().clone();
            clock.advance(TIME / 2);
            match by {
                By::Owner => grant.renew().unwrap(),
                By::Reader(import) => {
                    imports[import].renew(&ticket).await.unwrap();
                    // It takes the same way, later.
                    imports[import].notify(b"renewed").await.unwrap();
                    until(&clock, TIME / 4, heard.recv()).await.unwrap();
                }
            }
            clock.advance(TIME / 2 + Duration::from_secs(1));
            let local = filled();
            let write = import.write_blocks(&ticket, &local, &[1]);
            until(&clock, TIME / 8, write).await.unwrap();
            until(&clock, TIME / 8, grant.written()).await.unwrap();
            assert_eq!(written_block(&world, 5), block(1), "by {import:?}, renewed by {by:?}");
            assert_eq!(grant.renew().unwrap_err(), crate::GrantError::Over.into());
            world.cache[0].copy_from_slice(5 * geometry().layer_len(), &[0]).unwrap();
        }
        // The new time is no longer than the old.
        let grant = world.export.grant_write(0, &[5], options()).await.unwrap();
        clock.advance(TIME / 2);
        grant.renew().unwrap();
        let free = grant.free_blocks().unwrap();
        clock.advance(TIME);
        until(&clock, TIME, free).await;
        assert_eq!(grant.renew().unwrap_err(), crate::GrantError::Over.into());
        let local = filled();
        let write = import.write_blocks(grant.ticket(), &local, &[1]);
        let error = until(&clock, TIME, write).await.unwrap_err();
        assert_eq!(*error.cause(), TicketError::Expired.into(), "by {import:?}");
    }
}

/// A block of the cache.
fn written_block(world: &World, id: usize) -> Vec<u8> {
    let len = geometry().layer_len();
    let layers = world.cache.iter().map(|region| region.to_vec().unwrap());
    layers.flat_map(|layer| layer[id * len..][..len].to_vec()).collect()
}

/// Waits for what comes within so much time of the clock, which goes on meanwhile.
async fn until<T>(clock: &ManualClock, most: Duration, comes: impl Future<Output = T>) -> T {
    let step = Duration::from_millis(1);
    let (mut comes, mut waited) = (std::pin::pin!(comes), Duration::ZERO);
    loop {
        if let Ok(come) = tokio::time::timeout(step, comes.as_mut()).await {
            return come;
        }
        clock.advance(step);
        waited += step;
        assert!(waited < most, "it does not come");
    }
}

#[tokio::test]
async fn only_what_is_granted_for_writing_is_renewed_as_such() {
    let world = World::new().await;
    let driver = world.owner.connection().driver();
    let region = Region::zeroed(64).unwrap();
    let offered = world.owner.create_writable(region).await.unwrap();
    let terms = offered.metadata().terms().unwrap();
    assert!(!driver.renew_offer(offered.metadata().notification_key(), terms.token().get()));
    let grant = world.export.grant_write(0, &[5], WriteGrantOptions::new()).await.unwrap();
    let key = crate::grants::write::key_of(grant.ticket().token()).unwrap();
    let token = crate::connector::token_of_ticket(&key).get();
    assert!(!driver.renew_offer(&key, token ^ 1));
    assert!(driver.renew_offer(&key, token));
}

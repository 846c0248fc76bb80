//! Grants are renewed by their owner and their readers, which read on by the tickets that they have.

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
        let before = export.shared().table().renewed_until();
        match *by {
            By::Owner => grant.renew().unwrap(),
            By::Reader(import) => imports[import].renew(grant.ticket()).await.unwrap(),
        }
        // An idle driver takes what arrives once a second, and may have begun to wait a little late.
        let mut waited = Duration::ZERO;
        while export.shared().table().renewed_until() == before {
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
    let error = import.renew(&forged).await.unwrap_err();
    let slot = ticket.slot();
    assert_eq!(error, ConnectorError::Grant(crate::GrantError::WrongToken { slot }));
    assert_eq!(world.export.shared().table().renewed_until().unix_millis(), 0);
    import.renew(ticket).await.unwrap();
    let renewed = world.export.shared().table().renewed_until().unix_millis();
    assert!(renewed > ticket.expires_unix_millis() - 1);
    // A closed export's memory is kept for it.
    assert!(!world.export.close(Duration::ZERO).await);
}

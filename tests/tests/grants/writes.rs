//! Writes by altered tickets: refused before anything is claimed or written.

use std::time::Duration;

use nixl_connector::{Connector, GrantOptions, WriteGrantOptions};
use nixl_metadata::{Rights, Ticket, TicketTerms};
use nixl_tests::{By, Cache, PeerError, alone_within, hex_line, local, within};

use super::start;

const PAGE: usize = 64;
const LIMIT: Duration = Duration::from_secs(120);

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

async fn altered(connector: &Connector, by: By) {
    let cache = Cache::of_pages(connector, PAGE).unwrap();
    (0..Cache::BLOCKS).for_each(|block| cache.fill(block, block as u64).unwrap());
    let export = connector.export([("cache", cache.layout.clone())]).await.unwrap();
    let mut peer = start(by, PAGE);
    peer.ask(&format!("import {}", hex_line(&export.metadata().encode().unwrap()))).unwrap();
    let blocks = || (0..Cache::BLOCKS).map(|block| cache.block(block).unwrap());
    let before: Vec<_> = blocks().collect();
    let options = WriteGrantOptions::new().layers(0..1);
    let mut grant = export.grant_write(0, &[3, 4], options).await.unwrap();
    let terms = || terms_of(grant.ticket());
    let read = export.grant(0, &[7, 8], GrantOptions::new()).unwrap();
    let to_write = TicketTerms { rights: Rights::Write, ..terms_of(read.ticket()) };
    let forged = [
        Ticket::new(terms(), [3, 5]),
        Ticket::new(terms(), [4, 3]),
        Ticket::new(TicketTerms { layers: 0..2, ..terms() }, [3, 4]),
        Ticket::new(TicketTerms { layers: 1..2, ..terms() }, [3, 4]),
        Ticket::new(to_write, [7, 8]),
    ];
    for ticket in forged {
        let refused = peer.ask(&format!("put {}", hex_line(&ticket.unwrap().encode())));
        let Err(PeerError::Refused(said)) = refused else { panic!("{refused:?}") };
        assert!(said.contains("NotGranted"), "{said}");
    }
    let refused = peer.ask(&format!("put {}", hex_line(&read.ticket().encode())));
    let Err(PeerError::Refused(said)) = refused else { panic!("{refused:?}") };
    assert!(said.contains("OtherRights"), "{said}");
    drop(read);
    // What was refused has claimed nothing.
    peer.ask(&format!("put {}", hex_line(&grant.ticket().encode()))).unwrap();
    grant.written().await.unwrap();
    for (block, (now, before)) in blocks().zip(before).enumerate() {
        let written = [3, 4].contains(&block);
        assert_eq!(now != before, written, "block {block}");
        // The second layer is not granted.
        let half = now.len() / 2;
        assert!(now[half..] == before[half..], "block {block}");
    }
}

fn run(name: &str, by: By) {
    alone_within(LIMIT, name, &local(), || {
        within(LIMIT, async {
            let connector = by.builder().build().await.unwrap();
            altered(&connector, by).await;
        });
    });
}

#[test]
fn altered_tickets_write_nothing_by_the_engine() {
    run("writes::altered_tickets_write_nothing_by_the_engine", By::Engine);
}

#[test]
fn altered_tickets_write_nothing_by_paths() {
    run("writes::altered_tickets_write_nothing_by_paths", By::Paths);
}

//! Readers in the owner's process, and exports that follow one another.

use std::collections::HashSet;
use std::num::NonZeroU32;

use super::*;
use crate::ExportOptions;
use crate::grants::described::describe;

/// A ticket that keeps what names its grant, of other blocks.
fn altered(ticket: &Ticket, layout: u16, blocks: &[u32]) -> Ticket {
    let terms = TicketTerms {
        export: ticket.export(),
        layout,
        layers: ticket.layers(),
        rights: Rights::Read,
        slot: ticket.slot(),
        generation: ticket.generation(),
        token: *ticket.token(),
        expires_unix_millis: ticket.expires_unix_millis(),
    };
    Ticket::new(terms, blocks).unwrap()
}

/// As for readers of other processes, whose check compares the digest.
#[tokio::test]
async fn an_altered_ticket_reads_nothing_in_its_owners_process_either() {
    let world = World::new().await;
    let import = world.owner.import(world.export.metadata()).await.unwrap();
    let (local, bytes) = contiguous();
    let grant = world.export.grant(0, &[7], GrantOptions::new()).unwrap();
    let forged = altered(grant.ticket(), 0, &[8]);
    let error = cause(import.read_blocks(&forged, &local, &[0]).await);
    assert_eq!(error, ConnectorError::Transport(TransportError::NotGranted));
    assert_eq!(read(&bytes, 0), vec![0; geometry().block_len()]);
    import.read_blocks(grant.ticket(), &local, &[0]).await.unwrap();
    assert_eq!(read(&bytes, 0), block(7));
}

/// A layout that the export does not have, in metadata that names it.
#[tokio::test]
async fn a_layout_that_the_export_does_not_have_is_refused() {
    let world = World::new().await;
    let metadata = world.export.metadata();
    let mut layouts = metadata.layouts().to_vec();
    layouts.push(describe("another", &per_layer().0).unwrap());
    let longer = ExportMetadata::new(
        metadata.export(),
        metadata.agent_metadata().clone(),
        metadata.peer().clone(),
        layouts,
        *metadata.words(),
    );
    let import = world.owner.import(&longer.unwrap()).await.unwrap();
    let (local, _) = contiguous();
    let grant = world.export.grant(0, &[7], GrantOptions::new()).unwrap();
    let forged = altered(grant.ticket(), 1, &[7]);
    let error = cause(import.read_blocks(&forged, &local, &[0]).await);
    assert_eq!(error, ConnectorError::Transport(TransportError::NotGranted));
}

#[tokio::test]
async fn exports_that_follow_one_another_use_the_same_words() {
    let mut world = World::new().await;
    let words = |export: &Export| *export.metadata().words();
    let first = words(&world.export);
    let [here, afar] = world.imports().await;
    let grant = world.export.grant(0, &[7], GrantOptions::new()).unwrap();
    let ticket = grant.ticket().clone();
    drop(grant);
    for _ in 0..100 {
        let (layout, _) = per_layer();
        let next = world.owner.export([("full", layout)]);
        let (layout, _) = per_layer();
        let beside = world.owner.export([("beside", layout)]);
        // One that is open has words of its own.
        let next = next.await.unwrap();
        assert_ne!(words(&next), first);
        let old = std::mem::replace(&mut world.export, next);
        old.close(Duration::ZERO).await;
        let beside = beside.await.unwrap();
        assert_eq!(words(&beside).address, first.address);
        let _granted = beside.grant(0, &[7], GrantOptions::new()).unwrap();
        for import in [&here, &afar] {
            let (local, _) = contiguous();
            let error = cause(import.read_blocks(&ticket, &local, &[0]).await);
            assert!(is_stale(&error), "{error}");
        }
        let old = std::mem::replace(&mut world.export, beside);
        old.close(Duration::ZERO).await;
    }
}

/// Each set of words is a file and two mappings.
#[tokio::test]
async fn exports_of_many_sizes_use_few_words() {
    let world = World::new().await;
    let mut files = HashSet::new();
    for slots in 1..=200u32 {
        let options = ExportOptions::new().slots(NonZeroU32::new(slots).unwrap());
        let (layout, _) = per_layer();
        let export = world.owner.export_with([("full", layout)], options).await.unwrap();
        files.insert(export.metadata().words().address);
        // It has as many grants as it says, however much room the words have.
        let grant = |block| export.grant(0, &[block], GrantOptions::new());
        let granted: Vec<_> = (0..BLOCKS.min(slots as usize)).map(|at| grant(at as u32)).collect();
        assert!(granted.iter().all(Result::is_ok));
        if (slots as usize) < BLOCKS {
            let error = grant(slots).unwrap_err();
            assert!(error.to_string().contains(&format!("{slots} ")), "{error}");
        }
        drop(granted);
        export.close(Duration::ZERO).await;
    }
    assert!(files.len() <= 9, "{}", files.len());
}

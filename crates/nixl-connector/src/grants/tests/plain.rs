//! Exports of memory that is no KV cache, and the paths to an import's layouts.

use super::*;
use crate::PathKind;

const BLOCK: usize = 100;

fn plain(byte: u8) -> (Layout, Region) {
    let bytes: Vec<u8> = (0..5 * BLOCK + 7).map(|at| byte + (at / BLOCK) as u8).collect();
    let region = Region::try_from(bytes).unwrap();
    (Layout::of_blocks(region.clone(), BLOCK).unwrap(), region)
}

#[tokio::test]
async fn regions_are_exported_as_blocks_of_bytes() {
    let world = World::new().await;
    let (first, _) = plain(0);
    let (second, written) = plain(50);
    let export = world.owner.export([("first", first), ("second", second)]).await.unwrap();
    let import = world.reader.import_unless(export.metadata(), None, ImportOptions::new()).await;
    let import = import.unwrap();
    let (at, layout) = import.layout("second").unwrap();
    assert_eq!((layout.geometry().blocks(), layout.geometry().block_len()), (5, BLOCK));
    let (local, bytes) = plain(200);
    let grant = export.grant(at as u16, &[4, 1], GrantOptions::new()).unwrap();
    import.read_blocks(grant.ticket(), &local, &[0, 3]).await.unwrap();
    let mut expected: Vec<u8> = (0..5 * BLOCK + 7).map(|at| 200 + (at / BLOCK) as u8).collect();
    expected[..BLOCK].fill(54);
    expected[3 * BLOCK..4 * BLOCK].fill(51);
    assert_eq!(bytes.to_vec().unwrap(), expected);
    grant.end();
    let grant = export.grant_write(at as u16, &[2], WriteGrantOptions::new()).await.unwrap();
    import.write_blocks(grant.ticket(), &local, &[0]).await.unwrap();
    drop(grant);
    export.free_blocks(at as u16, &[2]).unwrap().await;
    assert_eq!(written.to_vec().unwrap()[2 * BLOCK..3 * BLOCK], [54; BLOCK]);
}

#[tokio::test]
async fn an_import_says_the_path_to_a_local_layout() {
    let world = World::new().await;
    let [here, _] = world.imports().await;
    let (local, bytes) = contiguous();
    let path = here.path_to("full", &local).await.unwrap();
    assert_eq!((path.kind(), path.bytes()), (PathKind::Direct, geometry().block_len() as u64));
    assert!(bytes.to_vec().unwrap().iter().all(|byte| *byte == 0), "nothing is read");
    assert_eq!(world.reader.stats().active(), 0);
    let own = world.reader.import(world.export.metadata()).await.unwrap();
    let path = own.path_to("full", &local).await.unwrap();
    assert_eq!(path.kind(), PathKind::SameProcessCopy);
    let error = here.path_to("other", &local).await.unwrap_err();
    assert_eq!(error, ConnectorError::NoSuchLayout { layout: "other".to_owned() });
    let error = here.path_to("full", &plain(0).0).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Ticket(TicketError::Pairing(_))), "{error}");
    let in_use = world.reader.create_readable(bytes).await.unwrap();
    let error = here.path_to("full", &local).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Lease(_)), "{error}");
    drop(in_use);
}

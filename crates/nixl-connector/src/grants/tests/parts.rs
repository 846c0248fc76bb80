//! Reads of a part of each block.

use super::*;

/// Every path of a read: through mapped words, through the engine, in pieces, and in the owner's process.
#[tokio::test]
async fn some_outer_parts_and_tokens_of_blocks_are_read() {
    let world = World::new().await;
    let own = world.owner.import(world.export.metadata()).await.unwrap();
    let [here, afar] = world.imports().await;
    let geometry = geometry();
    let (chunk, token) = (geometry.chunk_len(), geometry.chunk_len() / 4);
    for import in [here, afar, own] {
        for class in [TransferClass::Interactive, TransferClass::Bulk] {
            // Often enough for lists of whole chunks to be prepared.
            for _ in 0..3 {
                let grant = world.export.grant(0, &[7, 2], GrantOptions::new()).unwrap();
                let (local, bytes) = contiguous();
                let options =
                    BlockTransferOptions::new().class(class).layers(1..3).outer(1..2).tokens(1..3);
                let done = import.read_blocks_with(grant.ticket(), &local, &[0, 4], options).await;
                assert_eq!(done.unwrap().bytes(), (2 * 2 * 2 * token) as u64);
                let mut expected = vec![0; geometry.bytes()];
                for (granted, at) in [(7, 0), (2, 4)] {
                    for layer in 1..3 {
                        let start = at * geometry.block_len()
                            + layer * geometry.layer_len()
                            + chunk
                            + token;
                        expected[start..start + 2 * token].fill((granted * 16 + layer) as u8);
                    }
                }
                assert!(bytes.to_vec().unwrap() == expected);
            }
        }
    }
}

#[tokio::test]
async fn parts_that_blocks_do_not_have_and_checksums_are_refused() {
    let world = World::new().await;
    let grant = world.export.grant(0, &[7], GrantOptions::new()).unwrap();
    let mut written = world.export.grant_write(0, &[3], WriteGrantOptions::new()).await.unwrap();
    for import in world.imports().await {
        let (local, _bytes) = contiguous();
        let tokens = BlockTransferOptions::new().tokens(2..5);
        let error = import.read_blocks_with(grant.ticket(), &local, &[0], tokens).await;
        let error = cause(error);
        assert!(matches!(error, ConnectorError::Ticket(TicketError::Pairing(_))), "{error}");
        assert!(error.to_string().contains("tokens 2..5"), "{error}");
        let outer = BlockTransferOptions::new().outer(0..1);
        let error = import.write_blocks_with(written.ticket(), &local, &[0], outer).await;
        let error = error.unwrap_err();
        assert_eq!(*error.cause(), TicketError::PartOfLayers.into());
        assert!(error.blocks().is_empty());
        // Words of grants have no sum of the bytes.
        let demanding =
            || BlockTransferOptions::new().operation(OperationOptions::new().checksum(true));
        let error = import.read_blocks_with(grant.ticket(), &local, &[0], demanding()).await;
        assert_eq!(cause(error), ConnectorError::NoChecksum);
        let error = import.write_blocks_with(written.ticket(), &local, &[0], demanding()).await;
        assert_eq!(*error.unwrap_err().cause(), ConnectorError::NoChecksum);
    }
    assert_eq!(written.revoke(), crate::RevokeOutcome::Free);
}

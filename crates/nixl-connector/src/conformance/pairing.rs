//! Conformance of pairing: mismatched sides are refused before the engine is called.

use bytes::Bytes;
use nixl_descriptor::{LeaseError, Region};
use nixl_ops::PairingError;

use super::Failure;
use super::failure::ensure;
use super::support::{Pair, patterned, poisoned, still_works};
use crate::{ConnectorError, OperationKind};

pub(super) async fn wrong_kind(pair: &Pair) -> Result<(), Failure> {
    let readable = pair.target.create_readable(patterned(1, 64)?).await?;
    let refused = pair.initiator.begin_write(patterned(2, 64)?, readable.metadata()).await.err();
    let expected =
        PairingError::WrongKind { offered: OperationKind::Read, wanted: OperationKind::Write };
    ensure(refused == Some(expected.into()), "what may be read may not be written")?;
    let writable = pair.target.create_writable(poisoned(64)?).await?;
    let refused = pair.initiator.begin_read(writable.metadata(), poisoned(64)?).await.err();
    let expected =
        PairingError::WrongKind { offered: OperationKind::Write, wanted: OperationKind::Read };
    ensure(refused == Some(expected.into()), "what may be written may not be read")?;
    still_works(pair).await
}

pub(super) async fn count_mismatch(pair: &Pair) -> Result<(), Failure> {
    let offer = pair.target.create_readable(patterned(1, 64)?).await?;
    let local = poisoned(64)?;
    let halves = vec![local.descriptor(..32)?, local.descriptor(32..)?];
    let refused = pair.initiator.begin_read(offer.metadata(), halves).await.err();
    let expected = PairingError::Count { local: 2, remote: 1 };
    ensure(refused == Some(expected.into()), "both lists have the same length")?;
    still_works(pair).await
}

pub(super) async fn size_mismatch(pair: &Pair) -> Result<(), Failure> {
    let source = patterned(1, 64)?;
    let offered = vec![source.descriptor(..32)?, source.descriptor(32..)?];
    let offer = pair.target.create_readable(offered).await?;
    for second in [31, 33] {
        let local = poisoned(128)?;
        let list = vec![local.descriptor(..32)?, local.descriptor(64..64 + second)?];
        let refused = pair.initiator.begin_read(offer.metadata(), list).await.err();
        let expected = PairingError::Size { index: 1, local: second as u64, remote: 32 };
        ensure(refused == Some(expected.into()), "descriptors that pair have the same size")?;
    }
    still_works(pair).await
}

pub(super) async fn read_only_destination(pair: &Pair) -> Result<(), Failure> {
    let read_only = Region::try_from(Bytes::from_static(&[7; 64]))?;
    let offer = pair.target.create_readable(patterned(1, 64)?).await?;
    let refused = pair.initiator.begin_read(offer.metadata(), read_only.clone()).await.err();
    let expected = PairingError::ReadOnly { index: 0 };
    ensure(refused == Some(expected.into()), "a read needs memory that may be written")?;
    let refused = pair.target.create_writable(read_only.clone()).await.err();
    let expected = ConnectorError::ReadOnly { index: 0 };
    ensure(refused == Some(expected), "an offer to write needs memory that may be written")?;
    ensure(read_only.to_vec()? == [7; 64], "nothing was written")?;
    still_works(pair).await
}

pub(super) async fn leased_destination(pair: &Pair) -> Result<(), Failure> {
    let region = poisoned(64)?;
    let _writable = pair.target.create_writable(region.descriptor(..32)?).await?;
    let offer = pair.initiator.create_readable(patterned(1, 16)?).await?;
    let refused = pair.target.begin_read(offer.metadata(), region.descriptor(16..32)?).await.err();
    let conflict = matches!(refused, Some(ConnectorError::Lease(LeaseError::Conflict { .. })));
    ensure(conflict, "memory that a peer may write is no destination for others")?;
    let elsewhere = region.descriptor(32..48)?;
    pair.target.begin_read(offer.metadata(), elsewhere).await?.wait_for_completion().await?;
    still_works(pair).await
}

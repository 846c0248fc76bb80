//! Conformance of endings: every operation ends, then gives its memory back.

use std::time::Duration;

use nixl_descriptor::Region;
use nixl_metadata::RdmaMetadata;

use super::Failure;
use super::failure::ensure;
use super::support::{POISON, Pair, Scene, pattern, patterned, poisoned, still_works, take_back};
use crate::{
    CancelOutcome, ClaimDemand, ConnectorError, OperationError, OperationOptions, OperationStatus,
    ReadOperation, ReadableOperation, RevokeOutcome, TransportError,
};

pub(super) async fn passive_completion(pair: &Pair) -> Result<(), Failure> {
    let scene = Scene::contiguous(1, 4 << 10)?;
    let mut offer = pair.target.create_writable(scene.to()?).await?;
    ensure(offer.status() == OperationStatus::Initialized, "an offer waits")?;
    let mut write = pair.initiator.begin_write(scene.from()?, offer.metadata()).await?;
    let there = offer.wait_for_completion().await?;
    ensure(offer.status() == OperationStatus::Complete, "its end shows")?;
    ensure(there.path().is_none(), "the target does not know the path")?;
    // The bytes are in place when the target is notified, also before the initiator sees the end.
    ensure(offer.reclaim().await.memory.is_some(), "the target's memory comes back")?;
    write.wait_for_completion().await?;
    scene.check()?;
    still_works(pair).await
}

pub(super) async fn passive_timeout(pair: &Pair) -> Result<(), Failure> {
    let after = Duration::from_millis(20);
    let options = OperationOptions::new().timeout(after);
    let region = poisoned(64)?;
    let mut offer = pair.target.create_writable_with(region.clone(), options).await?;
    let ended = offer.wait_for_completion().await;
    ensure(ended == Err(OperationError::TimedOut { after }), "the wait ends at its deadline")?;
    drop(offer);
    take_back(region)?;
    still_works(pair).await
}

pub(super) async fn cancelled(pair: &Pair) -> Result<(), Failure> {
    let (mut offer, mut read, local) = large_read(pair).await?;
    let outcome = read.cancel();
    let ended = read.wait_for_completion().await;
    if outcome == CancelOutcome::Cancelled {
        ensure(ended == Err(OperationError::Cancelled), "the waiter hears of it")?;
    } else {
        ensure(ended.is_ok(), "only its completion comes first")?;
    }
    let reclaimed = read.reclaim().await;
    ensure(reclaimed.memory.is_some(), "the memory comes back when the engine is quiet")?;
    drop(reclaimed);
    take_back(local)?;
    finish(pair, &mut offer).await
}

pub(super) async fn dropped(pair: &Pair) -> Result<(), Failure> {
    let (mut offer, read, local) = large_read(pair).await?;
    drop(read);
    take_back(local)?;
    finish(pair, &mut offer).await
}

const LARGE: usize = 4 << 20;

async fn large_read(pair: &Pair) -> Result<(ReadableOperation, ReadOperation, Region), Failure> {
    let offer = pair.target.create_readable(patterned(1, LARGE)?).await?;
    let local = poisoned(LARGE)?;
    let read = pair.initiator.begin_read(offer.metadata(), local.clone()).await?;
    Ok((offer, read, local))
}

/// The target's offer still stands if the transfer was given up before its end; else that was its use.
async fn finish(pair: &Pair, offer: &mut ReadableOperation) -> Result<(), Failure> {
    let local = poisoned(LARGE)?;
    match read(pair, offer.metadata(), &local).await {
        Ok(()) => {
            ensure(local.to_vec()? == pattern(1, LARGE), "a second read finds what was offered")?;
        }
        Err(refused) => ensure(is_ended(&refused), "only its end keeps it from being read")?,
    }
    offer.cancel();
    still_works(pair).await
}

async fn read(pair: &Pair, remote: &RdmaMetadata, to: &Region) -> Result<(), ConnectorError> {
    let mut read = pair.initiator.begin_read(remote, to.clone()).await?;
    read.wait_for_completion().await?;
    Ok(())
}

async fn write(pair: &Pair, from: Region, remote: &RdmaMetadata) -> Result<(), ConnectorError> {
    let mut write = pair.initiator.begin_write(from, remote).await?;
    write.wait_for_completion().await?;
    Ok(())
}

/// Whether an offer is refused since it is over.
fn is_ended(error: &ConnectorError) -> bool {
    matches!(
        error,
        ConnectorError::Transport(TransportError::OfferEnded { .. })
            | ConnectorError::Operation(OperationError::Transport(
                TransportError::OfferEnded { .. }
            ))
    )
}

/// The second use of an offer, by whichever profile, is refused before a byte moves.
pub(super) async fn used_once(pair: &Pair) -> Result<(), Failure> {
    const LEN: usize = 4 << 10;
    for by_json in [false, true] {
        let carried = |metadata: &RdmaMetadata| -> Result<RdmaMetadata, Failure> {
            Ok(match by_json {
                true => RdmaMetadata::decode(metadata.to_dynamo_json().as_bytes())?,
                false => RdmaMetadata::decode(&metadata.to_native_bytes()?)?,
            })
        };
        let mut offer = pair.target.create_readable(patterned(1, LEN)?).await?;
        let remote = carried(offer.metadata())?;
        read(pair, &remote, &poisoned(LEN)?).await?;
        offer.wait_for_completion().await?;
        let local = poisoned(LEN)?;
        let refused = read(pair, &remote, &local).await.err();
        ensure(refused.as_ref().is_some_and(is_ended), "a second read is refused")?;
        ensure(local.to_vec()? == vec![POISON; LEN], "nothing was read")?;

        let memory = poisoned(LEN)?;
        let mut offer = pair.target.create_writable(memory.clone()).await?;
        let remote = carried(offer.metadata())?;
        write(pair, patterned(2, LEN)?, &remote).await?;
        offer.wait_for_completion().await?;
        let refused = write(pair, patterned(3, LEN)?, &remote).await.err();
        ensure(refused.as_ref().is_some_and(is_ended), "a second write is refused")?;
        ensure(memory.to_vec()? == pattern(2, LEN), "nothing more was written")?;
    }
    still_works(pair).await
}

/// An offer that was given up before it was used gives its memory back, and is used no more.
pub(super) async fn revoked(pair: &Pair) -> Result<(), Failure> {
    const LEN: usize = 4 << 10;
    let memory = patterned(1, LEN)?;
    let mut offer = pair.target.create_readable(memory.clone()).await?;
    let remote = offer.metadata().clone();
    ensure(offer.revoke() == RevokeOutcome::Free, "a readable offer ends at once")?;
    memory.copy_from_slice(0, &[POISON; LEN])?;
    let refused = read(pair, &remote, &poisoned(LEN)?).await.err();
    ensure(refused.as_ref().is_some_and(is_ended), "it is read no more")?;

    let memory = poisoned(LEN)?;
    let options = OperationOptions::new().claims(ClaimDemand::Everywhere);
    let mut offer = pair.target.create_writable_with(memory.clone(), options).await?;
    let remote = offer.metadata().clone();
    ensure(offer.revoke() == RevokeOutcome::Free, "an unclaimed writable offer ends at once")?;
    let refused = write(pair, patterned(2, LEN)?, &remote).await.err();
    ensure(refused.as_ref().is_some_and(is_ended), "it is written no more")?;
    drop(offer);
    ensure(take_back(memory)? == [POISON; LEN], "nothing was written")?;
    still_works(pair).await
}

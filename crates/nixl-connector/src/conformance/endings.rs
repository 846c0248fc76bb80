//! Operations end, and then their memory comes back.

use std::time::Duration;

use super::Failure;
use super::failure::ensure;
use super::support::{Pair, Scene, pattern, patterned, poisoned, still_works, take_back};
use crate::{
    CancelOutcome, OperationError, OperationOptions, OperationStatus, ReadOperation,
    ReadableOperation,
};

pub(super) async fn passive_completion(pair: &Pair) -> Result<(), Failure> {
    let scene = Scene::contiguous(1, 4 << 10)?;
    let mut offer = pair.target.create_writable(scene.to()?).await?;
    ensure(offer.status() == OperationStatus::Initialized, "an offer waits")?;
    let mut write = pair.initiator.begin_write(scene.from()?, offer.metadata()).await?;
    let there = offer.wait_for_completion().await?;
    ensure(offer.status() == OperationStatus::Complete, "its end shows")?;
    ensure(there.path().is_none(), "the target does not know the path")?;
    // The bytes are in place when the target hears of it, whatever the initiator knows.
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

async fn large_read(
    pair: &Pair,
) -> Result<(ReadableOperation, ReadOperation, nixl_descriptor::Region), Failure> {
    let offer = pair.target.create_readable(patterned(1, LARGE)?).await?;
    let local = poisoned(LARGE)?;
    let read = pair.initiator.begin_read(offer.metadata(), local.clone()).await?;
    Ok((offer, read, local))
}

/// The target's offer still stands, unless the transfer ended before it could be given up.
async fn finish(pair: &Pair, offer: &mut ReadableOperation) -> Result<(), Failure> {
    let local = poisoned(LARGE)?;
    let mut read = pair.initiator.begin_read(offer.metadata(), local.clone()).await?;
    read.wait_for_completion().await?;
    offer.wait_for_completion().await?;
    ensure(local.to_vec()? == pattern(1, LARGE), "a second read finds what was offered")?;
    still_works(pair).await
}

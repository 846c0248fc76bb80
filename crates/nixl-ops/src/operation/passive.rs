//! Passive operations: offers that peers use.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use nixl_descriptor::DescriptorList;
use nixl_metadata::RdmaMetadata;

use super::ender::WritableEnder;
use super::outcomes::{CancelOutcome, Reclaimed, RevokeOutcome};
use crate::blocking::block_on;
use crate::completion::Memory;
use crate::outcome::Outcome;
use crate::passive::{OfferSpec, PassiveEntry, Release};
use crate::{ConnectionExecutor, Driver, Offer, OperationError, OperationOptions, OperationStatus};

/// The core of both passive operations. A fork's child neither uses nor drops it.
pub(super) struct Passive {
    pub(super) entry: Arc<PassiveEntry>,
    driver: Arc<Driver>,
    executor: Arc<dyn ConnectionExecutor>,
    metadata: RdmaMetadata,
    /// In place of the metadata, if that was not given out before the end.
    withdrawn: OnceLock<RdmaMetadata>,
    /// The memory to give back at the end.
    memory: Arc<DescriptorList>,
}

impl Passive {
    /// Offers the memory of `spec`, and registers the offer with the executor.
    pub(super) fn offer(
        driver: &Arc<Driver>,
        executor: &Arc<dyn ConnectionExecutor>,
        spec: OfferSpec,
        options: OperationOptions,
    ) -> Result<Self, OperationError> {
        let (metadata, memory) = (spec.metadata.clone(), Arc::clone(&spec.descriptors));
        let refused = |_: &_| {
            if let Some(offers) = executor.offers() {
                offers.offer_ended(metadata.notification_key());
            }
        };
        let entry = driver.offer(spec, options).inspect_err(refused)?;
        if let Some(offers) = executor.offers() {
            offers.offer_created(Offer::new(Arc::clone(&entry), Arc::clone(&memory)));
        }
        let (driver, executor) = (Arc::clone(driver), Arc::clone(executor));
        Ok(Self { entry, driver, executor, metadata, withdrawn: OnceLock::new(), memory })
    }

    pub(super) fn metadata(&self) -> &RdmaMetadata {
        // In a fork's child the offer belongs to the parent.
        if self.driver.check_process().is_err() || self.entry.export() {
            return &self.metadata;
        }
        self.withdrawn.get_or_init(|| self.metadata.withdrawn())
    }

    pub(super) fn status(&self) -> OperationStatus {
        self.entry.cell.status()
    }

    pub(super) async fn wait(&self) -> Outcome {
        poll_fn(|cx| self.poll_wait(cx)).await
    }

    /// As `wait`. If the offer has a slot, a peer on this host wakes the thread directly.
    pub(super) fn wait_blocking(&self) -> Outcome {
        if !self.entry.has_slot() {
            return block_on(self.wait());
        }
        let look = &mut || Arc::clone(&self.entry).look_at_slot();
        self.driver.shared().block_on_doorbell(pin!(self.wait()), look)
    }

    pub(super) fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self.driver.check_process() {
            Ok(()) => self.entry.cell.poll_outcome(cx.waker()),
            Err(forked) => Poll::Ready(Err(forked.into())),
        }
    }

    pub(super) fn cancel(&self) -> CancelOutcome {
        match self.abandon() {
            Release::AlreadyEnded => CancelOutcome::AlreadyEnded(self.status()),
            Release::Free | Release::Held => CancelOutcome::Cancelled,
        }
    }

    pub(super) fn revoke(&self) -> RevokeOutcome {
        match self.abandon() {
            Release::AlreadyEnded => RevokeOutcome::AlreadyEnded(self.status()),
            Release::Free => RevokeOutcome::Free,
            Release::Held => RevokeOutcome::Held,
        }
    }

    fn abandon(&self) -> Release {
        abandon(&self.entry, &self.driver)
    }

    pub(super) fn ender(&self) -> WritableEnder {
        WritableEnder::new(&self.entry, &self.driver)
    }

    pub(super) async fn reclaim(&mut self) -> Reclaimed {
        let outcome = self.wait().await;
        let memory = poll_fn(|cx| match self.driver.check_process() {
            Ok(()) => self.entry.cell.poll_memory(cx.waker()),
            Err(_) => Poll::Ready(Memory::Leaked),
        });
        Reclaimed::of(outcome, memory.await, &self.memory)
    }
}

/// Gives an offer up.
pub(super) fn abandon(entry: &Arc<PassiveEntry>, driver: &Driver) -> Release {
    let release = entry.abandon(OperationError::Cancelled);
    if release != Release::AlreadyEnded {
        driver.shared().wake(true);
    }
    release
}

impl Drop for Passive {
    fn drop(&mut self) {
        if let Some(offers) = self.executor.offers() {
            offers.offer_ended(self.entry.key());
        }
        self.cancel();
    }
}

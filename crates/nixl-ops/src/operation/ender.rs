//! A handle that ends an offer for writing from elsewhere than its operation.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Weak};

use super::passive::abandon;
use crate::Driver;
use crate::passive::PassiveEntry;

/// Ends a writable offer, and waits until no peer writes it. It keeps neither the offer nor its connection alive.
#[derive(Clone)]
pub struct WritableEnder {
    entry: Weak<PassiveEntry>,
    driver: Weak<Driver>,
}

/// An offer that was ended, whose memory a peer may still write.
#[must_use]
pub struct UnquietOffer(Arc<PassiveEntry>);

impl WritableEnder {
    pub(super) fn new(entry: &Arc<PassiveEntry>, driver: &Arc<Driver>) -> Self {
        Self { entry: Arc::downgrade(entry), driver: Arc::downgrade(driver) }
    }

    /// Whether the offer has ended and no peer writes its memory.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        // Nothing holds the memory of an offer that is gone.
        self.entry.upgrade().is_none_or(|entry| entry.cell.is_quiet())
    }

    /// Ends the offer, as [`WritableOperation::revoke`](crate::WritableOperation::revoke). Returns it if a peer may be writing.
    /// In a forked child nothing happens: the offer is the parent's.
    pub fn end(&self) -> Option<UnquietOffer> {
        let (driver, entry) = (self.driver.upgrade()?, self.entry.upgrade()?);
        driver.check_process().ok()?;
        abandon(&entry, &driver);
        (!entry.cell.is_quiet()).then_some(UnquietOffer(entry))
    }
}

impl UnquietOffer {
    /// Waits until no peer writes the memory, by the peer's message or by proof. Cancel safe.
    pub async fn quiet(self) {
        poll_fn(|cx| self.0.cell.poll_quiet(cx.waker())).await;
    }
}

impl fmt::Debug for WritableEnder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritableEnder").field("is_quiet", &self.is_quiet()).finish_non_exhaustive()
    }
}

impl fmt::Debug for UnquietOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnquietOffer")
            .field("status", &self.0.cell.status())
            .finish_non_exhaustive()
    }
}

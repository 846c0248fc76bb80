//! A handle that cancels an operation from another task or thread.

use std::fmt;
use std::sync::{Arc, Weak};

use super::active::cancel;
use super::outcomes::CancelOutcome;
use crate::task::TaskSlot;
use crate::{Driver, OperationStatus};

/// Cancels an active operation: a read, a write or a copy. Cheap to clone; it keeps neither the operation nor its connection
/// alive.
#[derive(Clone)]
pub struct CancelHandle {
    slot: Arc<TaskSlot>,
    driver: Weak<Driver>,
}

impl CancelHandle {
    pub(super) fn new(slot: &Arc<TaskSlot>, driver: &Arc<Driver>) -> Self {
        Self { slot: Arc::clone(slot), driver: Arc::downgrade(driver) }
    }

    /// Cancels the operation unless it has ended. Its waiter wakes at once; the memory stays with the library until the engine
    /// is quiet. Never blocks on the engine.
    pub fn cancel(&self) -> CancelOutcome {
        cancel(&self.slot, self.driver.upgrade().as_deref())
    }

    /// The status of the operation. One dropped before its end is cancelled.
    pub fn status(&self) -> OperationStatus {
        self.slot.cell.status()
    }
}

impl fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHandle").field("status", &self.status()).finish_non_exhaustive()
    }
}

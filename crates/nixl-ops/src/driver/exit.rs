//! The end of a driver: remaining operations after the drop of its handle, and without a running reactor.

use std::mem;
use std::sync::atomic::Ordering;

use super::next_look::Ending;
use super::reactor::Reactor;
use super::shared::ENDED;
use crate::task::SlotState;
use crate::{OperationError, OperationStatus};

impl Reactor {
    /// Ends the executions for peers, after the drop of the driver's last handle.
    pub(super) fn dismiss_served(&self) {
        for slot in self.active.iter().filter(|slot| slot.is_served()) {
            slot.cell.finish(OperationStatus::Cancelled, Err(OperationError::Cancelled));
        }
    }

    /// Whether the driver was dropped and no operation is left.
    pub(super) fn is_over(&self) -> bool {
        // In this order: nothing is added after the close, and slots added during this turn are still to be admitted.
        self.shared.closing.load(Ordering::SeqCst)
            && self.active.is_empty()
            && !self.shared.has_new()
            && self.shared.passive.awaited() == 0
    }

    /// The end of the driver, if it ends.
    pub(super) fn ending(&self) -> Option<Ending> {
        let since = self.closed.filter(|_| self.is_over())?;
        let (retains, drain) = (self.shared.passive.retains(), self.shared.config.drain);
        Some(Ending { since, retains, drain })
    }

    /// Leaks overdue executions that are not quiet, once nothing else is left to wait for: their drain time is over.
    pub(super) fn dismiss_overdue(&mut self) {
        for slot in self.overdue.take() {
            if !matches!(self.shared.poll(&slot), SlotState::Ended | SlotState::Gone) {
                self.shared.give_up(&slot, OperationError::Cancelled);
            }
        }
    }
}

impl Drop for Reactor {
    /// The reactor has stopped. After a regular exit nothing is left; otherwise all waiters get an error at once.
    fn drop(&mut self) {
        let slots = self.shared.close();
        let active = mem::take(&mut self.active);
        for slot in active.into_iter().chain(slots).chain(self.overdue.take()) {
            self.shared.give_up(&slot, ENDED.into());
        }
        self.shared.passive.abandon_all(&ENDED.into());
    }
}

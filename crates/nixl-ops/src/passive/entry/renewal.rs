//! The renewal of an offer of an export's blocks.

use std::time::Duration;

use super::PassiveEntry;
use crate::sync::lock;

impl PassiveEntry {
    /// Restarts the time to live of an offer of blocks, also while it is written. Returns `false` if it has ended, or if that time
    /// is over, or if the offer is of other memory.
    pub(in crate::passive) fn renew(&self, now: Duration) -> bool {
        let state = &mut *lock(&self.state);
        let is_of_blocks = state.hold.as_ref().is_some_and(|hold| hold.written.is_some());
        if !is_of_blocks || state.given_up || self.cell.status().is_terminal() {
            return false;
        }
        // The driver ends one that is due at its next look.
        let Some(deadline) = state.deadline.as_mut().filter(|deadline| now < deadline.at) else {
            return false;
        };
        deadline.at = now.saturating_add(deadline.after);
        state.expires = state.expires.max(deadline.at);
        true
    }
}

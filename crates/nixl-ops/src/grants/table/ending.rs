//! Ends of grants: by their owner, by their readers, and by time.

use std::time::Duration;

use super::super::error::GrantError;
use super::super::terms::TicketEnd;
use super::super::tokens::same;
use super::GrantTable;
use super::state::{GrantEnd, State, deadline};

/// The outcome of a reader's message that it is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum DoneOutcome {
    /// The last reader: the grant has ended.
    Ended,
    /// More readers are expected.
    Waiting {
        /// Their number.
        readers: usize,
    },
    /// The grant had ended before.
    Over,
}

impl GrantTable {
    /// Ends a grant, also during reads: readers with the check reject bytes written to the blocks from here on. Returns whether
    /// it had not ended before.
    ///
    /// It orders the caller's later accesses to the blocks, not work queued before, such as on a GPU's stream.
    pub fn end(&self, slot: u32, generation: u64) -> bool {
        self.change(|changes| {
            let alive = changes.state.grant(slot, generation).is_some();
            if alive {
                changes.end(slot, GrantEnd::Revoked);
            }
            alive
        })
    }

    /// Records that a reader is done with the grant: it has no read under way by its ticket, and begins none. A repetition counts
    /// once.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoSlot`], [`GrantError::WrongToken`].
    pub fn done(
        &self,
        slot: u32,
        generation: u64,
        token: &[u8; 16],
        reader: [u8; 16],
    ) -> Result<DoneOutcome, GrantError> {
        self.check_slot(slot)?;
        let now = self.clock.now();
        self.change(|changes| {
            let Some(grant) = changes.state.grant(slot, generation) else {
                self.tickets.done(generation, token, reader);
                return Ok(DoneOutcome::Over);
            };
            if !same(&grant.token, token) {
                return Err(GrantError::WrongToken { slot });
            }
            if grant.expires.is_some_and(|at| at <= now) {
                changes.end(slot, GrantEnd::Expired);
                self.tickets.done(generation, token, reader);
                return Ok(DoneOutcome::Over);
            }
            if grant.readers > 1 {
                grant.done.insert(reader);
                let readers = grant.readers - grant.done.len();
                if readers > 0 {
                    return Ok(DoneOutcome::Waiting { readers });
                }
            }
            changes.end(slot, GrantEnd::Done);
            Ok(DoneOutcome::Ended)
        })
    }

    /// Restarts a grant's time to live, and publishes it in the words. Returns the new end, on the clock of the table; `None`
    /// if it has no time to live.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoSlot`], [`GrantError::Over`], [`GrantError::WrongToken`].
    pub fn renew(
        &self,
        slot: u32,
        generation: u64,
        token: &[u8; 16],
    ) -> Result<Option<Duration>, GrantError> {
        let now = self.clock.now();
        self.change(|changes| {
            let grant = changes.valid(slot, generation, token, now)?;
            // The entry of the earlier deadline leads to the later one.
            grant.expires = grant.time_to_live.map(|time| now.saturating_add(time));
            let (expires, time_to_live) = (grant.expires, grant.time_to_live);
            if time_to_live.is_some() {
                let end = TicketEnd::after(time_to_live, &*self.clock);
                grant.end = self.tickets.renew(grant.end, end);
                self.words.renew(slot, end.unix_millis);
            }
            Ok(expires)
        })
    }

    /// The next end of a grant by its time to live, on the clock of the table.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        let State { slots, expiries, .. } = &mut *self.lock();
        expiries.next(deadline(slots))
    }

    /// Ends the grants whose time to live is over at `now`. Returns their number.
    pub fn expire(&self, now: Duration) -> usize {
        self.change(|changes| {
            let mut ended = 0;
            loop {
                let State { slots, expiries, .. } = &mut *changes.state;
                let Some(slot) = expiries.take_due(now, deadline(slots)) else { return ended };
                changes.end(slot, GrantEnd::Expired);
                ended += 1;
            }
        })
    }
}

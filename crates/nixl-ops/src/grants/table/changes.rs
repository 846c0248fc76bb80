//! Changes of a table: under its lock, and what follows without it.

use std::sync::MutexGuard;
use std::task::Waker;
use std::time::Duration;

use super::super::error::GrantError;
use super::super::layers::{ENDED, Told};
use super::super::metrics::LiveGauges;
use super::super::outstanding::Unanswered;
use super::super::tokens::same;
use super::GrantTable;
use super::state::{Grant, GrantEnd, State};

/// Changes under the lock, and what is called after it: wakers, readers and the recorder of metrics.
pub(super) struct Changes<'a> {
    pub(super) table: &'a GrantTable,
    pub(super) state: MutexGuard<'a, State>,
    pub(super) wakers: Vec<Waker>,
    pub(super) told: Vec<Told>,
    pub(super) ended: Vec<(GrantEnd, LiveGauges)>,
}

impl Changes<'_> {
    /// The grant of a ticket, if it has not ended. One whose time to live is over ends now.
    pub(super) fn valid(
        &mut self,
        slot: u32,
        generation: u64,
        token: &[u8; 16],
        now: Duration,
    ) -> Result<&mut Grant, GrantError> {
        let grant = self.table.alive(&mut self.state, slot, generation)?;
        if !same(&grant.token, token) {
            return Err(GrantError::WrongToken { slot });
        }
        if grant.expires.is_some_and(|at| at <= now) {
            self.end(slot, GrantEnd::Expired);
            return Err(GrantError::Over);
        }
        self.table.alive(&mut self.state, slot, generation)
    }

    /// Ends the grant of a slot, if it has one.
    pub(super) fn end(&mut self, slot: u32, why: GrantEnd) {
        let Self { table, state, wakers, told, ended } = self;
        let grant = state.slots.get_mut(slot as usize).and_then(Option::take);
        let Some(grant) = grant else { return };
        state.unfilled -= usize::from(!grant.is_filled());
        let Grant { layout, blocks, watchers, generation, token, readers, done, end, live, .. } =
            grant;
        ended.push((why, live));
        match why {
            GrantEnd::Done => table.tickets.answered(end),
            GrantEnd::Expired | GrantEnd::Revoked | GrantEnd::Closed => {
                table.tickets.ended(generation, Unanswered { token, readers, done, end });
            }
        }
        // Before the blocks are free, so later writes to them come after it.
        let value = state.next_value();
        table.words.raise(slot, value);
        let blocks = blocks.end();
        state.free.push(slot);
        told.extend(watchers.told(ENDED));
        wakers.extend(state.waiters.freed(layout, &blocks, table.held(layout)));
    }
}

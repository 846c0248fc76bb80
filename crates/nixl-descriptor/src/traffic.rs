//! Who is using which bytes of a region: leases of operations, and copies by the host.
//!
//! One short-held mutex per region. A lease that conflicts with a lease is an error, a host copy that conflicts with a
//! lease is an error; only where a host copy is under way does anybody wait, and then for no longer than that copy.
//! A copy never waits for a lease, so there is no cycle of waits.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::extent::{Extent, ExtentSet};
use crate::lease::LeaseMode;

/// Names a lease or a copy within one region.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ticket(u64);

/// A host copy's use of some bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    pub(crate) extent: Extent,
    pub(crate) mode: LeaseMode,
}

/// Whether a copy yields to leases.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Leasing {
    /// Fail if an operation's lease conflicts.
    Respect,
    /// The copy is the operation that holds the lease.
    Ignore,
}

/// A lease is held that conflicts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conflict {
    pub(crate) held: LeaseMode,
}

#[derive(Debug, Default)]
pub(crate) struct Traffic {
    state: Mutex<State>,
    copy_ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    last_ticket: u64,
    leases: Vec<(Ticket, LeaseMode, ExtentSet)>,
    copies: Vec<(Ticket, Use)>,
    /// Threads that wait for a copy to end.
    waiting: usize,
}

impl Traffic {
    /// Notes a lease until [`end_lease`](Self::end_lease), or says which kind of lease is in the way.
    pub(crate) fn begin_lease(&self, mode: LeaseMode, set: ExtentSet) -> Result<Ticket, Conflict> {
        let mut state = self.lock();
        loop {
            let conflict = state
                .leases
                .iter()
                .find(|(_, held, other)| mode.conflicts(*held) && set.overlaps(other));
            if let Some((_, held, _)) = conflict {
                return Err(Conflict { held: *held });
            }
            let copying = |(_, copy): &(Ticket, Use)| {
                mode.conflicts(copy.mode) && set.overlaps(&ExtentSet::single(copy.extent))
            };
            if !state.copies.iter().any(copying) {
                break;
            }
            state = self.wait(state);
        }
        let ticket = state.next_ticket();
        state.leases.push((ticket, mode, set));
        Ok(ticket)
    }

    pub(crate) fn end_lease(&self, ticket: Ticket) {
        let mut state = self.lock();
        // The newest first: operations tend to be short.
        if let Some(index) = state.leases.iter().rposition(|(held, ..)| *held == ticket) {
            state.leases.swap_remove(index);
        }
    }

    /// Notes a copy until the guard is dropped; all its uses at once, so that it cannot deadlock with another.
    pub(crate) fn begin_copy(
        &self,
        uses: &[Use],
        leasing: Leasing,
    ) -> Result<CopyGuard<'_>, Conflict> {
        let mut state = self.lock();
        loop {
            if leasing == Leasing::Respect {
                let conflict = state.leases.iter().find(|(_, held, set)| {
                    uses.iter().any(|wanted| {
                        wanted.mode.conflicts(*held)
                            && set.overlaps(&ExtentSet::single(wanted.extent))
                    })
                });
                if let Some((_, held, _)) = conflict {
                    return Err(Conflict { held: *held });
                }
            }
            let copying = |(_, other): &(Ticket, Use)| {
                uses.iter().any(|wanted| {
                    wanted.mode.conflicts(other.mode) && wanted.extent.overlaps(other.extent)
                })
            };
            if !state.copies.iter().any(copying) {
                break;
            }
            state = self.wait(state);
        }
        let ticket = state.next_ticket();
        state.copies.extend(uses.iter().map(|used| (ticket, *used)));
        Ok(CopyGuard { traffic: self, ticket })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = self.copy_ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }
}

impl State {
    fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }
}

/// A copy under way.
#[derive(Debug)]
pub(crate) struct CopyGuard<'a> {
    traffic: &'a Traffic,
    ticket: Ticket,
}

impl Drop for CopyGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.traffic.lock();
        state.copies.retain(|(ticket, _)| *ticket != self.ticket);
        if state.waiting > 0 {
            self.traffic.copy_ended.notify_all();
        }
    }
}

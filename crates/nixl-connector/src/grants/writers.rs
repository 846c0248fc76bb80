//! The grants to write of an export, which end with it.

use std::mem;
use std::sync::{Mutex, MutexGuard};

use nixl_device::locks::lock;
use nixl_ops::{GrantError, UnquietOffer, WritableEnder};

/// Grants to write that have not ended, or whose memory is not quiet.
#[derive(Default)]
pub(super) struct Writers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    grants: Vec<WritableEnder>,
    /// Those that have ended are dropped when there are so many.
    trim_at: usize,
    closed: bool,
}

impl Writers {
    /// Grants that are kept before any is looked at.
    const SPARE: usize = 64;

    /// Refuses grants of a closed export.
    pub(super) fn check_open(&self) -> Result<(), GrantError> {
        if self.lock().closed { Err(GrantError::Closed) } else { Ok(()) }
    }

    /// Adds a grant, unless the export was closed meanwhile.
    pub(super) fn add(&self, grant: WritableEnder) -> Result<(), GrantError> {
        let mut state = self.lock();
        if state.closed {
            return Err(GrantError::Closed);
        }
        if state.grants.len() >= state.trim_at {
            state.grants.retain(|grant| !grant.is_quiet());
            state.trim_at = 2 * state.grants.len() + Self::SPARE;
        }
        state.grants.push(grant);
        Ok(())
    }

    /// Refuses further grants and ends all there are. Returns those that a peer may still be writing.
    pub(super) fn close(&self) -> Vec<UnquietOffer> {
        let grants = {
            let mut state = self.lock();
            state.closed = true;
            mem::take(&mut state.grants)
        };
        grants.iter().filter_map(WritableEnder::end).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

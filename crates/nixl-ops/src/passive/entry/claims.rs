//! Claims of an offer: by copies of this process, and by agents' messages.

use std::mem;
use std::sync::Arc;

use nixl_descriptor::Leased;
use nixl_metadata::OperationKind;

use super::{Hold, PassiveEntry, State};
use crate::slots::OfferSlot;
use crate::sync::lock;
use crate::{EndedOffer, OperationStatus};

impl PassiveEntry {
    /// The proof for a copy of this process. `None` if the offer has ended or another copy uses it.
    pub(crate) fn claim(&self) -> Option<Leased> {
        let mut state = lock(&self.state);
        let leased = self.claimable(&state).ok()?.leased.clone();
        state.claimed = true;
        Some(leased)
    }

    /// The proof for a copy with which this process itself uses the offer. No initiator writes at the same time.
    pub(crate) fn claim_for_copy(&self) -> Result<Leased, EndedOffer> {
        let mut state = lock(&self.state);
        let hold = self.claimable(&state)?;
        let leased = hold.leased.clone();
        if self.kind() == OperationKind::Write {
            if state.agent.is_some() {
                return Err(EndedOffer::Claimed);
            }
            hold.slot.as_ref().map_or(Ok(()), OfferSlot::claim_for_agent)?;
            state.copying = true;
        }
        state.claimed = true;
        Ok(leased)
    }

    fn claimable<'a>(&self, state: &'a State) -> Result<&'a Hold, EndedOffer> {
        match self.cell.status() {
            OperationStatus::Complete => Err(EndedOffer::Used),
            status if status.is_terminal() => Err(EndedOffer::Revoked),
            // Before the cell has ended, the owner may be taking the memory back.
            _ if state.given_up => Err(EndedOffer::Revoked),
            _ if state.claimed => Err(EndedOffer::Claimed),
            _ => state.hold.as_ref().ok_or(EndedOffer::Revoked),
        }
    }

    /// The copy with the claim never ends, so the claim does not either.
    pub(crate) fn claim_leaked(self: &Arc<Self>) {
        if lock(&self.state).given_up {
            self.let_go();
        }
    }

    pub(crate) fn unclaim(self: &Arc<Self>) {
        let (given_up, ended) = {
            let mut state = lock(&self.state);
            state.claimed = false;
            if mem::take(&mut state.copying)
                && let Some(slot) = state.hold.as_ref().and_then(|hold| hold.slot.as_ref())
            {
                slot.unclaim_for_agent();
            }
            (state.given_up, self.uses_ended(&state))
        };
        match ended {
            // Another use has ended meanwhile.
            Some(succeeded) => Arc::clone(self).end(succeeded),
            None if given_up => {
                self.let_go();
            }
            None => {}
        }
    }

    /// Claims a writable offer for an agent, by its message. A repeated request is granted again.
    pub(crate) fn claim_by_message(&self, from: &str) -> Result<(), EndedOffer> {
        let mut state = lock(&self.state);
        if state.given_up || state.hold.is_none() || self.cell.status().is_terminal() {
            return Err(EndedOffer::Revoked);
        }
        match &state.agent {
            Some(agent) if agent == from => return Ok(()),
            Some(_) => return Err(EndedOffer::Claimed),
            None => {}
        }
        if state.claimed {
            return Err(EndedOffer::Claimed);
        }
        if let Some(slot) = state.hold.as_ref().and_then(|hold| hold.slot.as_ref()) {
            slot.claim_for_agent()?;
        }
        state.agent = Some(from.to_owned());
        Ok(())
    }

    /// Records the completed copy of this process, one use.
    pub(crate) fn complete(self: Arc<Self>) {
        let (given_up, ended) = {
            let mut state = lock(&self.state);
            state.claimed = false;
            state.by_notification += 1;
            (state.given_up, self.uses_ended(&state))
        };
        match ended {
            Some(succeeded) => self.end(succeeded),
            None if given_up => {
                self.let_go();
            }
            None => {}
        }
    }
}

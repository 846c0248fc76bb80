//! The end of an offer that its owner gives up: memory that is free at once, retained, or quarantined until its peer is quiet.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nixl_descriptor::DescriptorList;
use nixl_metadata::{ClaimDemand, OperationKind};

use super::{Export, Hold, PassiveEntry, State};
use crate::passive::quiet::{Claimant, QuietWatch};
use crate::passive::retained::Retained;
use crate::slots::{OfferSlot, Revocation, SlotEvent};
use crate::sync::lock;
use crate::{OperationError, OperationStatus};

/// What giving an offer up came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Release {
    /// It had ended before.
    AlreadyEnded,
    /// The memory is the owner's again.
    Free,
    /// A peer may still touch it.
    Held,
}

/// A peer that is watched.
pub(in crate::passive) struct Watching {
    pub(in crate::passive) peer: Claimant,
    pub(in crate::passive) watch: Option<Box<dyn QuietWatch>>,
    pub(in crate::passive) memory: Arc<DescriptorList>,
}

#[derive(Debug)]
pub(super) struct Quarantine {
    peer: Claimant,
    /// Agents whose answer is awaited; the memory is free once all have declined to write.
    asked: Vec<String>,
    /// One of them has reported the end of its request without success.
    has_ended_writes: bool,
    watch: Option<Box<dyn QuietWatch>>,
}

impl Quarantine {
    /// Once all agents have answered, and some have written, what those had sent is waited for.
    fn note_ended(&mut self) {
        if self.has_ended_writes && self.asked.is_empty() && self.peer != Claimant::Ended {
            self.peer = Claimant::Ended;
            self.watch = None;
        }
    }
}

impl PassiveEntry {
    /// Ends the operation for its owner, and counts that unless it has ended before.
    fn finish_given_up(&self, error: OperationError) {
        let status = match error {
            OperationError::Cancelled => OperationStatus::Cancelled,
            _ => OperationStatus::Errored,
        };
        let cause = error.cause();
        if self.cell.finish(status, Err(error)) {
            let elapsed = self.elapsed(self.table.upgrade().as_deref());
            self.metrics.ended(self.kind(), self.total_bytes(), elapsed, Some(cause));
        }
    }

    /// The owner gives the offer up. Its memory comes back at once if no peer writes it, else by the peer's confirmation or by proof.
    pub(crate) fn abandon(self: &Arc<Self>, error: OperationError) -> Release {
        // An end that is in the slot already counts.
        if let Some(event) = self.slot_event() {
            Arc::clone(self).used(event);
        }
        let before = self.cell.status().is_terminal();
        lock(&self.state).given_up = true;
        if before {
            return Release::AlreadyEnded;
        }
        // Revoked before the waiter wakes.
        let release = self.let_go_before(|| self.finish_given_up(error));
        match release {
            true => Release::Free,
            false => Release::Held,
        }
    }

    /// As [`abandon`](Self::abandon), with the owner's promise that no peer accesses the memory.
    pub(crate) fn abandon_quiet(self: &Arc<Self>) {
        self.finish_given_up(OperationError::Cancelled);
        let claimed = {
            let mut state = lock(&self.state);
            state.given_up = true;
            state.claimed
        };
        if !claimed {
            self.release();
        }
    }

    /// Whether processes of this host end it by a slot.
    pub(crate) fn has_slot(&self) -> bool {
        lock(&self.state).hold.as_ref().is_some_and(|hold| hold.slot.is_some())
    }

    /// Takes in the slot's state. Returns whether the offer has ended by it.
    pub(crate) fn look_at_slot(self: Arc<Self>) -> bool {
        let Some(event) = self.slot_event() else { return false };
        Arc::clone(&self).used(event);
        self.cell.status().is_terminal()
    }

    fn slot_event(&self) -> Option<SlotEvent> {
        lock(&self.state).hold.as_ref()?.slot.as_ref()?.event()
    }

    pub(super) fn let_go(self: &Arc<Self>) -> bool {
        self.let_go_before(|| {})
    }

    /// Gives back the free memory of an offer that was given up. Returns whether all is free.
    fn let_go_before(self: &Arc<Self>, wake: impl FnOnce()) -> bool {
        // The lock is not held in what follows.
        let revoked = lock(&self.state).revoke(self);
        let free = match revoked {
            Revoked::Nothing => true,
            Revoked::Copied => {
                wake();
                return false;
            }
            Revoked::Leaked => {
                self.forget();
                wake();
                self.cell.set_leaked();
                return false;
            }
            Revoked::Retain => {
                self.retain();
                wake();
                self.cell.set_quiet();
                return true;
            }
            Revoked::Quarantine => false,
        };
        if free {
            self.forget();
            wake();
            self.cell.set_quiet();
            return true;
        }
        wake();
        if let Some(table) = self.table.upgrade() {
            let drain_by = table.now().saturating_add(table.drain());
            lock(&self.state).drain_by.get_or_insert(drain_by);
            table.wake_by(drain_by);
            table.quarantined(self);
        }
        false
    }

    /// Ends the lease of a readable offer, and keeps its memory allocated for as long as initiators may begin.
    fn retain(&self) {
        let hold = lock(&self.state).hold.take();
        let Some(Hold { word, registrations, leased, descriptors, slot, .. }) = hold else {
            return;
        };
        drop(word);
        drop(leased);
        drop(slot);
        let Some(table) = self.table.upgrade() else { return };
        let (uses, expires) = {
            let state = lock(&self.state);
            (state.by_slot.0 + state.by_notification + state.declined, state.expires)
        };
        // Retained first: once the entry is gone, the driver may park until the next expiry.
        table.retain(Retained::new(
            self.key().clone(),
            expires.saturating_add(table.skew()),
            self.readers().saturating_sub(uses),
            (registrations, descriptors),
            &self.metrics,
        ));
        table.remove(self.key());
    }

    /// It is proven that no peer touches the memory.
    pub(in crate::passive) fn release(&self) {
        self.forget();
        self.cell.set_quiet();
    }

    /// Releases the memory.
    fn forget(&self) {
        let hold = lock(&self.state).hold.take();
        if let Some(table) = self.table.upgrade() {
            table.remove(self.key());
        }
        drop(hold);
    }

    /// Applies the deadlines that have passed; returns the next one.
    pub(in crate::passive) fn expire(self: &Arc<Self>, now: Duration) -> Option<Duration> {
        let timed_out = {
            let mut state = lock(&self.state);
            state.deadline.take_if(|deadline| now >= deadline.at)
        };
        if let Some(deadline) = timed_out {
            self.abandon(OperationError::TimedOut { after: deadline.after });
        }
        let mut state = lock(&self.state);
        match state.drain_by {
            Some(drain_by) if now >= drain_by && !state.claimed && state.hold.is_some() => {
                state.drain_by = None;
                drop(state);
                tracing::error!(
                    bytes = self.total_bytes(),
                    "a peer may still write the memory of an operation that has ended; it stays quarantined"
                );
                if let Some(table) = self.table.upgrade()
                    && !self.dormant.swap(true, Ordering::AcqRel)
                {
                    table.count_dormant();
                }
                self.cell.set_leaked();
                None
            }
            Some(drain_by) => Some(drain_by),
            None => state.deadline.map(|d| d.at),
        }
    }

    /// The peer whose quiet is to be proven, with the watch over it if there is one already.
    pub(in crate::passive) fn take_watch(&self, now: Duration, skew: Duration) -> Option<Watching> {
        let mut state = lock(&self.state);
        state.hold.as_ref()?;
        let expires = state.expires;
        let quarantine = state.quarantine.as_mut()?;
        // Until its life time is over, any holder of an offer without terms may begin.
        let may_begin = quarantine.asked.is_empty() && now < expires.saturating_add(skew);
        if quarantine.peer == Claimant::Unknown && may_begin {
            return None;
        }
        let (peer, watch) = (quarantine.peer.clone(), quarantine.watch.take());
        Some(Watching { peer, watch, memory: Arc::clone(&state.hold.as_ref()?.descriptors) })
    }

    /// Keeps the watch over this peer, if that is still the one whose quiet is to be proven.
    pub(in crate::passive) fn put_watch(&self, peer: &Claimant, watch: Box<dyn QuietWatch>) {
        if let Some(quarantine) = lock(&self.state).quarantine.as_mut()
            && quarantine.peer == *peer
        {
            quarantine.watch = Some(watch);
        }
    }

    /// The agents whose messages about a quarantined offer are wanted.
    pub(in crate::passive) fn asks(&self) -> Vec<String> {
        let state = lock(&self.state);
        match (&state.hold, &state.quarantine) {
            (Some(_), Some(quarantine)) => quarantine.asked.clone(),
            _ => Vec::new(),
        }
    }

    /// An agent declines to write.
    pub(crate) fn is_not_written_by(self: Arc<Self>, from: &str) {
        let (claimed, all) = {
            let mut state = lock(&self.state);
            let claimed = state.agent.as_deref() == Some(from);
            let all = state.quarantine.as_mut().is_some_and(|quarantine| {
                let before = quarantine.asked.len();
                quarantine.asked.retain(|agent| agent != from);
                quarantine.note_ended();
                before > 0 && quarantine.asked.is_empty() && !quarantine.has_ended_writes
            });
            (claimed, all)
        };
        match (claimed, all) {
            (true, _) => {
                self.note(|state| state.declined += 1);
            }
            (false, true) => self.release(),
            (false, false) => {}
        }
    }

    /// An agent reports that its request has ended without success. What it had posted may still be on its way: the memory comes
    /// back once that has arrived.
    pub(crate) fn write_of_agent_ended(&self, from: &str) {
        let mut state = lock(&self.state);
        let Some(quarantine) = state.quarantine.as_mut() else { return };
        if !quarantine.asked.iter().any(|agent| agent == from) {
            return;
        }
        quarantine.asked.retain(|agent| agent != from);
        quarantine.has_ended_writes = true;
        quarantine.note_ended();
    }

    /// The agents that may be writing the offer without a claim. `None` if any holder may.
    fn unclaimed_writers(&self) -> Option<Vec<String>> {
        let terms = self.metadata.terms().filter(|_| !self.is_without_terms())?;
        match terms.claims() {
            ClaimDemand::Everywhere => Some(Vec::new()),
            _ => {
                Some(self.table.upgrade()?.announced_writers(self.begun, terms.made_unix_millis()))
            }
        }
    }
}

impl Drop for PassiveEntry {
    fn drop(&mut self) {
        // The connection ends, and a peer may still write the memory.
        let quarantined = lock(&self.state).quarantine.is_some();
        if quarantined && let Some(hold) = lock(&self.state).hold.take() {
            let Hold { leased, written, .. } = hold;
            leased.leak();
            // Never free.
            std::mem::forget(written);
        }
    }
}

/// The state of the memory of an offer that was given up.
enum Revoked {
    /// No peer touches the memory.
    Nothing,
    /// A copy of this process does.
    Copied,
    /// A copy of this process does, for good.
    Leaked,
    /// Peers may read it.
    Retain,
    /// A peer may write it.
    Quarantine,
}

impl State {
    fn revoke(&mut self, entry: &PassiveEntry) -> Revoked {
        let Some(hold) = &self.hold else { return Revoked::Nothing };
        // Also where a copy of this process still runs: no peer begins any more.
        let revocation = hold.slot.as_ref().map(OfferSlot::revoke);
        if self.claimed {
            return if hold.leased.is_leaked() { Revoked::Leaked } else { Revoked::Copied };
        }
        if self.export != Export::Done {
            self.export = Export::Refused;
            return Revoked::Nothing;
        }
        if entry.kind() == OperationKind::Read {
            return Revoked::Retain;
        }
        let (peer, asked) = match (revocation, &self.agent) {
            (Some(Revocation::Ended), _) => return Revoked::Nothing,
            // Even if a peer that misuses the page has overwritten the claim.
            (Some(Revocation::Claimed(0) | Revocation::Unclaimed) | None, Some(agent)) => {
                (Claimant::Agent(agent.clone()), vec![agent.clone()])
            }
            (Some(Revocation::Claimed(pid)), _) if pid != 0 => (Claimant::Process(pid), Vec::new()),
            // Overwritten by a peer that misuses the page.
            (Some(Revocation::Claimed(_)), None) => (Claimant::Unknown, Vec::new()),
            (Some(_) | None, _) => match entry.unclaimed_writers() {
                Some(writers) if writers.is_empty() => return Revoked::Nothing,
                Some(writers) => (Claimant::Unknown, writers),
                None => (Claimant::Unknown, Vec::new()),
            },
        };
        self.quarantine.get_or_insert(Quarantine {
            peer,
            asked,
            has_ended_writes: false,
            watch: None,
        });
        if let Some(hold) = &mut self.hold {
            let gauges = || entry.metrics.quarantined(entry.is_without_terms(), entry.held_bytes());
            hold.gauges.get_or_insert_with(gauges);
        }
        Revoked::Quarantine
    }
}

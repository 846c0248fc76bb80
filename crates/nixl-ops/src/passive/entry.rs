//! The state of one passive operation.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nixl_descriptor::{DescriptorList, Leased, Registration};
use nixl_metadata::{ClaimDemand, NotificationKey, OperationKind, RdmaMetadata};

use super::quiet::{Claimant, QuietWatch};
use super::retained::Retained;
use super::spec::OfferSpec;
use super::table::PassiveTable;
use super::telemetry::{HeldGauges, OfferMetrics};
use crate::deadline::Deadline;
use crate::outcome::{Completion, Outcome};
use crate::slots::{OfferSlot, Revocation, SlotEvent};
use crate::sync::{Mutex, lock};
use crate::telemetry::GaugeShare;
use crate::{CompletionCell, EndedOffer, OperationError, OperationStatus};

/// One passive operation.
#[derive(Debug)]
pub(crate) struct PassiveEntry {
    metadata: RdmaMetadata,
    pub(crate) cell: Arc<CompletionCell<Outcome>>,
    pub(super) begun: Duration,
    /// When no initiator begins any more.
    pub(super) expires: Duration,
    table: Weak<PassiveTable>,
    /// Those of the table, which a claim may outlive.
    metrics: Arc<OfferMetrics>,
    /// Its owner does not wait for the peer any more.
    dormant: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Gone once the peer is known to be done with the memory.
    hold: Option<Hold>,
    deadline: Option<Deadline>,
    /// When the owner stops waiting for memory that a peer may still write.
    drain_by: Option<Duration>,
    /// The metadata was asked for: a peer may use the offer at any time.
    exported: bool,
    /// A copy of this process is using the memory.
    claimed: bool,
    /// That copy is this process's own use of the offer, for which it holds the slot.
    copying: bool,
    /// The agent that claimed it by a message.
    agent: Option<String>,
    /// The agents to which the engine was connected for this offer.
    introduced: Vec<Box<str>>,
    /// Uses that have ended, and those that succeeded, by the slot and by notifications.
    by_slot: (u32, u32),
    by_notification: u32,
    declined: u32,
    /// Set once the owner has given the offer up.
    given_up: bool,
    /// The peer that may still be writing, once the owner has given the offer up.
    quarantine: Option<Quarantine>,
}

#[derive(Debug)]
struct Hold {
    registrations: Vec<Registration>,
    leased: Leased,
    /// Not in the entry: an entry that has ended is no handle to memory that its owner has back.
    descriptors: Arc<DescriptorList>,
    /// While it is quarantined.
    gauges: Option<HeldGauges>,
    _offers: GaugeShare,
    /// Last: freed when nothing leads to the memory any more.
    slot: Option<OfferSlot>,
}

#[derive(Debug)]
struct Quarantine {
    peer: Claimant,
    /// Agents whose word is wanted; the memory is free once all have said that they are not writing.
    asked: Vec<String>,
    /// One of them has said that its request has ended without success.
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

impl PassiveEntry {
    pub(super) fn new(
        spec: OfferSpec,
        now: Duration,
        deadline: Option<Deadline>,
        (table, metrics): (Weak<PassiveTable>, Arc<OfferMetrics>),
    ) -> Self {
        let OfferSpec { metadata, descriptors, leased, registrations, slot, life_time } = spec;
        let live = metrics.live();
        Self {
            metadata,
            cell: Arc::new(CompletionCell::new()),
            begun: now,
            expires: now.saturating_add(life_time),
            table,
            metrics,
            dormant: AtomicBool::new(false),
            state: Mutex::new(State {
                hold: Some(Hold {
                    registrations,
                    leased,
                    descriptors,
                    gauges: None,
                    _offers: live,
                    slot,
                }),
                deadline,
                drain_by: None,
                exported: false,
                claimed: false,
                copying: false,
                agent: None,
                introduced: Vec::new(),
                by_slot: (0, 0),
                by_notification: 0,
                declined: 0,
                given_up: false,
                quarantine: None,
            }),
        }
    }

    pub(crate) fn kind(&self) -> OperationKind {
        self.metadata.operation_kind()
    }

    pub(crate) fn key(&self) -> &NotificationKey {
        self.metadata.notification_key()
    }

    fn total_bytes(&self) -> u64 {
        self.metadata.total_bytes()
    }

    pub(crate) fn set_exported(&self) {
        lock(&self.state).exported = true;
    }

    /// The agents that may be writing the offer without a claim. `None` if any holder may.
    fn unclaimed_writers(&self) -> Option<Vec<String>> {
        let terms = self.metadata.terms().filter(|_| !self.is_without_terms())?;
        match terms.claims() {
            ClaimDemand::Everywhere => Some(Vec::new()),
            _ => Some(self.table.upgrade()?.announced_before(terms.made_unix_millis())),
        }
    }

    /// Whether the peers know neither a life time nor claims.
    pub(super) fn is_without_terms(&self) -> bool {
        self.metadata.terms().is_none() || self.metadata.was_encoded_without_terms()
    }

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
            // Before the cell has its end, the owner may be taking the memory back.
            _ if state.given_up => Err(EndedOffer::Revoked),
            _ if state.claimed => Err(EndedOffer::Claimed),
            _ => state.hold.as_ref().ok_or(EndedOffer::Revoked),
        }
    }

    /// The copy that holds the claim never ends: neither does the claim.
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
            // A use by other means has ended meanwhile.
            Some(succeeded) => Arc::clone(self).end(succeeded),
            None if given_up => {
                self.let_go();
            }
            None => {}
        }
    }

    /// Claims a writable offer for an agent that asked by a message. Asking again is granted again.
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

    /// Takes in that a holder of the metadata does not use the offer.
    pub(crate) fn declined(self: Arc<Self>, from: &str) {
        if self.kind() == OperationKind::Read || self.claim_by_message(from).is_ok() {
            self.note(|state| state.declined += 1);
        }
    }

    /// Whether the engine may be connected to an agent because it holds this offer: as many as the offer has readers, and eight
    /// that try again under another name.
    pub(crate) fn may_introduce(&self, agent: &str) -> bool {
        const SPARE: u32 = 8;
        const MOST: u32 = 4096;
        let most = self.readers().saturating_add(SPARE).min(MOST) as usize;
        let mut state = lock(&self.state);
        if state.introduced.iter().any(|known| **known == *agent) {
            return true;
        }
        let fits = state.introduced.len() < most;
        if fits {
            state.introduced.push(agent.into());
        }
        fits
    }

    /// The secret that messages about the offer carry.
    pub(crate) fn token(&self) -> Option<u64> {
        self.metadata.terms().map(|terms| terms.token().get())
    }

    /// An agent says that it is not writing, nor will.
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

    /// An agent says that its request has ended without success. What it had posted may still be on its way: the memory comes
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

    /// A copy of this process, which claimed the offer, has moved all bytes: one use has ended.
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

    /// A notification says that a use is complete. One of an offer that this process is copying is not its end.
    pub(super) fn notified(self: Arc<Self>) -> bool {
        let ended = {
            let mut state = lock(&self.state);
            if state.claimed {
                return false;
            }
            state.by_notification += 1;
            self.uses_ended(&state)
        };
        if let Some(succeeded) = ended {
            self.end(succeeded);
        }
        true
    }

    /// The slot says how many uses have ended. Returns whether the offer is not being copied by this process.
    pub(super) fn used(self: Arc<Self>, event: SlotEvent) -> bool {
        self.note(|state| state.by_slot = (event.uses, event.successes))
    }

    /// Takes in what is said of the uses, and ends the offer if all have ended. Where this process is copying, the end of the copy
    /// does, and `false` is returned.
    fn note(self: Arc<Self>, said: impl FnOnce(&mut State)) -> bool {
        let ended = {
            let mut state = lock(&self.state);
            said(&mut state);
            if state.claimed {
                return false;
            }
            self.uses_ended(&state)
        };
        if let Some(succeeded) = ended {
            self.end(succeeded);
        }
        true
    }

    fn readers(&self) -> u32 {
        self.metadata.terms().map_or(1, |terms| terms.readers().get())
    }

    /// Whether all uses have ended, and if so whether one succeeded.
    fn uses_ended(&self, state: &State) -> Option<bool> {
        let readers = self.readers();
        let uses = state.by_slot.0.saturating_add(state.by_notification + state.declined);
        (uses >= readers).then_some(state.by_slot.1 > 0 || state.by_notification > 0)
    }

    /// The peer is done: gives the memory back and wakes the waiter.
    pub(crate) fn end(self: Arc<Self>, succeeded: bool) {
        let table = self.table.upgrade();
        if let Some(table) = &table {
            table.remove(self.key());
        }
        let hold = lock(&self.state).hold.take();
        let Some(hold) = hold else { return };
        drop(hold);
        let elapsed = self.elapsed(table.as_deref());
        // The waiter may take its memory back as soon as it wakes: the hold has gone.
        let (status, outcome) = match succeeded {
            true => {
                let completion = Completion::new(self.total_bytes(), elapsed, None);
                (OperationStatus::Complete, Ok(completion))
            }
            false => (OperationStatus::Errored, Err(OperationError::Declined)),
        };
        let failure = outcome.as_ref().err().map(OperationError::cause);
        // An offer that was given up before has been counted then.
        if self.cell.finish_quiet(status, outcome) {
            self.metrics.ended(self.kind(), self.total_bytes(), elapsed, failure);
        }
    }

    /// A claim may outlive the driver, and with it the table.
    fn elapsed(&self, table: Option<&PassiveTable>) -> Duration {
        table.map_or(Duration::ZERO, |table| table.now().saturating_sub(self.begun))
    }

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

    /// Takes in what the slot says. Returns whether it says that the offer has ended.
    pub(crate) fn look_at_slot(self: Arc<Self>) -> bool {
        let Some(event) = self.slot_event() else { return false };
        Arc::clone(&self).used(event);
        self.cell.status().is_terminal()
    }

    fn slot_event(&self) -> Option<SlotEvent> {
        lock(&self.state).hold.as_ref()?.slot.as_ref()?.event()
    }

    fn let_go(self: &Arc<Self>) -> bool {
        self.let_go_before(|| {})
    }

    /// Gives back what can be given back of an offer that was given up. Returns whether all can.
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
        let Some(Hold { registrations, leased, descriptors, slot, .. }) = hold else { return };
        drop(leased);
        drop(slot);
        let Some(table) = self.table.upgrade() else { return };
        let uses = {
            let state = lock(&self.state);
            state.by_slot.0 + state.by_notification + state.declined
        };
        // Retained first: once the entry is gone, the driver may park until the next expiry.
        table.retain(Retained::new(
            self.key().clone(),
            self.expires.saturating_add(table.skew()),
            self.readers().saturating_sub(uses),
            (registrations, descriptors),
            &self.metrics,
        ));
        table.remove(self.key());
    }

    /// It is proven that no peer touches the memory.
    pub(super) fn release(&self) {
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
    pub(super) fn expire(self: &Arc<Self>, now: Duration) -> Option<Duration> {
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
    pub(super) fn take_watch(&self, now: Duration, skew: Duration) -> Option<Watching> {
        let mut state = lock(&self.state);
        state.hold.as_ref()?;
        let quarantine = state.quarantine.as_mut()?;
        // Until its life time is over, any holder of an offer without terms may begin.
        let may_begin = quarantine.asked.is_empty() && now < self.expires.saturating_add(skew);
        if quarantine.peer == Claimant::Unknown && may_begin {
            return None;
        }
        let (peer, watch) = (quarantine.peer.clone(), quarantine.watch.take());
        Some(Watching { peer, watch, memory: Arc::clone(&state.hold.as_ref()?.descriptors) })
    }

    /// Keeps the watch over this peer, if that is still the one whose quiet is to be proven.
    pub(super) fn put_watch(&self, peer: &Claimant, watch: Box<dyn QuietWatch>) {
        if let Some(quarantine) = lock(&self.state).quarantine.as_mut()
            && quarantine.peer == *peer
        {
            quarantine.watch = Some(watch);
        }
    }

    /// The agents whose words about a quarantined offer are wanted.
    pub(super) fn asks(&self) -> Vec<String> {
        let state = lock(&self.state);
        match (&state.hold, &state.quarantine) {
            (Some(_), Some(quarantine)) => quarantine.asked.clone(),
            _ => Vec::new(),
        }
    }

    pub(super) fn is_held(&self) -> bool {
        lock(&self.state).hold.is_some()
    }

    pub(super) fn is_dormant(&self) -> bool {
        self.dormant.load(Ordering::Acquire)
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.total_bytes()
    }
}

impl Drop for PassiveEntry {
    fn drop(&mut self) {
        // The connection ends, and a peer may still write the memory.
        let quarantined = lock(&self.state).quarantine.is_some();
        if quarantined && let Some(hold) = lock(&self.state).hold.take() {
            hold.leased.leak();
        }
    }
}

/// A peer that is watched.
pub(super) struct Watching {
    pub(super) peer: Claimant,
    pub(super) watch: Option<Box<dyn QuietWatch>>,
    pub(super) memory: Arc<DescriptorList>,
}

/// What is left of an offer that was given up.
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
        if !self.exported {
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

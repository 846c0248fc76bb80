//! The state of one passive operation.

mod claims;
mod given_up;
mod renewal;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nixl_descriptor::{DescriptorList, Leased, Registration};
use nixl_metadata::{NotificationKey, OperationKind, RdmaMetadata};

use self::given_up::Quarantine;
pub(crate) use self::given_up::Release;
pub(super) use self::given_up::Watching;
use super::spec::OfferSpec;
use super::table::PassiveTable;
use super::telemetry::{HeldGauges, OfferMetrics};
use crate::deadline::Deadline;
use crate::outcome::{Completion, Outcome};
use crate::slots::{OfferSlot, SlotEvent};
use crate::sync::{Mutex, lock};
use crate::telemetry::GaugeShare;
use crate::{CompletionCell, OfferWord, OperationError, OperationStatus, WrittenBlocks};

/// One passive operation.
#[derive(Debug)]
pub(crate) struct PassiveEntry {
    metadata: RdmaMetadata,
    /// Of the memory. Metadata that stays in this process may list a part of it.
    bytes: u64,
    pub(crate) cell: Arc<CompletionCell<Outcome>>,
    pub(super) begun: Duration,
    table: Weak<PassiveTable>,
    /// The counters of the table, which a claim may outlive.
    metrics: Arc<OfferMetrics>,
    /// Whether its owner has stopped waiting for the peer.
    dormant: AtomicBool,
    state: Mutex<State>,
}

/// Whether peers have the metadata.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Export {
    Not,
    /// A peer may use the offer at any time.
    Done,
    /// The offer ended before, and its memory is free.
    Refused,
}

#[derive(Debug)]
struct State {
    /// `None` once the peer is known to be done with the memory.
    hold: Option<Hold>,
    deadline: Option<Deadline>,
    /// The end of the time in which initiators may begin.
    expires: Duration,
    /// The end of the owner's wait for memory that a peer may still write.
    drain_by: Option<Duration>,
    export: Export,
    /// Whether a copy of this process uses the memory.
    claimed: bool,
    /// Whether that copy is this process's own use of the offer, with the slot.
    copying: bool,
    /// The agent with a claim by message.
    agent: Option<String>,
    /// The agents to which the engine was connected for this offer.
    introduced: Vec<Box<str>>,
    /// Ended and successful uses, by the slot and by notifications.
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
    /// First field: initiators that check find the offer ended before its memory can change.
    word: Option<OfferWord>,
    registrations: Vec<Registration>,
    leased: Leased,
    /// Not in the entry: an ended entry must not hold memory that its owner has back.
    descriptors: Arc<DescriptorList>,
    /// The share of a gauge during quarantine.
    gauges: Option<HeldGauges>,
    _offers: GaugeShare,
    /// After the lease: a task that it wakes finds the blocks free.
    written: Option<WrittenBlocks>,
    /// Last field: freed when nothing refers to the memory any more.
    slot: Option<OfferSlot>,
}

impl PassiveEntry {
    pub(super) fn new(
        spec: OfferSpec,
        now: Duration,
        deadline: Option<Deadline>,
        (table, metrics): (Weak<PassiveTable>, Arc<OfferMetrics>),
    ) -> Self {
        let OfferSpec {
            metadata,
            descriptors,
            leased,
            registrations,
            slot,
            word,
            life_time,
            written,
        } = spec;
        let live = metrics.live();
        Self {
            bytes: descriptors.total_bytes(),
            metadata,
            cell: Arc::new(CompletionCell::new()),
            begun: now,
            table,
            metrics,
            dormant: AtomicBool::new(false),
            state: Mutex::new(State {
                hold: Some(Hold {
                    word,
                    registrations,
                    leased,
                    descriptors,
                    gauges: None,
                    _offers: live,
                    written,
                    slot,
                }),
                deadline,
                expires: now.saturating_add(life_time),
                drain_by: None,
                export: Export::Not,
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
        self.bytes
    }

    /// Whether the metadata may go to peers; from then on the offer's end counts with them.
    pub(crate) fn export(&self) -> bool {
        let mut state = lock(&self.state);
        if state.export == Export::Not {
            let has_ended = state.given_up || self.cell.status().is_terminal();
            state.export = if has_ended { Export::Refused } else { Export::Done };
        }
        state.export == Export::Done
    }

    /// Whether the offer has no terms: no life time and no claims.
    pub(super) fn is_without_terms(&self) -> bool {
        self.metadata.terms().is_none() || self.metadata.was_encoded_without_terms()
    }

    /// Records that a holder of the metadata declines the offer.
    pub(crate) fn declined(self: Arc<Self>, from: &str) {
        if self.kind() == OperationKind::Read || self.claim_by_message(from).is_ok() {
            self.note(|state| state.declined += 1);
        }
    }

    /// Whether the engine may connect to an agent for this offer: as many as the offer has readers, plus eight for retries
    /// under another name.
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

    /// The secret token of messages about the offer.
    pub(crate) fn token(&self) -> Option<u64> {
        self.metadata.terms().map(|terms| terms.token().get())
    }

    /// Records a completed use by a notification. During a copy of this process it is not the end.
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

    /// Records the slot's count of ended uses. Returns whether no copy of this process uses the offer.
    pub(super) fn used(self: Arc<Self>, event: SlotEvent) -> bool {
        self.note(|state| state.by_slot = (event.uses, event.successes))
    }

    /// Records uses, and ends the offer if all have ended. During a copy of this process the copy's end does that, and `false`
    /// is returned.
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

    /// Whether all uses have ended, and then whether one succeeded.
    fn uses_ended(&self, state: &State) -> Option<bool> {
        let readers = self.readers();
        let uses = state.by_slot.0.saturating_add(state.by_notification + state.declined);
        (uses >= readers).then_some(state.by_slot.1 > 0 || state.by_notification > 0)
    }

    /// Gives the memory back after the peer's end, and wakes the waiter.
    pub(crate) fn end(self: Arc<Self>, succeeded: bool) {
        let table = self.table.upgrade();
        if let Some(table) = &table {
            table.remove(self.key());
        }
        let hold = lock(&self.state).hold.take();
        let Some(hold) = hold else { return };
        drop(hold);
        let elapsed = self.elapsed(table.as_deref());
        // The waiter may take its memory back as soon as it wakes: the hold is dropped before.
        let (status, outcome) = match succeeded {
            true => {
                let completion = Completion::new(self.total_bytes(), elapsed, None);
                (OperationStatus::Complete, Ok(completion))
            }
            false => (OperationStatus::Errored, Err(OperationError::Declined)),
        };
        let failure = outcome.as_ref().err().map(OperationError::cause);
        // An offer that was given up was counted at that time.
        if self.cell.finish_quiet(status, outcome) {
            self.metrics.ended(self.kind(), self.total_bytes(), elapsed, failure);
        }
    }

    /// A claim may outlive the driver, and with it the table.
    fn elapsed(&self, table: Option<&PassiveTable>) -> Duration {
        table.map_or(Duration::ZERO, |table| table.now().saturating_sub(self.begun))
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

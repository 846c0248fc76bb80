//! Begin of operations.

use std::sync::Arc;

use nixl_metadata::{AgentMetadata, NotificationKey, OfferTerms, OperationKind, RdmaMetadata};

use super::Driver;
use super::shared::ENDED;
use crate::control::{ClaimRoute, MessageClaim};
use crate::deadline::Deadline;
use crate::passive::{OfferSpec, PassiveEntry};
use crate::posts::PostedBy;
use crate::task::{Count, InFlight, SlotState, Task, TaskSlot};
use crate::{Execution, OfferSlot, OperationError, OperationOptions, PeerId};

impl Driver {
    /// The same execution, once the offer's owner has granted the claim that its terms demand, or at once if none is
    /// `demanded` and the owner knows this side since before it made the offer: then it is asked before it takes the offer for
    /// one that is not written. `metadata` is how the owner reaches this side.
    pub fn claiming(
        &self,
        execution: Box<dyn Execution>,
        (remote, terms): (&RdmaMetadata, &OfferTerms),
        peer: &PeerId,
        metadata: &AgentMetadata,
        demanded: bool,
    ) -> Box<dyn Execution> {
        let Some(transport) = &self.shared().transport else { return execution };
        let offer = (remote.notification_key().clone(), terms.token().get());
        let route = ClaimRoute {
            transport: Arc::clone(transport),
            peer: peer.clone(),
            metadata: metadata.compressed().clone(),
        };
        let (claims, clock) = (Arc::clone(&self.shared().claims), Arc::clone(&self.shared().clock));
        let made = terms.made_unix_millis();
        let is_known = !demanded && claims.is_known(peer, made, clock.now());
        MessageClaim::before(execution, claims, clock, offer, route, is_known)
    }

    /// A slot for a new offer of this key. `None` if all are in use, or the system refuses their memory: initiators then
    /// complete the offer through the engine.
    pub fn arm_slot(&self, key: &NotificationKey, kind: OperationKind) -> Option<OfferSlot> {
        self.shared().passive.page.arm(key, kind)
    }

    /// Takes an execution, posts it now if its caller's thread does, and polls it to its end.
    pub(crate) fn begin(
        &self,
        execution: Box<dyn Execution>,
        bytes: u64,
        posted_by: PostedBy,
        options: OperationOptions,
    ) -> Result<Arc<TaskSlot>, OperationError> {
        self.check_process()?;
        let limit = self.shared().config.max_in_flight;
        let count = InFlight::count(&self.shared().active, limit);
        let count = count.ok_or(OperationError::QueueFull { limit })?;
        self.take_charge(execution, bytes, (posted_by, false), options, count)
    }

    /// Takes an execution that was polled before and may be in flight, beyond the limit on operations.
    pub(crate) fn resume(
        &self,
        execution: Box<dyn Execution>,
        bytes: u64,
        options: OperationOptions,
    ) -> Result<Arc<TaskSlot>, OperationError> {
        self.check_process()?;
        let count = InFlight::beyond_limit(&self.shared().active);
        self.take_charge(execution, bytes, (PostedBy::Caller, true), options, count)
    }

    fn take_charge(
        &self,
        execution: Box<dyn Execution>,
        bytes: u64,
        (posted_by, posted): (PostedBy, bool),
        options: OperationOptions,
        count: InFlight,
    ) -> Result<Arc<TaskSlot>, OperationError> {
        let shared = self.shared();
        if shared.has_ended() {
            return Err(ENDED.into());
        }
        let begun = shared.clock.now();
        let task = Task {
            execution,
            bytes,
            begun,
            posted,
            unmetered: options.is_unmetered(),
            steps: 0,
            count: Count::InFlight(count),
            deadline: Deadline::starting(begun, &options),
            drain_by: None,
            span: tracing::debug_span!(
                "operation",
                bytes,
                traceparent = options.trace().map(tracing::field::display)
            ),
        };
        let slot = match posted_by {
            PostedBy::Caller => match shared.post(task) {
                (slot, SlotState::Ended) => return Ok(slot),
                (slot, _) => slot,
            },
            PostedBy::Waiter | PostedBy::Driver => {
                Arc::new(TaskSlot::new(task, shared.waker.clone()))
            }
        };
        if posted_by == PostedBy::Waiter {
            shared.leave_to_waiter(&slot, begun);
        }
        if !shared.add(&slot) {
            shared.give_up(&slot, ENDED.into());
            return Err(ENDED.into());
        }
        match posted_by {
            PostedBy::Caller | PostedBy::Waiter => shared.wake(false),
            PostedBy::Driver => shared.kick(),
        }
        Ok(slot)
    }

    /// Registers a passive operation under its key.
    pub(crate) fn offer(
        &self,
        spec: OfferSpec,
        options: OperationOptions,
    ) -> Result<Arc<PassiveEntry>, OperationError> {
        self.check_process()?;
        let limit = self.shared().config.max_in_flight;
        if self.shared().passive.len() >= limit {
            return Err(OperationError::QueueFull { limit });
        }
        let entry = self.shared().passive.insert(spec, &options);
        if self.shared().has_ended() {
            entry.abandon(ENDED.into());
            return Err(ENDED.into());
        }
        self.shared().kick();
        Ok(entry)
    }
}

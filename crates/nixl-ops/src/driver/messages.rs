//! Messages to a driver: notifications, completions in slots, mailbox messages and claims.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::reactor::Reactor;
use crate::control::{ControlMessage, ControlOutcome, ControlVerb};
use crate::passive::SlotsFound;
use crate::task::TaskSlot;
use crate::{PeerId, PeerService, Received};

impl Shared {
    /// The services for messages of peers.
    pub(super) fn peer_service(&self) -> Option<&dyn PeerService> {
        self.executor.get().and_then(|executor| executor.peers())
    }

    /// Whether a notification or message of a peer is awaited.
    pub(super) fn awaits_message(&self) -> bool {
        self.passive.awaited() > 0
            || self.passive.grants.are_awaited()
            || self.claims.are_open()
            || self.hints.are_awaited()
            || self.peer_service().is_some_and(|service| service.has_sessions())
    }

    /// A message about a claim. Returns whether it concerns an operation here.
    pub(super) fn receive_control(&self, from: &str, payload: &[u8]) -> bool {
        let Some(message) = ControlMessage::decode(payload) else {
            tracing::debug!(from, bytes = payload.len(), "unreadable message about a claim");
            return false;
        };
        if message.verb == ControlVerb::Leaving {
            self.departures.note(from, self.clock.now());
            return true;
        }
        if message.verb == ControlVerb::OfGrant {
            let is_taken = self.passive.grants.receive(message.key);
            if is_taken {
                self.passive.reader_is_done();
            }
            return is_taken;
        }
        if let ControlVerb::Notification { .. } = message.verb {
            return self.passive.grants.notified(from, &message);
        }
        match message.verb {
            ControlVerb::Watch { .. } => return self.receive_watch(from, &message),
            ControlVerb::LayersReady { layers } => {
                return self.hints.receive(message.key, message.token, layers);
            }
            _ => {}
        }
        let is_owner =
            self.owner.get().is_some_and(|owner| owner.receive(&self.passive, from, &message));
        match self.claims.receive(from, &message, &*self.clock) {
            ControlOutcome::Nothing => is_owner,
            ControlOutcome::Taken => true,
            ControlOutcome::Answer(answer) => {
                if let Some(transport) = &self.transport {
                    // The owner repeats a lost query.
                    let _ = transport.notify(&PeerId::new(from), &answer);
                }
                true
            }
        }
    }

    /// A reader requests notice of the layers of a grant.
    fn receive_watch(&self, from: &str, message: &ControlMessage<'_>) -> bool {
        let Some(owner) = self.owner.get() else { return false };
        let mailboxes = self.mailboxes.get();
        self.passive.grants.watch(message, |reader, generation, metadata| {
            owner.layer_watcher((from, metadata), (reader, generation), mailboxes)
        })
    }

    /// Receives a message; the requested work joins the active tasks. Returns whether it was taken.
    fn receive_into(
        &self,
        active: &mut VecDeque<Arc<TaskSlot>>,
        from: &str,
        payload: &[u8],
    ) -> bool {
        match self.receive(from, payload) {
            Received::Serve(execution) => active.push_back(self.serve(execution)),
            Received::Taken => {}
            Received::Ignored => return false,
        }
        true
    }

    /// The interval of receipt for ended offers.
    fn poll_interval(&self) -> Option<Duration> {
        let executor = self.peer_service().and_then(|service| service.poll_interval());
        executor.into_iter().chain(self.passive.poll_interval()).min()
    }
}

/// What was taken from a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageTaken {
    /// A word or a message.
    found: bool,
    /// It was for a running operation, or a message.
    delivered: bool,
    /// Of messages.
    bytes: u64,
}

impl Reactor {
    /// Receives messages of peers, if awaited or due, after those that were `taken` from the page in this turn. Returns whether any was
    /// for a running operation.
    pub(super) fn take_messages(&mut self, taken: Option<PageTaken>) -> bool {
        let shared = Arc::clone(&self.shared);
        let Some(transport) = &shared.transport else { return false };
        let now = shared.clock.now();
        let is_due = self.messages_due().is_some_and(|due| now >= due);
        if taken.is_none() && !is_due && !shared.awaits_message() && self.closed.is_none() {
            return false;
        }
        self.taken = now;
        let taken = taken.unwrap_or_else(|| self.take_page());
        let PageTaken { found, mut delivered, mut bytes } = taken;
        // What was found on the page has woken a thread, which may wait for this processor: the engine's calls are for the next turn,
        // unless an offer's deadline has come, which its message must precede.
        let has_expired = shared.passive.next_expiry().is_some_and(|at| now >= at);
        self.is_engine_deferred =
            found && !self.is_engine_deferred && !has_expired && self.closed.is_none();
        let active = &mut self.active;
        let result = match self.is_engine_deferred {
            true => Ok(()),
            false => transport.take_notifications(&mut |from: &str, payload: &[u8]| {
                bytes += payload.len() as u64;
                delivered |= shared.receive_into(active, from, payload);
            }),
        };
        self.idle_looks.took(bytes);
        let unreadable = shared.passive.page.unreadable_messages();
        shared.unexpected.note_unreadable(transport.unreadable_notifications() + unreadable);
        if let Err(error) = &result
            && !self.notifications_failed
        {
            tracing::warn!(%error, "notifications cannot be read; passive operations will time out");
        }
        self.notifications_failed = result.is_err();
        delivered
    }

    /// Receives the words and messages of the page, on which peers of this host ring.
    pub(super) fn take_page(&mut self) -> PageTaken {
        let shared = &self.shared;
        let service = shared.peer_service();
        let found = shared.passive.poll_slots(&mut |key| {
            if let Some(service) = service {
                service.completed_by_slot(key);
            }
        });
        let delivered = found == SlotsFound::End;
        let (active, mut bytes) = (&mut self.active, 0);
        let messages = shared.take_messages(&mut |from: &str, payload: &[u8]| {
            bytes += payload.len() as u64;
            shared.receive_into(active, from, payload);
        });
        let found = messages || found != SlotsFound::Nothing;
        self.listener.looked(found);
        PageTaken { found, delivered: delivered || messages, bytes }
    }

    /// The interval of receipt of unexpected messages.
    fn poll_interval(&self) -> Option<Duration> {
        self.shared.poll_interval().into_iter().chain([self.idle_looks.every()]).min()
    }

    /// The time of the next receipt of unexpected messages.
    pub(super) fn messages_due(&self) -> Option<Duration> {
        self.shared.transport.as_ref()?;
        if self.is_engine_deferred {
            return Some(self.taken);
        }
        Some(self.taken.saturating_add(self.poll_interval()?))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::{Context, Poll};

    use nixl_metadata::SlotAddress;

    use super::*;
    use crate::mailbox::Lane;
    use crate::parking::DoorbellListener;
    use crate::posts::PostedBy;
    use crate::slots::OfferPage;
    use crate::{
        Driver, DriverConfig, Execution, ManualClock, OperationOptions, PathKind, PathReport,
        TransportError,
    };

    fn mail(page: &OfferPage) -> u64 {
        let mail = page.memory().and_then(|memory| memory.word(SlotAddress::MAILBOX));
        mail.map_or(0, |mail| mail.load(Ordering::Relaxed))
    }

    /// Notes the lanes with mail at its poll.
    struct Looks(Arc<OfferPage>, Arc<AtomicU64>);

    impl Execution for Looks {
        fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
            self.1.store(mail(&self.0), Ordering::Relaxed);
            Poll::Pending
        }

        fn abandon(&mut self) -> bool {
            true
        }

        fn report(&self) -> PathReport {
            PathReport::new(PathKind::Direct, "looks", 0, 0)
        }
    }

    #[test]
    fn after_a_ring_messages_come_before_transfers() {
        let config = DriverConfig::default().inline_spin(Duration::ZERO);
        let (driver, mut reactor) = Driver::assemble(None, Arc::new(ManualClock::new()), config);
        let page = Arc::clone(&driver.shared().passive.page);
        let (lane, seen) = (Lane::default(), Arc::new(AtomicU64::new(u64::MAX)));
        assert!(lane.claim(page.or_make().unwrap(), None));
        let looks = Box::new(Looks(Arc::clone(&page), Arc::clone(&seen)));
        driver.begin(looks, 0, PostedBy::Driver, OperationOptions::new()).unwrap();
        assert!(lane.post(page.memory().unwrap(), "agent", b"payload").is_some());
        assert_ne!(mail(&page), 0);
        reactor.listener = DoorbellListener::rung();
        reactor.turn();
        assert_eq!(seen.load(Ordering::Relaxed), 0);
    }
}

//! The place of a session in the table.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nixl_descriptor::Descriptor;
use nixl_device::locks::lock;

use super::{Entry, Inbox, SessionTable};
use crate::messages::SessionId;
use crate::sessions::quarantine::Quarantine;

/// A session's place in the table, which it leaves when this is dropped.
pub(crate) struct Membership {
    sessions: Arc<SessionTable>,
    kept: bool,
    /// It is no longer counted, and does not leave.
    is_over: bool,
    id: SessionId,
    entry: Arc<Entry>,
}

impl Membership {
    /// Of an entry that is in the table, and counted.
    pub(super) fn new(sessions: &Arc<SessionTable>, id: SessionId, entry: Arc<Entry>) -> Self {
        Self { sessions: Arc::clone(sessions), kept: false, is_over: false, id, entry }
    }

    pub(crate) fn peer(&self) -> &str {
        &self.entry.peer
    }

    /// What has arrived since the last call.
    pub(crate) fn take(&self) -> Inbox {
        self.sessions.take(&self.entry)
    }

    /// The session ends, and the peer may still use these. The place is kept until it cannot.
    pub(crate) fn quarantine(&mut self, mut quarantine: Quarantine) {
        if quarantine.is_empty() {
            return;
        }
        if quarantine.is_of_a_stalled_peer() {
            tracing::warn!(
                peer = &*self.entry.peer,
                slots = quarantine.len(),
                "a peer stalled; its slots come back when it goes on or is gone"
            );
        }
        quarantine.begin();
        self.sessions.stalled.fetch_add(1, Ordering::AcqRel);
        *lock(&self.entry.quarantine) = quarantine;
        self.is_over = true;
        self.sessions.live.fetch_sub(1, Ordering::AcqRel);
        self.sessions.hear_waiting(self.id, &self.entry);
    }

    /// The peer cannot be reached.
    pub(crate) fn note_unreachable(&self) {
        self.entry.unreachable.store(true, Ordering::Release);
    }

    /// The session goes on only when its peer is proven quiet, which may be writing this in place, if not to slots.
    pub(crate) fn await_proof(&self, memory: &[Descriptor]) {
        if !self.entry.is_unproven.swap(true, Ordering::AcqRel) {
            lock(&self.entry.quiet).add(memory);
            self.sessions.unproven.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The session, whose source is on this side, has ended without success, and nothing of it is in flight.
    pub(crate) fn note_stopped(&self, now: Duration) {
        lock(&self.sessions.stopped).note(self.id, self.peer(), now);
    }

    /// Keeps the place for ever. What arrives is dropped.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
        self.entry.closed.store(true, Ordering::Relaxed);
        drop(self.take());
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if self.entry.is_unproven.swap(false, Ordering::AcqRel) {
            self.sessions.unproven.fetch_sub(1, Ordering::AcqRel);
        }
        if self.kept || self.is_over {
            return;
        }
        let left = self.sessions.lock().remove(&self.id);
        self.sessions.live.fetch_sub(1, Ordering::AcqRel);
        self.sessions.left(&self.entry);
        // No message reaches it any more.
        drop((left, self.take()));
    }
}

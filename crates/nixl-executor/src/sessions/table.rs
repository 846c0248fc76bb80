//! The table of sessions: the [inbox] of each, its [place](membership), and the [bounds](served) on those of peers.

mod inbox;
mod membership;
mod served;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nixl_device::locks::lock;
use nixl_metadata::NotificationKey;
use nixl_ops::QuietProof;

pub(crate) use self::inbox::Inbox;
pub(crate) use self::membership::Membership;
use self::served::Served;
use super::peer_quiet::PeerQuiet;
use super::quarantine::Quarantine;
use super::stopped::StoppedSources;
use crate::messages::{Message, SessionId};

/// All sessions of a connection, of both sides.
#[derive(Default)]
pub(super) struct SessionTable {
    by_id: Mutex<HashMap<SessionId, Arc<Entry>>>,
    served: Mutex<Served>,
    /// Messages that wait, of all sessions.
    waiting: AtomicUsize,
    /// How many there are, readable without the lock, without those that have ended.
    live: AtomicUsize,
    /// How many have ended whose peers may still use slots.
    stalled: AtomicUsize,
    /// How many have not ended, and wait for the proof that their peers are quiet.
    unproven: AtomicUsize,
    stopped: Mutex<StoppedSources>,
}

/// What has arrived for one session.
struct Entry {
    /// The only agent that may send any.
    peer: Box<str>,
    /// The key of the offer, if this side is the target, and bytes of the initiator's metadata.
    key: Option<(NotificationKey, usize)>,
    inbox: Mutex<Inbox>,
    /// The session's reader is gone.
    closed: AtomicBool,
    /// Slots that the peer may still use although the session has ended.
    quarantine: Mutex<Quarantine>,
    /// Looks for the peer so far, and those until it is asked again.
    looks: Mutex<(u32, u32)>,
    /// The peer cannot be reached, so that no message of it comes.
    unreachable: AtomicBool,
    /// The session waits for the proof that its peer is quiet.
    is_unproven: AtomicBool,
    quiet: Mutex<PeerQuiet>,
}

impl SessionTable {
    /// Bound on sessions of a connection.
    const MAX: usize = 1 << 14;
    /// Messages that may wait for one session: more than any protocol step brings, even with every place granted.
    const MAX_MESSAGES: usize = 1 << 12;
    /// Messages that may wait for all sessions together. Each may have a few beyond that.
    const MAX_WAITING: usize = 1 << 16;
    const FEW: usize = 16;

    /// A new session. `None` if there is one of this name, or there are too many.
    pub(super) fn open(
        self: &Arc<Self>,
        id: SessionId,
        peer: &str,
        key: Option<(NotificationKey, usize)>,
        quiet: PeerQuiet,
    ) -> Option<Membership> {
        let mut sessions = self.lock();
        if sessions.len() >= Self::MAX || sessions.contains_key(&id) {
            return None;
        }
        if let Some((key, bytes)) = &key
            && !lock(&self.served).add(key, *bytes)
        {
            return None;
        }
        let entry = Arc::new(Entry {
            peer: peer.into(),
            key,
            inbox: Mutex::default(),
            closed: AtomicBool::new(false),
            quarantine: Mutex::default(),
            looks: Mutex::default(),
            unreachable: AtomicBool::new(false),
            is_unproven: AtomicBool::new(false),
            quiet: Mutex::new(quiet),
        });
        sessions.insert(id, Arc::clone(&entry));
        self.live.fetch_add(1, Ordering::AcqRel);
        Some(Membership::new(self, id, entry))
    }

    pub(super) fn len(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    /// Whether a session is with this peer.
    pub(super) fn has_peer(&self, peer: &str) -> bool {
        self.len() > 0 && self.lock().values().any(|entry| *entry.peer == *peer)
    }

    /// Whether this session is with this peer.
    pub(super) fn has(&self, id: SessionId, peer: &str) -> bool {
        self.lock().get(&id).is_some_and(|entry| *entry.peer == *peer)
    }

    /// Messages that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Hands a message over. Returns whether it was for a session with this peer.
    pub(super) fn deliver(
        &self,
        id: SessionId,
        from: &str,
        message: Message,
        now: Duration,
    ) -> bool {
        let entry = self.lock().get(&id).cloned();
        let Some(entry) = entry.filter(|entry| *entry.peer == *from) else { return false };
        if self.heard_late(id, &entry, |quarantine| quarantine.hear(&message)) {
            return true;
        }
        let mut inbox = lock(&entry.inbox);
        inbox.last_heard = Some(now);
        if message == Message::Ping || entry.closed.load(Ordering::Relaxed) {
            return true;
        }
        let waiting = inbox.messages.len();
        if waiting >= Self::MAX_MESSAGES
            || (waiting >= Self::FEW && self.waiting() >= Self::MAX_WAITING)
        {
            inbox.flooded = true;
        } else {
            inbox.messages.push_back(message);
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// A peer reports an operation complete that a session serves. Returns whether there was one, with this peer.
    pub(super) fn supersede(&self, from: &str, key: &[u8]) -> bool {
        self.edit(|m| *m.peer == *from && is(m, key), |inbox| inbox.superseded = true)
    }

    /// An operation that a session serves was completed through its offer slot.
    pub(super) fn complete(&self, key: &NotificationKey) -> bool {
        self.edit(|m| is(m, key.as_bytes()), |inbox| inbox.superseded = true)
    }

    /// A message to a session that has ended, or an observation of its peer. Returns whether the session has ended.
    fn heard_late(
        &self,
        id: SessionId,
        entry: &Entry,
        heard: impl FnOnce(&mut Quarantine),
    ) -> bool {
        let mut quarantine = lock(&entry.quarantine);
        if quarantine.is_empty() {
            return false;
        }
        heard(&mut quarantine);
        let is_over = quarantine.is_empty();
        drop(quarantine);
        if is_over {
            let removed = self.lock().remove(&id);
            removed.into_iter().for_each(|entry| self.left(&entry));
            self.stalled.fetch_sub(1, Ordering::AcqRel);
        }
        true
    }

    /// Hears what arrived for a session while it ended.
    fn hear_waiting(&self, id: SessionId, entry: &Entry) {
        if lock(&entry.quarantine).is_empty() {
            return;
        }
        for message in self.take(entry).messages {
            self.heard_late(id, entry, |quarantine| quarantine.hear(&message));
        }
    }

    /// What has arrived since the last call.
    fn take(&self, entry: &Entry) -> Inbox {
        let inbox = std::mem::take(&mut *lock(&entry.inbox));
        if !inbox.messages.is_empty() {
            self.waiting.fetch_sub(inbox.messages.len(), Ordering::Relaxed);
        }
        inbox
    }

    /// Whether peers of sessions that have ended may still use slots.
    pub(super) fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire) > 0
    }

    /// Whether a proof that a peer is quiet is needed.
    pub(super) fn wants_proof(&self) -> bool {
        self.has_stalled() || self.unproven.load(Ordering::Acquire) > 0
    }

    /// *Blocking.* Takes back the slots of unreachable peers that are proven quiet. Returns whether there was such a peer.
    pub(super) fn prove(&self, proofs: &dyn QuietProof, now: Duration) -> bool {
        let is_wanted = |entry: &Entry| {
            entry.unreachable.load(Ordering::Acquire)
                && (entry.is_unproven.load(Ordering::Acquire)
                    || !lock(&entry.quarantine).is_empty())
        };
        let wanted: Vec<_> = {
            let sessions = self.lock();
            let wanted = sessions.iter().filter(|(_, entry)| is_wanted(entry));
            wanted.map(|(id, entry)| (*id, Arc::clone(entry))).collect()
        };
        let mut found = false;
        for (id, entry) in wanted {
            if lock(&entry.quiet).is_proven(proofs, now) {
                found = true;
                self.heard_late(id, &entry, Quarantine::peer_is_quiet);
                lock(&entry.inbox).peer_quiet = true;
            }
        }
        found
    }

    /// Whether the source of this session with this peer was on this side, and has stopped.
    pub(super) fn has_stopped(&self, id: SessionId, peer: &str) -> bool {
        lock(&self.stopped).has(id, peer)
    }

    /// When the last source of this side stopped.
    pub(super) fn last_stop(&self) -> Option<Duration> {
        lock(&self.stopped).last_end()
    }

    /// The ended sessions whose peers may still use slots, each with the message that is due to the peer now; the intervals
    /// grow. Slots that were exported to processes that have ended come back here.
    pub(super) fn stalled(&self) -> Vec<(SessionId, Box<str>, Message)> {
        const RAREST: u32 = 64;
        if !self.has_stalled() {
            return Vec::new();
        }
        let all: Vec<_> = self.lock().iter().map(|(id, e)| (*id, Arc::clone(e))).collect();
        for (id, entry) in all {
            self.hear_waiting(id, &entry);
            self.heard_late(id, &entry, Quarantine::release_if_gone);
        }
        let sessions = self.lock();
        let due = sessions.iter().filter_map(|(id, entry)| {
            let (looks, next) = &mut *lock(&entry.looks);
            *looks += 1;
            let quarantine = lock(&entry.quarantine);
            if quarantine.is_empty() || *looks <= *next {
                return None;
            }
            *next = *looks + (*looks).min(RAREST);
            Some((*id, entry.peer.clone(), quarantine.question()))
        });
        due.collect()
    }

    /// The peer cannot be reached any more. What it has sent may still be on its way, so nothing that it may write comes back by this.
    /// Returns whether there is a session with it.
    pub(super) fn peer_gone(&self, peer: &str) -> bool {
        let of_it: Vec<_> =
            self.lock().values().filter(|entry| *entry.peer == *peer).cloned().collect();
        for entry in &of_it {
            entry.unreachable.store(true, Ordering::Release);
            lock(&entry.inbox).peer_gone = true;
        }
        !of_it.is_empty()
    }

    /// The offer of this key has ended. Returns whether a session serves it.
    pub(super) fn withdraw(&self, key: &NotificationKey) -> bool {
        self.edit(|m| is(m, key.as_bytes()), |inbox| inbox.withdrawn = true)
    }

    /// A session is no longer there.
    fn left(&self, entry: &Entry) {
        if let Some((key, bytes)) = &entry.key {
            lock(&self.served).remove(key, *bytes);
        }
    }

    fn edit(&self, which: impl Fn(&Entry) -> bool, edit: impl Fn(&mut Inbox)) -> bool {
        if self.len() == 0 {
            return false;
        }
        let found: Vec<_> = self.lock().values().filter(|m| which(m)).cloned().collect();
        found.iter().for_each(|entry| edit(&mut lock(&entry.inbox)));
        !found.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Entry>>> {
        lock(&self.by_id)
    }
}

fn is(entry: &Entry, key: &[u8]) -> bool {
    entry.key.as_ref().is_some_and(|(own, _)| own.as_bytes() == key)
}

impl fmt::Debug for SessionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTable").field("live", &self.len()).finish_non_exhaustive()
    }
}

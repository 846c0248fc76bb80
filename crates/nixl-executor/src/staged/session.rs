//! The sessions of a connection, and the messages that wait for each.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nixl_metadata::NotificationKey;

use super::message::{Message, SessionId};

/// All sessions of a connection, of both sides.
#[derive(Default)]
pub(super) struct Sessions {
    by_id: Mutex<HashMap<SessionId, Arc<Mailbox>>>,
    /// How many there are, readable without the lock.
    live: AtomicUsize,
}

/// What has arrived for one session.
struct Mailbox {
    /// The only agent that may send any.
    peer: Box<str>,
    /// The key of the offer, if this side is the target.
    key: Option<NotificationKey>,
    mail: Mutex<Mail>,
    /// Nobody reads the mail any more.
    deaf: AtomicBool,
}

/// Messages, and what else there is to know.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) messages: VecDeque<Message>,
    /// When the peer was last heard.
    pub(super) heard: Option<Duration>,
    /// The peer sent more than it can have meant.
    pub(super) flooded: bool,
    /// The peer's process has ended, or its connection is dead.
    pub(super) peer_gone: bool,
    /// The offer has ended.
    pub(super) withdrawn: bool,
    /// The peer says that the operation is complete, by other means.
    pub(super) superseded: bool,
}

impl Sessions {
    /// Bound on sessions of a connection.
    const MAX: usize = 1 << 14;
    /// Messages that may wait for one session: more than any protocol step brings, even with every place granted.
    const MAX_MESSAGES: usize = 1 << 12;

    /// A new session. `None` if there is one of this name, or there are too many.
    pub(super) fn open(
        self: &Arc<Self>,
        id: SessionId,
        peer: &str,
        key: Option<NotificationKey>,
    ) -> Option<Membership> {
        let mut sessions = self.lock();
        if sessions.len() >= Self::MAX || sessions.contains_key(&id) {
            return None;
        }
        let mailbox = Arc::new(Mailbox {
            peer: peer.into(),
            key,
            mail: Mutex::default(),
            deaf: AtomicBool::new(false),
        });
        sessions.insert(id, Arc::clone(&mailbox));
        self.live.store(sessions.len(), Ordering::Release);
        Some(Membership { sessions: Arc::clone(self), kept: false, id, mailbox })
    }

    pub(super) fn len(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    /// How many there are with this peer.
    pub(super) fn with(&self, peer: &str) -> usize {
        self.lock().values().filter(|mailbox| *mailbox.peer == *peer).count()
    }

    /// Hands a message over. Returns whether it was for a session with this peer.
    pub(super) fn deliver(
        &self,
        id: SessionId,
        from: &str,
        message: Message,
        now: Duration,
    ) -> bool {
        let mailbox = self.lock().get(&id).cloned();
        let Some(mailbox) = mailbox.filter(|mailbox| *mailbox.peer == *from) else { return false };
        let mut mail = lock(&mailbox.mail);
        mail.heard = Some(now);
        if message == Message::Ping || mailbox.deaf.load(Ordering::Relaxed) {
            return true;
        }
        if mail.messages.len() >= Self::MAX_MESSAGES {
            mail.flooded = true;
        } else {
            mail.messages.push_back(message);
        }
        true
    }

    /// A peer reports an operation complete that a session serves. Returns whether there was one, with this peer.
    pub(super) fn supersede(&self, from: &str, key: &[u8]) -> bool {
        self.edit(|m| *m.peer == *from && is(m, key), |mail| mail.superseded = true)
    }

    /// An operation that a session serves is complete by other means, as somebody knows who has its metadata.
    pub(super) fn complete(&self, key: &NotificationKey) -> bool {
        self.edit(|m| is(m, key.as_bytes()), |mail| mail.superseded = true)
    }

    /// The peer is gone. Returns whether there is a session with it.
    pub(super) fn peer_gone(&self, peer: &str) -> bool {
        self.edit(|m| *m.peer == *peer, |mail| mail.peer_gone = true)
    }

    /// The offer of this key has ended. Returns whether a session serves it.
    pub(super) fn withdraw(&self, key: &NotificationKey) -> bool {
        self.edit(|m| is(m, key.as_bytes()), |mail| mail.withdrawn = true)
    }

    fn edit(&self, which: impl Fn(&Mailbox) -> bool, edit: impl Fn(&mut Mail)) -> bool {
        if self.len() == 0 {
            return false;
        }
        let found: Vec<_> = self.lock().values().filter(|m| which(m)).cloned().collect();
        found.iter().for_each(|mailbox| edit(&mut lock(&mailbox.mail)));
        !found.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Mailbox>>> {
        lock(&self.by_id)
    }
}

fn is(mailbox: &Mailbox, key: &[u8]) -> bool {
    mailbox.key.as_ref().is_some_and(|own| own.as_bytes() == key)
}

/// A session's place in the table, which it leaves when this is dropped.
pub(super) struct Membership {
    sessions: Arc<Sessions>,
    kept: bool,
    id: SessionId,
    mailbox: Arc<Mailbox>,
}

impl Membership {
    pub(super) fn peer(&self) -> &str {
        &self.mailbox.peer
    }

    /// What has arrived since the last call.
    pub(super) fn take(&self) -> Mail {
        std::mem::take(&mut *lock(&self.mailbox.mail))
    }

    /// Keeps the place for ever. What arrives is dropped.
    pub(super) fn keep(&mut self) {
        self.kept = true;
        self.mailbox.deaf.store(true, Ordering::Relaxed);
        drop(self.take());
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut sessions = self.sessions.lock();
        sessions.remove(&self.id);
        self.sessions.live.store(sessions.len(), Ordering::Release);
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("live", &self.len()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

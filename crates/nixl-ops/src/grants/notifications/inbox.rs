//! The inbox of an export: its unreceived notifications.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use metrics::counter;

use super::receiver::NotificationReceiver;
use super::sender::{ExportNotification, NotificationSender};
use crate::sync::{Mutex, lock};
use crate::wakes;

/// The unreceived notifications of one export.
///
/// Notifications over a bound, or without a receiver, are dropped. Gaps in the numbers then count as lost.
#[derive(Debug)]
pub(crate) struct NotificationInbox {
    bounds: Bounds,
    state: Mutex<State>,
}

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) senders: usize,
    /// Of one sender.
    pub(super) each: Amount,
    /// Of all.
    pub(super) all: Amount,
}

/// What an inbox holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) senders: usize,
    pub(super) all: Amount,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            senders: 1024,
            each: Amount { messages: 256, bytes: 256 << 10 },
            all: Amount { messages: 8192, bytes: 8 << 20 },
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Amount {
    pub(super) messages: usize,
    /// Bytes of payloads.
    pub(super) bytes: usize,
}

impl Amount {
    fn has_room(&self, most: Self, bytes: usize) -> bool {
        self.messages < most.messages && self.bytes.saturating_add(bytes) <= most.bytes
    }

    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.messages -= 1;
        self.bytes -= bytes;
    }
}

#[derive(Debug, Default)]
struct State {
    senders: HashMap<NotificationSender, Sender>,
    /// Senders with kept notifications, each once: they take turns.
    turns: VecDeque<NotificationSender>,
    /// The other senders, by the time of their last receipt.
    silent: BTreeMap<u64, NotificationSender>,
    /// Counter of receipts.
    time: u64,
    kept: Amount,
    has_receiver: bool,
    /// Waker of the waiting task.
    waker: Option<Waker>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Sender {
    /// The number of the last one that was received; 0 if none was.
    received: u64,
    /// Notifications with higher numbers.
    queue: BTreeMap<u64, Bytes>,
    kept: Amount,
    /// Its position among the silent ones.
    since: u64,
}

impl NotificationInbox {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_bounds(Bounds::default())
    }

    pub(super) fn with_bounds(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, state: Mutex::new(State::default()) })
    }

    /// The receiver, if there is none yet.
    pub(crate) fn subscribe(self: &Arc<Self>) -> Option<NotificationReceiver> {
        let mut state = lock(&self.state);
        if state.has_receiver {
            return None;
        }
        state.has_receiver = true;
        drop(state);
        Some(NotificationReceiver::new(Arc::clone(self)))
    }

    /// A notification that has arrived: it is kept or dropped.
    pub(crate) fn deliver(&self, sender: NotificationSender, sequence: u64, payload: &[u8]) {
        let mut state = lock(&self.state);
        if state.keep(&self.bounds, sender, sequence, payload) {
            let waker = state.waker.take();
            drop(state);
            waker.into_iter().for_each(wakes::wake);
        } else {
            drop(state);
            counter!("nixl_dropped_export_notifications_total").increment(1);
        }
    }

    /// What it holds now.
    pub(super) fn held(&self) -> Held {
        let state = lock(&self.state);
        Held { senders: state.senders.len(), all: state.kept }
    }

    /// Closes the inbox. Kept notifications can still be received.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(wakes::wake);
    }

    /// Whether a task waits for a notification.
    pub(crate) fn is_awaited(&self) -> bool {
        lock(&self.state).waker.is_some()
    }

    /// The next one; `None` once the export is closed and all are received.
    pub(super) fn poll(&self, waker: &Waker) -> Poll<Option<ExportNotification>> {
        let mut state = lock(&self.state);
        if let Some(next) = state.next() {
            return Poll::Ready(Some(next));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        let before = state.waker.replace(waker.clone());
        // Dropping a waker may drop a task, and with it a receiver.
        drop(state);
        drop(before);
        Poll::Pending
    }

    /// Ends the task's wait.
    pub(super) fn forget_waker(&self) {
        let waker = lock(&self.state).waker.take();
        drop(waker);
    }

    /// Drops the receiver. Unreceived notifications are lost.
    pub(super) fn unsubscribe(&self) {
        let mut state = lock(&self.state);
        state.has_receiver = false;
        while let Some(sender) = state.turns.pop_front() {
            let Some(of) = state.senders.get_mut(&sender) else { continue };
            of.queue.clear();
            of.kept = Amount::default();
            state.falls_silent(sender);
        }
        state.kept = Amount::default();
        let waker = state.waker.take();
        drop(state);
        drop(waker);
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn kept(&self) -> (usize, Amount) {
        let state = lock(&self.state);
        let of_each = state.senders.values();
        let (messages, bytes) = of_each.fold((0, 0), |(messages, bytes), sender| {
            let payloads = sender.queue.values().map(Bytes::len).sum::<usize>();
            assert_eq!((sender.queue.len(), payloads), (sender.kept.messages, sender.kept.bytes));
            (messages + sender.queue.len(), bytes + payloads)
        });
        assert_eq!((state.kept.messages, state.kept.bytes), (messages, bytes));
        assert_eq!(state.turns.len() + state.silent.len(), state.senders.len());
        (state.senders.len(), state.kept)
    }
}

impl State {
    /// Whether it is kept.
    fn keep(
        &mut self,
        bounds: &Bounds,
        sender: NotificationSender,
        sequence: u64,
        payload: &[u8],
    ) -> bool {
        let bytes = payload.len();
        let is_whole = sequence > 0 && bytes <= ExportNotification::MAX_BYTES;
        if !is_whole || self.closed || !self.has_receiver {
            return false;
        }
        if !self.kept.has_room(bounds.all, bytes) {
            return false;
        }
        if !self.senders.contains_key(&sender) {
            if self.senders.len() >= bounds.senders && !self.forget_one() {
                return false;
            }
            self.senders.insert(sender.clone(), Sender::default());
            self.falls_silent(sender.clone());
        }
        let Some(of) = self.senders.get_mut(&sender) else { return false };
        let is_new = sequence > of.received && !of.queue.contains_key(&sequence);
        if !is_new || !of.kept.has_room(bounds.each, bytes) {
            return false;
        }
        if of.queue.is_empty() {
            self.silent.remove(&of.since);
            self.turns.push_back(sender);
        }
        of.queue.insert(sequence, Bytes::copy_from_slice(payload));
        of.kept.add(bytes);
        self.kept.add(bytes);
        true
    }

    fn next(&mut self) -> Option<ExportNotification> {
        let sender = self.turns.pop_front()?;
        let of = self.senders.get_mut(&sender)?;
        let (sequence, payload) = of.queue.pop_first()?;
        let lost = sequence - of.received - 1;
        of.received = sequence;
        of.kept.remove(payload.len());
        self.kept.remove(payload.len());
        match of.queue.is_empty() {
            true => self.falls_silent(sender.clone()),
            false => self.turns.push_back(sender.clone()),
        }
        Some(ExportNotification::new(sender, payload, lost))
    }

    /// Marks the sender as silent.
    fn falls_silent(&mut self, sender: NotificationSender) {
        self.time += 1;
        if let Some(of) = self.senders.get_mut(&sender) {
            of.since = self.time;
            self.silent.insert(self.time, sender);
        }
    }

    /// Evicts a silent sender, if any.
    fn forget_one(&mut self) -> bool {
        let longest = self.silent.pop_first();
        longest.is_some_and(|(_, sender)| self.senders.remove(&sender).is_some())
    }
}

//! Watches of one worker's entry.

use std::sync::Arc;

use nixl_device::Advice;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::seals::open_entry;
use super::{ChannelError, ChannelOptions, Entry, WorkerName};

/// A change of a worker's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// The worker published, at first or anew: import what it exports.
    Put(Entry),
    /// The worker withdrew its entry, or it was not renewed.
    Gone,
    /// Changes were missed, because the watcher is slow or the channel was down. This is the entry now.
    Resync(Option<Entry>),
}

/// The entry after so many changes.
#[derive(Clone, Debug)]
struct State {
    changes: u64,
    entry: Option<Result<Option<Entry>, ChannelError>>,
}

/// Where a backend reports the entry that it follows. It holds the latest alone.
#[derive(Debug)]
pub(crate) struct States {
    name: WorkerName,
    options: Arc<ChannelOptions>,
    sender: watch::Sender<State>,
}

impl States {
    pub(crate) fn new(name: WorkerName, options: Arc<ChannelOptions>) -> Self {
        let sender = watch::Sender::new(State { changes: 0, entry: None });
        Self { name, options, sender }
    }

    /// Reports the entry of now.
    pub(crate) fn report(&self, entry: Option<Entry>) {
        self.put(entry.map(|entry| open_entry(&self.options, &self.name, entry)).transpose());
    }

    fn put(&self, entry: Result<Option<Entry>, ChannelError>) {
        self.sender.send_if_modified(|state| {
            let is_same = match (&state.entry, &entry) {
                (Some(Ok(before)), Ok(entry)) => before == entry,
                // A channel that lies repeats the same again and again.
                (Some(Err(before)), Err(error)) => before.to_string() == error.to_string(),
                _ => false,
            };
            if is_same {
                return false;
            }
            *state = State { changes: state.changes + 1, entry: Some(entry) };
            true
        });
    }

    /// Notes that the connection ended: changes may be missed. An error that time does not mend is for the watcher.
    pub(crate) fn failed(&self, error: ChannelError) {
        if error.advice() == Advice::GiveUp {
            return self.put(Err(error));
        }
        self.sender.send_if_modified(|state| {
            state.changes += 1;
            false
        });
    }

    /// Whether nothing was reported yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.sender.borrow().entry.is_none()
    }

    pub(crate) fn watch(&self, follower: AbortHandle) -> Watch {
        Watch { receiver: self.sender.subscribe(), seen: 0, _follower: AbortOnDrop(follower) }
    }
}

/// The changes of a worker's entry, from the entry at the time of the call. It holds one entry, however many changes it missed.
#[derive(Debug)]
pub struct Watch {
    receiver: watch::Receiver<State>,
    seen: u64,
    _follower: AbortOnDrop,
}

impl Watch {
    /// Waits for the next change; the first is the entry that is there, or [`WatchEvent::Gone`]. There is no deadline: the name may
    /// not change for days. While the channel is down it waits, and the watch connects anew.
    ///
    /// It can be cancelled: no change is lost.
    ///
    /// # Errors
    ///
    /// [`ChannelError::WrongEntry`] or a seal's error if the entry of now is not the worker's, [`ChannelError::TooLarge`] if it is
    /// too long, and a server's refusal. Each is returned once; the watch goes on.
    pub async fn next(&mut self) -> Result<WatchEvent, ChannelError> {
        loop {
            {
                let state = self.receiver.borrow_and_update();
                let missed = state.changes.saturating_sub(self.seen);
                if let (Some(entry), 1..) = (&state.entry, missed) {
                    let is_first = self.seen == 0;
                    self.seen = state.changes;
                    return entry.clone().map(|entry| match entry {
                        entry if missed > 1 && !is_first => WatchEvent::Resync(entry),
                        Some(entry) => WatchEvent::Put(entry),
                        None => WatchEvent::Gone,
                    });
                }
            }
            self.changed().await;
        }
    }

    /// Waits for the first entry, which it leaves to [`next`](Self::next).
    pub(crate) async fn arrived(&mut self) {
        while self.receiver.borrow().entry.is_none() {
            self.changed().await;
        }
    }

    async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The runtime of the follower is being shut down: nothing will change.
            std::future::pending::<()>().await;
        }
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

//! Hints of owners about the layers of grants, as a connection takes them.

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::sync::{Mutex, lock};
use crate::wakes;

/// A reader's random number, and the generation of a grant.
type Key = ([u8; 16], u64);

/// The grants whose layers are waited for over one connection.
#[derive(Debug, Default)]
pub(crate) struct LayerHints {
    watches: Mutex<HashMap<Key, Weak<LayerWatch>>>,
    /// Tasks that wait for a message.
    waiting: AtomicUsize,
}

/// The owner's messages to one reader about the layers of one grant. They are taken while this exists.
pub struct LayerWatch {
    hints: Arc<LayerHints>,
    key: Key,
    state: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// The number of messages.
    messages: u64,
    /// The largest number of layers in them.
    layers: u64,
    /// The time of the last request to the owner.
    asked: Option<Duration>,
    /// The number of the last wait.
    last: u64,
    waiting: HashMap<u64, Waker>,
}

impl LayerHints {
    pub(crate) fn are_awaited(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    pub(crate) fn watch(self: &Arc<Self>, reader: [u8; 16], generation: u64) -> Arc<LayerWatch> {
        let key = (reader, generation);
        let (hints, state) = (Arc::clone(self), Mutex::default());
        let watch = Arc::new(LayerWatch { hints, key, state });
        lock(&self.watches).insert(key, Arc::downgrade(&watch));
        watch
    }

    /// An owner's message. Returns whether it is about a grant that is watched here.
    pub(crate) fn receive(&self, reader: &[u8], generation: u64, layers: u64) -> bool {
        let Ok(reader) = reader.try_into() else { return false };
        let watch = lock(&self.watches).get(&(reader, generation)).and_then(Weak::upgrade);
        let Some(watch) = watch else { return false };
        watch.note(layers);
        true
    }
}

impl LayerWatch {
    /// Whether a request to the owner is due: none was made within this time. The caller makes it.
    pub fn is_to_be_asked(&self, now: Duration, every: Duration) -> bool {
        let mut state = lock(&self.state);
        let is_due = state.asked.is_none_or(|asked| now.saturating_sub(asked) >= every);
        if is_due {
            state.asked = Some(now);
        }
        is_due
    }

    /// The number of messages so far.
    pub fn messages(&self) -> u64 {
        lock(&self.state).messages
    }

    /// Resolves once a further message than the first so many has arrived, and one has said that so many layers are ready, or that
    /// the grant has ended. Cancel safe.
    pub fn hinted(&self, after: u64, layers: u64) -> impl Future<Output = ()> {
        self.hints.waiting.fetch_add(1, Ordering::AcqRel);
        Hinted { watch: self, after, layers, id: None }
    }

    pub(super) fn note(&self, layers: u64) {
        let waiting = {
            let mut state = lock(&self.state);
            state.messages += 1;
            state.layers = state.layers.max(layers);
            mem::take(&mut state.waiting)
        };
        waiting.into_values().for_each(wakes::wake);
    }
}

impl Drop for LayerWatch {
    fn drop(&mut self) {
        let mut watches = lock(&self.hints.watches);
        // Another may have taken its place.
        if watches.get(&self.key).is_some_and(|watch| watch.strong_count() == 0) {
            watches.remove(&self.key);
        }
    }
}

/// A wait for a message.
struct Hinted<'a> {
    watch: &'a LayerWatch,
    after: u64,
    layers: u64,
    id: Option<u64>,
}

impl Future for Hinted<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { watch, after, layers, id } = &mut *self;
        let mut state = lock(&watch.state);
        if state.messages > *after && state.layers >= *layers {
            return Poll::Ready(());
        }
        let id = *id.get_or_insert_with(|| {
            state.last += 1;
            state.last
        });
        let before = state.waiting.insert(id, cx.waker().clone());
        // A waker's drop may drop a task, and with it another wait.
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Hinted<'_> {
    fn drop(&mut self) {
        self.watch.hints.waiting.fetch_sub(1, Ordering::AcqRel);
        let waker = self.id.and_then(|id| lock(&self.watch.state).waiting.remove(&id));
        drop(waker);
    }
}

/// Does not print the reader's number, which admits notices to it.
impl fmt::Debug for LayerWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerWatch").field("messages", &self.messages()).finish_non_exhaustive()
    }
}

//! Queue of reads that wait for words; it selects the poster of the next request.

use std::future::poll_fn;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use nixl_device::locks::lock;
use nixl_ops::{ReadOperation, TransportError, contained};

use super::persistent_requests::WINDOW;
use super::room::Room;
use super::runs::Runs;

/// What a request brings to one read.
pub(super) type Answer = Result<[u64; 3], TransportError>;

/// A read that has ended and needs the words of its grant.
pub(super) struct Entry {
    slot: u32,
    stage: Mutex<Stage>,
}

enum Stage {
    Waiting(Option<Waker>),
    Answered(Answer),
}

impl Entry {
    fn lock(&self) -> MutexGuard<'_, Stage> {
        lock(&self.stage)
    }

    /// Gives the read its words.
    pub(super) fn answer(&self, answer: Answer) {
        let before = mem::replace(&mut *self.lock(), Stage::Answered(answer));
        if let Stage::Waiting(Some(waker)) = before {
            wake(waker);
        }
    }

    pub(super) fn answered(&self) -> Option<Answer> {
        match &*self.lock() {
            Stage::Answered(answer) => Some(answer.clone()),
            Stage::Waiting(_) => None,
        }
    }

    fn wake(&self) {
        let waker = match &mut *self.lock() {
            Stage::Waiting(waker) => waker.take(),
            Stage::Answered(_) => None,
        };
        waker.into_iter().for_each(wake);
    }
}

/// A waker is an executor's code.
fn wake(waker: Waker) {
    let _ = contained("a waker", || waker.wake());
}

/// Reads of one request, and the place of each one's words among those that it brings.
pub(super) struct Batch {
    pub(super) reads: Vec<(Arc<Entry>, usize)>,
    pub(super) slots: Slots,
}

/// The slots that a request brings.
pub(super) enum Slots {
    /// All of a window.
    Window(u32),
    Runs(Runs),
}

/// What a read does next. A batch that is taken is posted, or its reads wait for ever.
#[must_use]
pub(super) enum Next {
    Answered(Answer),
    /// Post a request for these.
    Post(Batch, Room),
    /// Make room for a request.
    NoRoom,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order in which they joined.
    wanted: Vec<Arc<Entry>>,
    /// A request is being posted or in flight.
    in_flight: bool,
    /// The last request whose read does not wait for it any more. It is not given up: it serves others, too.
    held: Option<ReadOperation>,
    free: Vec<Room>,
    #[cfg(test)]
    requests: usize,
}

impl Queue {
    /// Rooms that are kept. One is used at a time.
    const KEPT: usize = 2;

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here leaves the state half changed.
        lock(&self.state)
    }

    #[cfg(test)]
    pub(super) fn state(&self) -> (bool, usize) {
        let state = self.lock();
        (state.in_flight, state.wanted.len())
    }

    #[cfg(test)]
    pub(super) fn requests(&self) -> usize {
        self.lock().requests
    }

    pub(super) fn add(&self, room: Room) {
        let mut state = self.lock();
        if state.free.len() < Self::KEPT {
            state.free.push(room);
        }
    }

    /// Holds a request that its read does not wait for any more.
    pub(super) fn hold(&self, posted: ReadOperation) {
        let before = self.lock().held.replace(posted);
        // Only one is in flight: that one has ended.
        drop(before);
    }

    /// Gives up a request that is held.
    pub(super) fn give_up(&self) {
        let held = self.lock().held.take();
        drop(held);
    }

    /// A read has ended: a request that is posted from now on serves it.
    pub(super) fn join(&self, slot: u32) -> Arc<Entry> {
        let entry = Arc::new(Entry { slot, stage: Mutex::new(Stage::Waiting(None)) });
        self.lock().wanted.push(Arc::clone(&entry));
        entry
    }

    pub(super) async fn next(&self, entry: &Arc<Entry>) -> Next {
        poll_fn(|cx| self.poll_next(entry, Some(cx.waker()))).await
    }

    /// Notes the waker, if there is one.
    pub(super) fn poll_next(&self, entry: &Arc<Entry>, to_wake: Option<&Waker>) -> Poll<Next> {
        let mut state = self.lock();
        match &mut *entry.lock() {
            Stage::Answered(answer) => return Poll::Ready(Next::Answered(answer.clone())),
            // Woken when it is answered, or when a request has ended.
            Stage::Waiting(waker) if state.in_flight => {
                *waker = to_wake.cloned();
                return Poll::Pending;
            }
            Stage::Waiting(_) => {}
        }
        let Some(room) = state.free.pop() else { return Poll::Ready(Next::NoRoom) };
        let batch = state.batch();
        state.in_flight = true;
        #[cfg(test)]
        {
            state.requests += 1;
        }
        Poll::Ready(Next::Post(batch, room))
    }

    /// A request has ended, with its reads answered, or was given up and these have not been.
    pub(super) fn ended(&self, room: Option<Room>, unanswered: Vec<Arc<Entry>>) {
        let waiting = {
            let mut state = self.lock();
            state.in_flight = false;
            state.free.extend(room);
            state.wanted.splice(0..0, unanswered);
            // All, since one may be polled by none.
            state.wanted.clone()
        };
        for entry in waiting {
            entry.wake();
        }
    }
}

impl State {
    /// Takes those that one request serves.
    fn batch(&mut self) -> Batch {
        // Those that were dropped meanwhile are known here alone.
        self.wanted.retain(|entry| Arc::strong_count(entry) > 1);
        let window = self.wanted.first().map(|entry| entry.slot / WINDOW);
        if let Some(window) = window
            && self.wanted.iter().all(|entry| entry.slot / WINDOW == window)
        {
            let placed = self.wanted.drain(..).map(|entry| {
                let place = entry.slot % WINDOW;
                (entry, place as usize)
            });
            return Batch { reads: placed.collect(), slots: Slots::Window(window) };
        }
        let oldest = self.wanted.first().map_or(0, |entry| entry.slot);
        let (mut places, mut runs) = self.places(0);
        if places.first() == Some(&None) {
            // However many slots below are wanted again and again.
            (places, runs) = self.places(oldest);
        }
        let mut reads = Vec::with_capacity(places.len());
        for (entry, place) in mem::take(&mut self.wanted).into_iter().zip(places) {
            match place {
                Some(place) => reads.push((entry, place)),
                None => self.wanted.push(entry),
            }
        }
        Batch { reads, slots: Slots::Runs(runs) }
    }

    /// The places of all wanted slots from this one on that one request brings.
    fn places(&self, from: u32) -> (Vec<Option<usize>>, Runs) {
        let (mut runs, mut places) = (Runs::default(), vec![None; self.wanted.len()]);
        let mut order: Vec<_> = self.wanted.iter().map(|entry| entry.slot).zip(0..).collect();
        order.retain(|(slot, _)| *slot >= from);
        order.sort_unstable();
        for (slot, index) in order {
            let place: &mut Option<usize> = &mut places[index];
            *place = runs.add(slot);
        }
        (places, runs)
    }
}

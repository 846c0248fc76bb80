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
        // Dropped after the locks: wakers are an executor's code, which may come back here.
        let mut foreign: (Option<Waker>, Vec<Arc<Entry>>) = Default::default();
        let mut state = self.lock();
        match &mut *entry.lock() {
            Stage::Answered(answer) => return Poll::Ready(Next::Answered(answer.clone())),
            // Woken when it is answered, or when a request has ended.
            Stage::Waiting(waker) if state.in_flight => {
                foreign.0 = mem::replace(waker, to_wake.cloned());
                return Poll::Pending;
            }
            Stage::Waiting(_) => {}
        }
        let Some(room) = state.free.pop() else { return Poll::Ready(Next::NoRoom) };
        foreign.1 = state.take_dropped();
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
    /// Takes the reads that were dropped meanwhile, which are known here alone.
    fn take_dropped(&mut self) -> Vec<Arc<Entry>> {
        self.wanted.extract_if(.., |entry| Arc::strong_count(entry) == 1).collect()
    }

    /// Takes those that one request serves.
    fn batch(&mut self) -> Batch {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use nixl_ops::SystemClock;

    use super::*;
    use crate::Connector;
    use crate::simulated::Fabric;

    /// A waker whose drop looks at the queue.
    struct Looks(Arc<Queue>, Arc<AtomicUsize>);

    impl Wake for Looks {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Looks {
        fn drop(&mut self) {
            // A second lock of a thread would wait for ever.
            assert!(self.0.state.try_lock().is_ok());
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn wakers_are_dropped_without_the_lock() {
        let fabric = Fabric::new(Arc::new(SystemClock::new()));
        let connector = Connector::builder().transport(fabric.transport("a")).build().await;
        let room = Room::new(&connector.unwrap()).await.unwrap();
        let (queue, drops) = (Arc::new(Queue::default()), Arc::new(AtomicUsize::new(0)));
        let looks = || Waker::from(Arc::new(Looks(Arc::clone(&queue), Arc::clone(&drops))));
        queue.lock().in_flight = true;
        let (first, second) = (queue.join(1), queue.join(2));
        for entry in [&first, &first, &second] {
            assert!(queue.poll_next(entry, Some(&looks())).is_pending());
        }
        assert_eq!(drops.load(Ordering::Relaxed), 1, "of the waker that was replaced");
        drop(second);
        queue.lock().free.push(room);
        queue.ended(None, Vec::new());
        assert!(matches!(queue.poll_next(&first, None), Poll::Ready(Next::Post(..))));
        assert_eq!(drops.load(Ordering::Relaxed), 3, "of a read that was dropped, too");
    }
}

//! Completion cell of an operation: status, outcome and waker.

use std::task::{Poll, Waker};
use std::time::Duration;

use crate::OperationStatus;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, get_mut, lock};
use crate::wakes::wake;

/// An operation's status, its result, and the waiter's waker.
///
/// Any number of threads may race to end the operation; exactly one succeeds, and the waiter is woken
/// exactly for that. Checked with loom (`loom_model`).
#[derive(Debug)]
pub(crate) struct CompletionCell<T> {
    state: Mutex<State<T>>,
    /// Whether the status is terminal: changed under the lock, read without it.
    ended: AtomicBool,
}

#[derive(Debug)]
struct State<T> {
    status: OperationStatus,
    outcome: Option<T>,
    waker: Option<Waker>,
    memory: Memory,
    /// The end of the waiter's close polling, near the expected end.
    near: Option<Duration>,
}

/// State of an operation's memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Memory {
    /// An engine may access it.
    Engaged,
    /// The engine is quiet, and the lease has ended.
    Quiet,
    /// The engine did not become quiet in time; it comes back late, or is leaked.
    Leaked,
}

impl<T> State<T> {
    /// Whether this is the end, and the waker.
    fn end(
        &mut self,
        status: OperationStatus,
        outcome: T,
        memory: Memory,
    ) -> (bool, Option<Waker>) {
        debug_assert!(status.is_terminal());
        if memory == Memory::Quiet {
            // Also for memory that was given up as leaked before.
            self.memory = memory;
        }
        match self.status.advance(status) {
            Ok(next) => {
                self.status = next;
                self.outcome = Some(outcome);
                (true, self.waker.take())
            }
            Err(_) if memory == Memory::Quiet => (false, self.waker.take()),
            Err(_) => (false, None),
        }
    }
}

impl<T: Clone> CompletionCell<T> {
    /// A cell of an operation that is not initialized.
    pub(crate) fn new() -> Self {
        Self::at(OperationStatus::Uninitialized)
    }

    /// A cell of an operation in this state, which is not terminal.
    pub(crate) fn at(status: OperationStatus) -> Self {
        debug_assert!(!status.is_terminal());
        Self {
            state: Mutex::new(State {
                status,
                outcome: None,
                waker: None,
                memory: Memory::Engaged,
                near: None,
            }),
            ended: AtomicBool::new(false),
        }
    }

    /// Whether the operation has ended. Takes no lock.
    pub(crate) fn is_ended(&self) -> bool {
        // A wake-up for the end is seen only with the end: sequentially consistent, as the flag of the wake-up is.
        self.ended.load(Ordering::SeqCst)
    }

    /// The current status.
    pub(crate) fn status(&self) -> OperationStatus {
        lock(&self.state).status
    }

    /// Moves to a state that is not terminal. Returns whether the move was legal; an operation that has
    /// ended meanwhile stays as it is.
    pub(crate) fn advance(&self, next: OperationStatus) -> bool {
        debug_assert!(!next.is_terminal());
        let mut state = lock(&self.state);
        match state.status.advance(next) {
            Ok(next) => {
                state.status = next;
                true
            }
            Err(_) => false,
        }
    }

    /// Ends the operation and wakes its waiter. Returns `false`, changing nothing, if it has ended before.
    pub(crate) fn finish(&self, status: OperationStatus, outcome: T) -> bool {
        self.end(status, outcome, Memory::Engaged)
    }

    /// Ends the operation with quiet memory: one wake-up for both.
    pub(crate) fn finish_quiet(&self, status: OperationStatus, outcome: T) -> bool {
        self.end(status, outcome, Memory::Quiet)
    }

    /// As [`finish_quiet`](Self::finish_quiet), of a cell that no other thread reaches: takes no lock.
    pub(crate) fn finish_alone(&mut self, status: OperationStatus, outcome: T) {
        let (ended, waker) = get_mut(&mut self.state).end(status, outcome, Memory::Quiet);
        if ended {
            self.ended.store(true, Ordering::Relaxed);
        }
        waker.into_iter().for_each(wake);
    }

    fn end(&self, status: OperationStatus, outcome: T, memory: Memory) -> bool {
        let (ended, waker) = {
            let mut state = lock(&self.state);
            let (ended, waker) = state.end(status, outcome, memory);
            if ended {
                self.ended.store(true, Ordering::SeqCst);
            }
            (ended, waker)
        };
        waker.into_iter().for_each(wake);
        ended
    }

    /// Records that the engine is done with the memory, and wakes the waiter.
    pub(crate) fn set_quiet(&self) {
        self.set_memory(Memory::Quiet);
    }

    /// Records that the memory comes back late or never, and wakes its waiter.
    pub(crate) fn set_leaked(&self) {
        self.set_memory(Memory::Leaked);
    }

    fn set_memory(&self, memory: Memory) {
        let waker = {
            let mut state = lock(&self.state);
            state.memory = memory;
            state.waker.take()
        };
        waker.into_iter().for_each(wake);
    }

    /// Wakes the waiter to poll closely `until` then, near the end. No effect after the end.
    pub(crate) fn wake_early(&self, until: Duration) {
        let waker = {
            let mut state = lock(&self.state);
            if state.status.is_terminal() {
                return;
            }
            state.near = Some(until);
            state.waker.take()
        };
        waker.into_iter().for_each(wake);
    }

    /// Takes the note of a near end. The waiter is awake then and polls again, so its waker is dropped.
    pub(crate) fn take_near(&self) -> Option<Duration> {
        let (near, _waker) = {
            let mut state = lock(&self.state);
            let near = state.near.take()?;
            (near, state.waker.take())
        };
        Some(near)
    }

    /// The outcome, if the operation has ended.
    pub(crate) fn outcome(&self) -> Option<T> {
        lock(&self.state).outcome.clone()
    }

    /// Waits for the outcome. Only the latest waker is kept: one waiter at a time.
    pub(crate) fn poll_outcome(&self, waker: &Waker) -> Poll<T> {
        self.poll_with(waker, |state| state.outcome.clone())
    }

    /// Waits until the memory is quiet or leaked. Shares the waker with
    /// [`poll_outcome`](Self::poll_outcome).
    pub(crate) fn poll_memory(&self, waker: &Waker) -> Poll<Memory> {
        self.poll_with(waker, |state| (state.memory != Memory::Engaged).then_some(state.memory))
    }

    /// Waits until the memory is quiet, also after it was given up as leaked. Shares the waker with
    /// [`poll_outcome`](Self::poll_outcome).
    pub(crate) fn poll_quiet(&self, waker: &Waker) -> Poll<()> {
        self.poll_with(waker, |state| (state.memory == Memory::Quiet).then_some(()))
    }

    pub(crate) fn is_quiet(&self) -> bool {
        lock(&self.state).memory == Memory::Quiet
    }

    fn poll_with<R>(&self, waker: &Waker, read: impl FnOnce(&State<T>) -> Option<R>) -> Poll<R> {
        // Dropped without the lock: that is an executor's code, which may come back here.
        let _replaced = {
            let mut state = lock(&self.state);
            if let Some(ready) = read(&state) {
                return Poll::Ready(ready);
            }
            match &state.waker {
                Some(kept) if kept.will_wake(waker) => None,
                _ => state.waker.replace(waker.clone()),
            }
        };
        Poll::Pending
    }
}

impl<T: Clone> Default for CompletionCell<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn started() -> CompletionCell<u32> {
        let cell = CompletionCell::new();
        assert!(cell.advance(OperationStatus::Initialized));
        assert!(cell.advance(OperationStatus::InProgress));
        cell
    }

    /// A waker whose drop looks at the operation.
    struct Looks(Arc<CompletionCell<u32>>, Arc<AtomicUsize>);

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

    #[test]
    fn a_replaced_waker_is_dropped_without_the_lock() {
        let (cell, drops) = (Arc::new(started()), Arc::new(AtomicUsize::new(0)));
        let looks = || Waker::from(Arc::new(Looks(Arc::clone(&cell), Arc::clone(&drops))));
        assert!(cell.poll_outcome(&looks()).is_pending());
        assert!(cell.poll_memory(&looks()).is_pending());
        assert!(cell.poll_quiet(Waker::noop()).is_pending());
        assert_eq!(drops.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_first_end_wins_and_wakes_once() {
        let (cell, count) = (started(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        assert!(cell.poll_outcome(&waker).is_pending());
        assert!(cell.finish(OperationStatus::Cancelled, 1));
        assert!(!cell.finish(OperationStatus::Complete, 2));
        assert_eq!(cell.poll_outcome(&waker), Poll::Ready(1));
        assert_eq!(cell.status(), OperationStatus::Cancelled);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_end_without_the_lock_is_that_of_one_with_it() {
        let mut alone = started();
        assert!(!alone.is_ended());
        alone.finish_alone(OperationStatus::Complete, 3);
        assert!(alone.is_ended() && alone.is_quiet());
        assert_eq!(alone.outcome(), Some(3));
        assert!(!alone.finish(OperationStatus::Cancelled, 4));
        let mut ended = started();
        assert!(ended.finish(OperationStatus::Errored, 5) && !ended.is_quiet());
        ended.finish_alone(OperationStatus::Complete, 6);
        assert!(ended.is_quiet());
        assert_eq!(ended.outcome(), Some(5));
    }

    #[test]
    fn a_late_quiet_end_keeps_the_outcome_and_wakes_who_waits_for_the_memory() {
        let (cell, count) = (started(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        assert!(cell.finish(OperationStatus::Errored, 7));
        assert!(cell.poll_memory(&waker).is_pending());
        assert!(!cell.finish_quiet(OperationStatus::Complete, 8));
        assert_eq!(cell.poll_memory(&waker), Poll::Ready(Memory::Quiet));
        assert_eq!(cell.outcome(), Some(7));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}

/// Run by `cargo xtask loom`.
#[cfg(all(test, loom))]
mod loom_model {
    use loom::future::block_on;
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    fn started() -> Arc<CompletionCell<u32>> {
        let cell = CompletionCell::new();
        cell.advance(OperationStatus::Initialized);
        cell.advance(OperationStatus::InProgress);
        Arc::new(cell)
    }

    #[test]
    fn loom_no_wake_up_is_lost() {
        loom::model(|| {
            let cell = started();
            let engine = {
                let cell = Arc::clone(&cell);
                thread::spawn(move || cell.finish_quiet(OperationStatus::Complete, 1))
            };
            let outcome = block_on(std::future::poll_fn(|cx| cell.poll_outcome(cx.waker())));
            assert_eq!(outcome, 1);
            assert!(engine.join().unwrap());
            block_on(std::future::poll_fn(|cx| cell.poll_memory(cx.waker())));
        });
    }

    /// A waiter as `operation/active.rs` has it: it polls closely, which is nothing here, whenever the end is expected soon.
    fn wait(cell: &CompletionCell<u32>, looks: &mut usize) -> u32 {
        block_on(std::future::poll_fn(|cx| {
            loop {
                let polled = cell.poll_outcome(cx.waker());
                if polled.is_ready() || cell.take_near().is_none() {
                    return polled;
                }
                *looks += 1;
            }
        }))
    }

    #[test]
    fn loom_an_early_wake_loses_no_end() {
        loom::model(|| {
            let cell = started();
            let engine = {
                let cell = Arc::clone(&cell);
                thread::spawn(move || cell.finish_quiet(OperationStatus::Complete, 1))
            };
            let driver = {
                let cell = Arc::clone(&cell);
                thread::spawn(move || cell.wake_early(Duration::ZERO))
            };
            let mut looks = 0;
            assert_eq!(wait(&cell, &mut looks), 1);
            assert!(looks <= 1);
            assert!(engine.join().unwrap());
            driver.join().unwrap();
        });
    }

    #[test]
    fn loom_an_early_wake_reaches_a_waiter_that_goes_to_sleep() {
        loom::model(|| {
            let cell = started();
            let driver = {
                let cell = Arc::clone(&cell);
                thread::spawn(move || cell.wake_early(Duration::ZERO))
            };
            // Nothing else wakes: were this lost, the waiter would sleep for ever.
            let looked = block_on(std::future::poll_fn(|cx| {
                assert!(cell.poll_outcome(cx.waker()).is_pending());
                cell.take_near().map_or(Poll::Pending, Poll::Ready)
            }));
            assert_eq!(looked, Duration::ZERO);
            driver.join().unwrap();
        });
    }

    #[test]
    fn loom_an_end_that_is_seen_without_the_lock_has_its_outcome() {
        loom::model(|| {
            let cell = started();
            let engine = {
                let cell = Arc::clone(&cell);
                thread::spawn(move || cell.finish_quiet(OperationStatus::Complete, 1))
            };
            if cell.is_ended() {
                assert_eq!(cell.outcome(), Some(1));
                assert!(cell.is_quiet());
            }
            assert!(engine.join().unwrap());
            assert!(cell.is_ended());
        });
    }

    #[test]
    fn loom_exactly_one_end_wins() {
        loom::model(|| {
            let cell = started();
            let racers: Vec<_> = [(OperationStatus::Cancelled, 1), (OperationStatus::Complete, 2)]
                .into_iter()
                .map(|(status, outcome)| {
                    let cell = Arc::clone(&cell);
                    thread::spawn(move || cell.finish(status, outcome))
                })
                .collect();
            let seen = block_on(std::future::poll_fn(|cx| cell.poll_outcome(cx.waker())));
            let won: Vec<_> = racers.into_iter().map(|r| r.join().unwrap()).collect();
            assert_eq!(won.iter().filter(|w| **w).count(), 1);
            assert_eq!(seen, if won[0] { 1 } else { 2 });
            assert_eq!(cell.outcome(), Some(seen));
        });
    }

    #[test]
    fn loom_the_memory_comes_back_after_a_cancel() {
        loom::model(|| {
            let cell = started();
            let engine = {
                let cell = Arc::clone(&cell);
                thread::spawn(move || cell.finish_quiet(OperationStatus::Complete, 2))
            };
            let cancelled = cell.finish(OperationStatus::Cancelled, 1);
            let memory = block_on(std::future::poll_fn(|cx| cell.poll_memory(cx.waker())));
            assert_eq!(memory, Memory::Quiet);
            assert_eq!(engine.join().unwrap(), !cancelled);
        });
    }
}

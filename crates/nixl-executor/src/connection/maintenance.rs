//! Periodic maintenance of an executor while it is in use.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nixl_device::locks::lock;
use nixl_device::named_thread;
use nixl_ops::contained;

/// Calls a function about a second after [use](Self::note_use) began, then once a second while it goes on, and again
/// after the last. Otherwise its thread, which the first use starts, sleeps. The thread ends when this is dropped, or when
/// the function returns so.
pub(super) struct Maintenance {
    shared: Arc<Shared>,
    look: Arc<dyn Fn() -> Next + Send + Sync>,
}

/// Whether the function is to be called again in a second, used or not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    WhenUsed,
    Soon,
}

#[derive(Default)]
struct Shared {
    /// Used since the present second began.
    used: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    started: bool,
    closing: bool,
}

impl Maintenance {
    const PERIOD: Duration = Duration::from_secs(1);

    pub(super) fn new(look: impl Fn() -> Next + Send + Sync + 'static) -> Self {
        Self { shared: Arc::default(), look: Arc::new(look) }
    }

    /// Costs an atomic load in the middle of a second.
    pub(super) fn note_use(&self) {
        if self.shared.used.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.shared.lock();
        self.shared.used.store(true, Ordering::Relaxed);
        if !state.started {
            let (shared, look) = (Arc::clone(&self.shared), Arc::clone(&self.look));
            let thread = named_thread("nixl-upkeep");
            state.started = thread.spawn(move || shared.run(&*look)).is_ok();
            // Without a thread, the next use tries again.
            self.shared.used.store(state.started, Ordering::Relaxed);
        }
        drop(state);
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn run(&self, look: &dyn Fn() -> Next) {
        let mut next = Next::WhenUsed;
        loop {
            let state = self.lock();
            let idle = |state: &mut State| {
                next == Next::WhenUsed && !self.used.load(Ordering::Relaxed) && !state.closing
            };
            let state = self.changed.wait_while(state, idle);
            let state = state.unwrap_or_else(PoisonError::into_inner);
            self.used.store(false, Ordering::Relaxed);
            let open = |state: &mut State| !state.closing;
            let waited = self.changed.wait_timeout_while(state, Maintenance::PERIOD, open);
            let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.closing {
                return;
            }
            drop(state);
            // A panic, such as of a subscriber, costs this look: memory of peers is to be given back by later ones.
            next = contained("the upkeep of an executor", look).unwrap_or(Next::Soon);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_one();
    }
}

impl fmt::Debug for Maintenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maintenance").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn it_looks_after_the_last_use_as_well_and_then_only_when_asked() {
        let (look, looks) = mpsc::channel();
        let soon = AtomicBool::new(true);
        let maintenance = Maintenance::new(move || {
            look.send(()).unwrap();
            if soon.swap(false, Ordering::Relaxed) { Next::Soon } else { Next::WhenUsed }
        });
        assert!(!maintenance.shared.lock().started);
        maintenance.note_use();
        // Of the use, and since the first look asked for it.
        for _ in 0..2 {
            looks.recv_timeout(LIMIT).unwrap();
        }
        assert!(looks.recv_timeout(2 * Maintenance::PERIOD).is_err());
        maintenance.note_use();
        looks.recv_timeout(LIMIT).unwrap();
        drop(maintenance);
        let ended = looks.recv_timeout(LIMIT);
        assert_eq!(ended, Err(mpsc::RecvTimeoutError::Disconnected), "the thread ends");
    }
    #[test]
    fn a_panic_does_not_end_it() {
        let (look, looks) = mpsc::channel();
        let panics = AtomicBool::new(true);
        let maintenance = Maintenance::new(move || {
            look.send(()).unwrap();
            assert!(!panics.swap(false, Ordering::Relaxed), "on purpose");
            Next::WhenUsed
        });
        maintenance.note_use();
        for _ in 0..2 {
            looks.recv_timeout(LIMIT).unwrap();
        }
    }
}

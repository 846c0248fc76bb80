//! Retention of readable offers' memory after their life time, until no read can be in flight.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::quiet::{QuietProof, QuietWatch};
use super::retained::Retained;
use crate::contained::contained;
use crate::sync::{Mutex, lock};

/// Memory of which peers begin no further read. An earlier read may wait in a socket: of this process, if it was stopped, or of
/// the peer's host, if the network was cut. The engine would answer it from freed memory.
#[derive(Debug, Default)]
pub(super) struct LateReads {
    state: Mutex<State>,
    /// Whether a check is running.
    checking: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Memory added since the watch was made.
    added: Vec<Retained>,
    watched: Vec<Retained>,
    watch: Option<Box<dyn QuietWatch>>,
}

impl LateReads {
    pub(super) fn add(&self, memory: Vec<Retained>) {
        lock(&self.state).added.extend(memory);
    }

    pub(super) fn is_empty(&self) -> bool {
        let state = lock(&self.state);
        state.added.is_empty() && state.watched.is_empty()
    }

    pub(super) fn each(&self, mut note: impl FnMut(&Retained)) {
        let state = lock(&self.state);
        state.added.iter().chain(&state.watched).for_each(&mut note);
    }

    /// Records a reader's end. Returns whether its offer is among these, and the memory freed by it.
    pub(super) fn read(&self, key: &[u8]) -> Option<Option<Retained>> {
        let mut state = lock(&self.state);
        let State { added, watched, .. } = &mut *state;
        [added, watched].into_iter().find_map(|memory| {
            let at = memory.iter().position(|memory| memory.is_of(key))?;
            let over = memory.get_mut(at).is_some_and(Retained::read);
            Some(over.then(|| memory.swap_remove(at)))
        })
    }

    /// Whether the caller is to call [`check`](Self::check), off the driver's thread.
    pub(super) fn begin_check(&self) -> bool {
        !self.is_empty() && !self.checking.swap(true, Ordering::AcqRel)
    }

    /// *Blocking.* Frees memory without a read in flight, at `now`.
    pub(super) fn check(&self, quiet: &dyn QuietProof, now: Duration) {
        let _ = contained("a proof of quiet", || {
            let (watch, ago) = {
                let mut state = lock(&self.state);
                if state.watched.is_empty() {
                    state.watch = None;
                    state.watched = mem::take(&mut state.added);
                }
                let ended = state.watched.iter().map(Retained::ended).max();
                (state.watch.take(), now.saturating_sub(ended.unwrap_or(now)))
            };
            let mut watch = watch.unwrap_or_else(|| quiet.reads(ago));
            let is_quiet = watch.is_quiet();
            let mut state = lock(&self.state);
            let free = match is_quiet {
                true => mem::take(&mut state.watched),
                false => {
                    state.watch = Some(watch);
                    Vec::new()
                }
            };
            drop(state);
            free.into_iter().for_each(Retained::free);
        });
        self.checking.store(false, Ordering::Release);
    }
}

//! The reads of an import that are under way, and the tickets that it is done with.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use nixl_device::locks::lock;
use tokio::sync::Notify;

/// By the generations of tickets. The owner of an export frees memory when its readers are done, so an import is done with a ticket
/// only when no read by it is under way, also none without a waiter, and begins none later.
#[derive(Default)]
pub(super) struct ReadsUnderWay {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Default)]
struct State {
    /// Few at a time.
    reads: Vec<(u64, usize)>,
    done: HashSet<u64>,
    /// Oldest first.
    order: VecDeque<u64>,
}

/// A read that is under way until this is dropped.
pub(super) struct UnderWay {
    reads: Arc<ReadsUnderWay>,
    generation: u64,
}

impl ReadsUnderWay {
    /// Tickets that the import is known to be done with, the latest.
    const DONE: usize = 4096;

    /// A read by a ticket of this generation begins. `None` if the import is done with that.
    pub(super) fn begin(self: &Arc<Self>, generation: u64) -> Option<UnderWay> {
        let mut state = lock(&self.state);
        if state.done.contains(&generation) {
            return None;
        }
        match state.reads.iter_mut().find(|(of, _)| *of == generation) {
            Some((_, reads)) => *reads += 1,
            None => state.reads.push((generation, 1)),
        }
        drop(state);
        Some(UnderWay { reads: Arc::clone(self), generation })
    }

    /// Refuses further reads by a ticket, and waits for those that are under way.
    pub(super) async fn done(&self, generation: u64) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.is_done(generation) {
                return;
            }
            ended.await;
        }
    }

    /// As [`done`](Self::done), without the wait. Whether none is under way.
    pub(super) fn is_done(&self, generation: u64) -> bool {
        let mut state = lock(&self.state);
        if state.done.insert(generation) {
            state.order.push_back(generation);
        }
        if state.order.len() > Self::DONE
            && let Some(oldest) = state.order.pop_front()
        {
            state.done.remove(&oldest);
        }
        !state.reads.iter().any(|(of, _)| *of == generation)
    }
}

impl UnderWay {
    /// Another one, for an execution that may outlive its waiter.
    pub(super) fn another(&self) -> Self {
        let mut state = lock(&self.reads.state);
        if let Some((_, reads)) = state.reads.iter_mut().find(|(of, _)| *of == self.generation) {
            *reads += 1;
        }
        drop(state);
        Self { reads: Arc::clone(&self.reads), generation: self.generation }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = lock(&self.reads.state);
        let at = state.reads.iter().position(|(of, _)| *of == self.generation);
        let Some(at) = at else { return };
        state.reads[at].1 -= 1;
        if state.reads[at].1 > 0 {
            return;
        }
        state.reads.swap_remove(at);
        drop(state);
        self.reads.ended.notify_waiters();
    }
}

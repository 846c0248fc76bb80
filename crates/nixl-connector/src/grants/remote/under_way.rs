//! The reads of an import that are under way, and the tickets that it is done with.

use std::collections::HashMap;
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
    /// By generation, until their time is over: later reads look whether the grant was renewed.
    done: HashMap<u64, Ended>,
    /// How many there may be before those whose time is over are forgotten.
    room: usize,
    /// Until then, tickets that were forgotten may be unknown.
    forgotten_until: Ended,
}

/// When the time of a ticket is over, in milliseconds since 1970.
type Ended = u64;

/// A ticket of which a read may begin.
pub(super) struct Begun {
    pub(super) under_way: UnderWay,
    /// The import may be done with the ticket, and have forgotten that: whether its grant stands must be looked at first.
    pub(super) is_doubtful: bool,
}

/// A read that is under way until this is dropped.
pub(super) struct UnderWay {
    reads: Arc<ReadsUnderWay>,
    generation: u64,
}

impl ReadsUnderWay {
    /// The most tickets that the import is known to be done with.
    const DONE: usize = 1 << 16;

    /// A read by a ticket of this generation begins. `None` if the import is done with that.
    pub(super) fn begin(self: &Arc<Self>, generation: u64, unix_millis: u64) -> Option<Begun> {
        let mut state = lock(&self.state);
        if state.done.contains_key(&generation) {
            return None;
        }
        let is_doubtful = unix_millis < state.forgotten_until;
        match state.reads.iter_mut().find(|(of, _)| *of == generation) {
            Some((_, reads)) => *reads += 1,
            None => state.reads.push((generation, 1)),
        }
        drop(state);
        let under_way = UnderWay { reads: Arc::clone(self), generation };
        Some(Begun { under_way, is_doubtful })
    }

    /// Waits until no read by a ticket is under way.
    pub(super) async fn ended(&self, generation: u64) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !lock(&self.state).is_read(generation) {
                return;
            }
            ended.await;
        }
    }

    /// Refuses further reads by a ticket, whose time is over then. Returns whether none is under way.
    pub(super) fn done(&self, generation: u64, ended: Ended, unix_millis: u64) -> bool {
        let mut state = lock(&self.state);
        state.done.insert(generation, ended);
        if state.done.len() > state.room.max(64) {
            state.forget_expired(unix_millis);
        }
        !state.is_read(generation)
    }
}

impl State {
    fn is_read(&self, generation: u64) -> bool {
        self.reads.iter().any(|(of, _)| *of == generation)
    }

    fn forget_expired(&mut self, unix_millis: u64) {
        self.done.retain(|_, ended| *ended > unix_millis);
        if self.done.len() >= ReadsUnderWay::DONE {
            let last = self.done.drain().map(|(_, ended)| ended).max();
            self.forgotten_until = self.forgotten_until.max(last.unwrap_or(0));
        }
        self.room = (2 * self.done.len()).min(ReadsUnderWay::DONE);
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

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = ReadsUnderWay::DONE as u64;

    #[test]
    fn a_ticket_that_an_import_is_done_with_is_refused_until_its_time_is_over() {
        let reads = Arc::new(ReadsUnderWay::default());
        assert!(reads.done(7, 1 << 40, 0));
        // Others, whose time is soon over.
        for other in 8..8 + 2 * MOST {
            assert!(reads.done(other, other, other));
        }
        assert!(reads.begin(7, 1 << 39).is_none());
        assert!(lock(&reads.state).done.len() < 1000);
        assert!(!reads.begin(6, 0).unwrap().is_doubtful);
    }

    #[test]
    fn tickets_are_doubtful_once_some_were_forgotten_too_early() {
        let reads = Arc::new(ReadsUnderWay::default());
        let ended = 1_000_000;
        (0..=MOST).for_each(|generation| assert!(reads.done(generation, ended + generation, 0)));
        assert!(lock(&reads.state).done.len() as u64 <= MOST);
        assert!(reads.begin(0, ended).is_none_or(|begun| begun.is_doubtful));
        assert!(!reads.begin(0, ended + 2 * MOST).unwrap().is_doubtful, "its time is over, too");
    }

    #[test]
    fn done_waits_for_reads() {
        let reads = Arc::new(ReadsUnderWay::default());
        let first = reads.begin(7, 0).unwrap().under_way;
        let second = first.another();
        assert!(!reads.done(7, 10, 0));
        drop(first);
        assert!(!reads.done(7, 10, 0));
        drop(second);
        assert!(reads.done(7, 10, 0));
    }
}

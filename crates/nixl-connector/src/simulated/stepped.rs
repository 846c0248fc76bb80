//! Transfers that move chunk by chunk, at a test's command.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use nixl_device::locks::lock;
use nixl_ops::TransportError;

use super::fabric::Network;
use super::job::{Chunk, Job, Next};

/// A posted transfer on a network that is stepped.
pub(super) struct SteppedJob {
    agent: Arc<str>,
    state: Mutex<State>,
}

enum State {
    Moving(Moving),
    /// Its lease and registrations are dropped, before its end shows.
    Ending(Option<Waker>),
    Ended(Result<(), TransportError>),
}

struct Moving {
    job: Box<Job>,
    /// Those that have not moved.
    chunks: Vec<Chunk>,
    /// Called at its end.
    waker: Option<Waker>,
}

impl SteppedJob {
    pub(super) fn post(network: &Network, job: Job, chunk: NonZeroU64) -> Arc<Self> {
        let (agent, chunks) = (Arc::clone(job.agent()), job.chunks(chunk.get()));
        let moving = Moving { job: Box::new(job), chunks, waker: None };
        let job = Arc::new(Self { agent, state: Mutex::new(State::Moving(moving)) });
        let mut state = network.lock();
        state.stepped.push(Arc::clone(&job));
        if let Some(engine) = state.agents.get(&job.agent).and_then(|agent| agent.engine.as_ref()) {
            engine.unpark();
        }
        drop(state);
        job
    }

    /// How it stands. Its end calls the waker, if there is one.
    pub(super) fn poll(
        &self,
        network: &Network,
        waker: Option<&Waker>,
    ) -> Poll<Result<(), TransportError>> {
        self.end_if_dead(network);
        match &mut *self.lock() {
            State::Moving(moving) => {
                moving.waker = waker.cloned();
                Poll::Pending
            }
            State::Ending(kept) => {
                *kept = waker.cloned();
                Poll::Pending
            }
            State::Ended(result) => Poll::Ready(result.clone()),
        }
    }

    pub(super) fn is_of(&self, agent: &str) -> bool {
        *self.agent == *agent
    }

    /// Keeps the local memory leased until the process ends, since no notification marks the end of this transfer.
    pub(super) fn leak(&self) {
        if let State::Moving(moving) = &*self.lock() {
            moving.job.leak();
        }
    }

    fn end_if_dead(&self, network: &Network) {
        let mut state = self.lock();
        if let State::Moving(moving) = &*state
            && let Err(error) = moving.job.check_alive(network)
        {
            let job = begin_end(&mut state);
            drop(state);
            self.end(job, Err(error));
        }
    }

    fn step(&self, network: &Network, choice: u64) -> bool {
        let mut state = self.lock();
        let State::Moving(Moving { job, chunks, .. }) = &mut *state else { return false };
        let result = match job.next(network) {
            Next::Waits => return false,
            Next::Ends(result) => result,
            Next::Moves { most } => {
                let index = pick(chunks.len(), choice);
                let Chunk { pair, within, len } = chunks.swap_remove(index);
                let moved = len.min(most);
                if moved < len {
                    let (within, len) = (within + moved, len - moved);
                    chunks.push(Chunk { pair, within, len });
                }
                match job.copy(network, Chunk { pair, within, len: moved }) {
                    Ok(()) => return true,
                    Err(error) => Err(error),
                }
            }
        };
        let job = begin_end(&mut state);
        drop(state);
        self.end(job, result);
        true
    }

    /// Drops the job, and with it registrations and leases, without a lock; then shows the end, and wakes.
    fn end(&self, job: Option<Box<Job>>, result: Result<(), TransportError>) {
        let wakes = job.as_ref().is_some_and(|job| job.wakes());
        if let Some(job) = job {
            job.leave();
        }
        let before = std::mem::replace(&mut *self.lock(), State::Ended(result));
        if let State::Ending(Some(waker)) = before
            && wakes
        {
            waker.wake();
        }
    }

    fn is_over(&self) -> bool {
        matches!(*self.lock(), State::Ended(_))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment.
        lock(&self.state)
    }
}

/// The caller [ends](SteppedJob::end) what is returned.
#[must_use]
fn begin_end(state: &mut State) -> Option<Box<Job>> {
    let State::Moving(Moving { job, waker, .. }) = std::mem::replace(state, State::Ending(None))
    else {
        return None;
    };
    *state = State::Ending(waker);
    Some(job)
}

/// Moves or ends one of the agent's transfers.
pub(super) fn step(network: &Network, agent: &str, choice: u64) -> bool {
    let of_agent: Vec<_> = {
        let state = network.lock();
        state.stepped.iter().filter(|job| job.is_of(agent)).cloned().collect()
    };
    let first = if of_agent.is_empty() { 0 } else { pick(of_agent.len(), choice) };
    let (before, from) = of_agent.split_at(first);
    // Those behind a transfer that cannot move have their turn.
    let moved = from.iter().chain(before).find(|job| job.step(network, choice >> 32));
    if let Some(job) = moved.filter(|job| job.is_over()) {
        network.lock().stepped.retain(|other| !Arc::ptr_eq(other, job));
    }
    moved.is_some()
}

/// Ends the transfers of which an agent is dead.
pub(super) fn end_of_the_dead(network: &Network) {
    let all = network.lock().stepped.clone();
    all.iter().for_each(|job| job.end_if_dead(network));
    // A job's lock is never taken under the network's.
    let over: Vec<_> = all.iter().filter(|job| job.is_over()).collect();
    network.lock().stepped.retain(|job| !over.iter().any(|other| Arc::ptr_eq(other, job)));
}

/// An index below `len`, which is not 0.
fn pick(len: usize, choice: u64) -> usize {
    usize::try_from(choice % len as u64).unwrap_or(0)
}

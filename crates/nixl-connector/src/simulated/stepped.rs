//! Transfers that move chunk by chunk, each when a test says so.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use nixl_ops::TransportError;

use super::fabric::Network;
use super::job::{Chunk, Job, Next};

/// A posted transfer on a network that is stepped.
pub(super) struct SteppedJob {
    agent: Arc<str>,
    state: Mutex<State>,
}

enum State {
    /// With the chunks that have not moved.
    Moving(Box<Job>, Vec<Chunk>),
    Ended(Result<(), TransportError>),
}

impl SteppedJob {
    pub(super) fn post(network: &Network, job: Job, chunk: NonZeroU64) -> Arc<Self> {
        let (agent, chunks) = (Arc::clone(job.agent()), job.chunks(chunk.get()));
        let job = Arc::new(Self { agent, state: Mutex::new(State::Moving(Box::new(job), chunks)) });
        network.lock().stepped.push(Arc::clone(&job));
        job
    }

    pub(super) fn poll(&self, network: &Network) -> Poll<Result<(), TransportError>> {
        self.end_if_dead(network);
        match &*self.lock() {
            State::Moving(..) => Poll::Pending,
            State::Ended(result) => Poll::Ready(result.clone()),
        }
    }

    /// Keeps the local memory leased until the process ends, since no notification says when this transfer ends.
    pub(super) fn leak(&self) {
        if let State::Moving(job, _) = &*self.lock() {
            job.leak();
        }
    }

    fn end_if_dead(&self, network: &Network) {
        let mut state = self.lock();
        if let State::Moving(job, _) = &*state
            && let Err(error) = job.check_alive(network)
        {
            let ended = end(&mut state, Err(error));
            drop(state);
            drop(ended);
        }
    }

    fn step(&self, network: &Network, choice: u64) -> bool {
        let mut state = self.lock();
        let State::Moving(job, chunks) = &mut *state else { return false };
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
        let ended = end(&mut state, result);
        drop(state);
        drop(ended);
        true
    }

    fn is_over(&self) -> bool {
        matches!(*self.lock(), State::Ended(_))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The caller drops what is returned, and with it registrations and leases, without a lock.
#[must_use]
fn end(state: &mut State, result: Result<(), TransportError>) -> State {
    let before = std::mem::replace(state, State::Ended(result));
    if let State::Moving(job, _) = &before {
        job.leave();
    }
    before
}

/// Moves or ends one of the agent's transfers.
pub(super) fn step(network: &Network, agent: &str, choice: u64) -> bool {
    let of_agent: Vec<_> = {
        let state = network.lock();
        state.stepped.iter().filter(|job| *job.agent == *agent).cloned().collect()
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

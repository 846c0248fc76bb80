//! The simulated network and its agents.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use nixl_device::locks::lock;
use nixl_ops::{Clock, CompletionMode, Transport};

use super::agent::Agent;
use super::engine;
use super::faults::{Faults, Plan};
use super::job::Job;
use super::stepped::{self, SteppedJob};
use super::transport::SimulatedTransport;

/// A network inside this process. Cheap to clone; all clones are the same network.
#[derive(Clone)]
pub struct Fabric {
    network: Arc<Network>,
}

impl Fabric {
    /// A network without agents. Delays are measured on `clock`, which should be that of the
    /// connectors too.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { network: Arc::new(Network { clock, chunk: None, state: Mutex::default() }) }
    }

    /// A network on which nothing moves by itself: each call of [`step`](Self::step) moves a chunk of at most `chunk` bytes.
    ///
    /// Messages arrive by themselves, and so does the end of a transfer whose peer is dead.
    pub fn stepped(clock: Arc<dyn Clock>, chunk: NonZeroU64) -> Self {
        let network = Network { clock, chunk: Some(chunk), state: Mutex::default() };
        Self { network: Arc::new(network) }
    }

    /// Moves one chunk of a transfer that `agent` has posted on a [stepped](Self::stepped) network, or ends one whose chunks have
    /// all moved. The number chooses the transfer and the chunk, in any order. Returns whether there was one to move or to end.
    pub fn step(&self, agent: &str, choice: u64) -> bool {
        stepped::step(&self.network, agent, choice)
    }

    /// A new agent, named `{name}-{incarnation}`. Like the process that it stands for, it is gone from the
    /// network when the transport is dropped.
    pub fn transport(&self, name: &str) -> Arc<dyn Transport> {
        let (name, incarnation) = self.network.add(name);
        let network = Arc::clone(&self.network);
        let mode = CompletionMode::Polled;
        Arc::new(SimulatedTransport::new(network, name, incarnation, mode))
    }

    /// As [`transport`](Self::transport), with transfers that [wake](CompletionMode::Wakes): they move without being polled, by a
    /// thread of the agent's own, or by [`step`](Self::step) on a stepped network.
    ///
    /// # Errors
    ///
    /// If the operating system refuses the thread.
    pub fn waking_transport(&self, name: &str) -> io::Result<Arc<dyn Transport>> {
        let (name, incarnation) = self.network.add(name);
        if self.network.chunk.is_none() {
            engine::start(&self.network, &name)?;
        }
        let network = Arc::clone(&self.network);
        let mode = CompletionMode::Wakes;
        Ok(Arc::new(SimulatedTransport::new(network, name, incarnation, mode)))
    }

    /// Orders faults for transfers and registrations of any agent.
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(&self.network), None)
    }

    /// Orders faults for the transfers that one agent starts, and for its registrations. `None` if no such
    /// agent is on the network. A connector's name is its agent's.
    pub fn faults_of(&self, agent: &str) -> Option<Faults> {
        let name = Arc::clone(self.network.lock().agents.get_key_value(agent)?.0);
        Some(Faults::new(Arc::clone(&self.network), Some(name)))
    }

    /// Ends an agent as if its process had died: nothing moves to or from its memory any more, and no peer
    /// hears of it. Returns whether it was alive.
    pub fn kill(&self, agent: &str) -> bool {
        let killed = self.network.lock().kill(agent);
        stepped::end_of_the_dead(&self.network);
        killed
    }
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.network.fmt(f)
    }
}

/// What agents, transfers and fault handles share.
pub(super) struct Network {
    pub(super) clock: Arc<dyn Clock>,
    /// The most bytes that a step moves, if transfers move in steps.
    pub(super) chunk: Option<NonZeroU64>,
    state: Mutex<State>,
}

/// Everything that changes. Nothing of a user's is ever dropped, and nothing is copied, under its lock.
#[derive(Default)]
pub(super) struct State {
    pub(super) agents: HashMap<Arc<str>, Agent>,
    pub(super) plan: Plan,
    /// Transfers that were dropped in flight, which the engine still carries out.
    orphans: Vec<Job>,
    /// Transfers in flight that move in steps.
    pub(super) stepped: Vec<Arc<SteppedJob>>,
    /// The last registration on the network; no two have the same number.
    pub(super) registrations: u64,
    incarnations: u64,
}

impl Network {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state consistent.
        lock(&self.state)
    }

    /// A new agent, and its incarnation.
    fn add(&self, name: &str) -> (Arc<str>, u64) {
        let mut state = self.lock();
        state.incarnations += 1;
        let incarnation = state.incarnations;
        let name: Arc<str> = format!("{name}-{incarnation}").into();
        state.agents.insert(Arc::clone(&name), Agent::new(incarnation));
        (name, incarnation)
    }

    /// Takes over a transfer that was dropped in flight.
    pub(super) fn adopt(&self, job: Job) {
        self.lock().orphans.push(job);
    }

    /// Moves the transfers that were dropped in flight until each has ended or waits for something.
    pub(super) fn move_orphans(&self) {
        let orphans = std::mem::take(&mut self.lock().orphans);
        for mut job in orphans {
            let ended = loop {
                let before = job.moved();
                match job.advance(self) {
                    Poll::Ready(_) => break true,
                    Poll::Pending if job.moved() == before => break false,
                    Poll::Pending => {}
                }
            };
            if !ended {
                self.adopt(job);
            }
        }
    }
}

impl State {
    /// The agent, unless it is dead.
    pub(super) fn living(&mut self, name: &str) -> Option<&mut Agent> {
        self.agents.get_mut(name).filter(|agent| agent.alive)
    }

    pub(super) fn kill(&mut self, name: &str) -> bool {
        self.living(name).is_some_and(|agent| {
            agent.alive = false;
            true
        })
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Fabric")
            .field("agents", &state.agents.keys().collect::<Vec<_>>())
            .field("orphans", &state.orphans.len())
            .finish_non_exhaustive()
    }
}

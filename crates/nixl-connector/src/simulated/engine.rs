//! The engine thread of an agent whose transfers wake.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use nixl_device::named_thread;

use super::fabric::Network;
use super::stepped;

/// How long the thread leaves transfers that cannot move now: they are delayed, or stalled.
const PAUSE: Duration = Duration::from_millis(1);

/// Starts the thread of an agent, which ends after the agent and its transfers.
pub(super) fn start(network: &Arc<Network>, agent: &Arc<str>) -> io::Result<()> {
    let (of, name) = (Arc::downgrade(network), Arc::clone(agent));
    let run = move || run(&of, &name);
    let handle = named_thread("simulated-engine").spawn(run)?;
    if let Some(agent) = network.lock().agents.get_mut(agent) {
        agent.engine = Some(handle.thread().clone());
    }
    Ok(())
}

fn run(network: &Weak<Network>, agent: &str) {
    while let Some(network) = network.upgrade() {
        while stepped::step(&network, agent, 0) {}
        let state = network.lock();
        let moves = state.stepped.iter().any(|job| job.is_of(agent));
        let is_there = state.agents.contains_key(agent);
        drop(state);
        drop(network);
        // It is unparked with each post, and when the agent ends.
        match (moves, is_there) {
            (true, _) => thread::park_timeout(PAUSE),
            (false, true) => thread::park(),
            (false, false) => return,
        }
    }
}

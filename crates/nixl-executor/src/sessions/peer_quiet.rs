//! The proof that a peer writes to nothing that it was granted, for peers that do not report it.

use std::time::Duration;

use nixl_descriptor::Descriptor;
use nixl_ops::{Claimant, QuietProof, QuietWatch};

/// What one peer may be writing, and the watch over it.
#[derive(Debug)]
pub(super) struct PeerQuiet {
    peer: Claimant,
    /// What it may be writing in place. Slots are memory of this process alone.
    memory: Vec<Descriptor>,
    begun: Duration,
    watch: Option<Box<dyn QuietWatch>>,
}

impl PeerQuiet {
    /// Of an agent, whose process this is if it is one of this PID namespace.
    pub(super) fn of(agent: &str, pid: Option<u32>, begun: Duration) -> Self {
        let peer = pid.map_or_else(|| Claimant::Agent(agent.to_owned()), Claimant::Process);
        Self { peer, memory: Vec::new(), begun, watch: None }
    }

    /// It may be writing this in place.
    pub(super) fn add(&mut self, memory: &[Descriptor]) {
        if self.memory.is_empty() {
            self.memory = memory.to_vec();
            self.watch = None;
        }
    }

    /// *Blocking.* Whether it is proven. Asked on the connection's blocking thread.
    pub(super) fn is_proven(&mut self, proofs: &dyn QuietProof, now: Duration) -> bool {
        let age = now.saturating_sub(self.begun);
        let make = || proofs.watch(&self.peer, &self.memory, age);
        self.watch.get_or_insert_with(make).is_quiet()
    }
}

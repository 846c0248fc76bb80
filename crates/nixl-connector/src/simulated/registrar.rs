//! Registration of memory with a simulated agent.
#![allow(unsafe_code, reason = "implements traits that are trusted with memory")]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::{RegionSpan, RegisterError, Registered, Registrar, RegistrarId, Retired};
use nixl_device::{Device, SharedError};

use super::fabric::Network;

pub(super) struct SimulatedRegistrar {
    id: RegistrarId,
    network: Arc<Network>,
    agent: Arc<str>,
}

impl SimulatedRegistrar {
    pub(super) fn new(network: Arc<Network>, agent: Arc<str>) -> Self {
        Self { id: RegistrarId::new(), network, agent }
    }

    fn wait(&self, delay: Duration) {
        let clock = &self.network.clock;
        let until = clock.now().saturating_add(delay);
        while let Some(left) = until.checked_sub(clock.now()).filter(|left| !left.is_zero()) {
            clock.park(Some(left));
        }
    }
}

// SAFETY: an agent reaches memory only by the spans in its table, within their bounds, read-only ones only to read
// (`copy_spans` checks both). Every error returns before the span gets into the table.
unsafe impl Registrar for SimulatedRegistrar {
    fn id(&self) -> RegistrarId {
        self.id
    }

    fn register(&self, span: &RegionSpan) -> Result<Box<dyn Registered>, RegisterError> {
        if span.device() != Device::HOST {
            return Err(RegisterError::Unsupported { device: span.device() });
        }
        let (refused, delay) = self.network.lock().registration_fault(&self.agent);
        self.wait(delay);
        if refused {
            return Err(RegisterError::OutOfResources {
                what: "simulated registrations".to_owned(),
                hint: "a fault was ordered; call Faults::refuse_registrations(false)".to_owned(),
            });
        }
        let mut state = self.network.lock();
        state.registrations += 1;
        let number = state.registrations;
        let Some(agent) = state.living(&self.agent) else {
            return Err(RegisterError::Engine {
                engine: "simulated",
                error: SharedError::text("the agent is gone"),
            });
        };
        agent.register(number, span.clone());
        drop(state);
        let (network, agent) = (Arc::clone(&self.network), Arc::clone(&self.agent));
        Ok(Box::new(Number { network, agent, number }))
    }

    /// At once: forgetting a registration does not block here.
    fn retire(&self, retired: Retired) {
        if let Err(error) = retired.deregister() {
            tracing::error!(%error, "memory cannot be deregistered and is leaked");
        }
    }
}

impl fmt::Debug for SimulatedRegistrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedRegistrar").field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// A registration: the agent holds the memory under its number.
struct Number {
    network: Arc<Network>,
    agent: Arc<str>,
    number: u64,
}

// SAFETY: deregistering takes the span out of the agent's table, under the lock of the network, or finds it gone with the
// agent. A copy that took a clone of the span from the table before keeps the memory allocated until it is over, and
// ends within the burst of the transfer that its operation's leases cover.
unsafe impl Registered for Number {
    fn deregister(self: Box<Self>) -> Result<(), RegisterError> {
        let mut state = self.network.lock();
        let span =
            state.agents.get_mut(&self.agent).and_then(|agent| agent.deregister(self.number));
        // Not under the lock: this may free the memory, which runs its owner's code.
        drop(state);
        drop(span);
        Ok(())
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("number", &self.number).finish_non_exhaustive()
    }
}

//! Ownership of the NIXL agent, and the gate through which every call to it goes.

mod backends;
mod gate;
mod inside;
mod listening;
mod start;

pub(super) use gate::{Entered, Gate};
pub(super) use inside::Inside;
pub(super) use start::register_apart;

use std::fmt;
use std::sync::Arc;

use nixl_device::ForkGeneration;
use nixl_ops::EngineSetting;

use super::blob::{self, Blob};
use super::endpoints::Endpoints;
use super::exit;
use super::listener::Listener;
use super::options::NixlOptions;
use super::worker_address::WorkerAddresses;
use crate::control::ControlThread;

/// A NIXL agent.
///
/// Calls that register memory or connect to a peer block, and hold the gate meanwhile. All other calls [try](Self::try_enter)
/// it, and are repeated later if it is closed.
pub(super) struct Agent {
    name: String,
    control: ControlThread,
    options: NixlOptions,
    settings: Vec<EngineSetting>,
    listener: Listener,
    /// UCX's identity of this machine.
    machine: Option<u64>,
    /// The parser of UCX's addresses; `None` for an unknown layout.
    addresses: Option<WorkerAddresses>,
    gate: Arc<Gate>,
    generation: ForkGeneration,
}

impl Agent {
    /// Checks a peer's connection details, by backend, for content that would end the process in UCX.
    ///
    /// # Errors
    ///
    /// The fault.
    pub(super) fn check(
        &self,
        connections: &[(impl AsRef<str>, impl AsRef<[u8]>)],
    ) -> Result<(), String> {
        let Some(addresses) = &self.addresses else { return Ok(()) };
        let mut of_ucx = connections.iter().filter(|(backend, _)| backend.as_ref() == blob::UCX);
        of_ucx.try_for_each(|(_, address)| addresses.check(address.as_ref()))
    }

    /// The addresses on which a peer listens, for probes.
    pub(super) fn endpoints(&self, blob: &Blob<'_>) -> Endpoints {
        let Some(addresses) = &self.addresses else { return Endpoints::default() };
        let listeners = |address| addresses.listeners(address, Endpoints::MOST);
        of_backend(blob).flat_map(listeners).take(Endpoints::MOST).collect()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn options(&self) -> &NixlOptions {
        &self.options
    }

    /// The settings of UCX and the backends.
    pub(super) fn settings(&self) -> &[EngineSetting] {
        &self.settings
    }

    /// Whether the agent has a backend of this name.
    pub(super) fn has_backend(&self, name: &str) -> bool {
        self.options.chosen_backends().iter().any(|backend| backend.name() == name)
    }

    pub(super) fn machine(&self) -> Option<u64> {
        self.machine
    }

    pub(super) fn listener(&self) -> &Listener {
        &self.listener
    }

    pub(super) fn control(&self) -> &ControlThread {
        &self.control
    }

    /// Waits for the gate. **Blocks** until the thread inside leaves.
    pub(super) fn enter(&self) -> Entered<'_> {
        // In a fork's child, a thread of the parent may have held the gate.
        match self.generation.is_current() {
            true => self.gate.enter(),
            false => Entered::NOT,
        }
    }

    /// As [`try_enter`](Self::try_enter), for some microseconds while another thread is inside with a non-blocking call.
    pub(super) fn try_enter_for_a_moment(&self) -> Option<Entered<'_>> {
        /// Longer than such a call takes.
        const TRIES: u32 = 256;
        for _ in 1..TRIES {
            let entered = self.try_enter();
            if entered.is_some() || self.gate.is_blocked() {
                return entered;
            }
            std::hint::spin_loop();
        }
        self.try_enter()
    }

    /// Enters if no thread is inside or waits, and the process is not exiting.
    pub(super) fn try_enter(&self) -> Option<Entered<'_>> {
        match self.generation.is_current() {
            true => self.gate.try_enter(),
            false => Some(Entered::NOT),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.generation.is_current() {
            return;
        }
        let gate = Arc::clone(&self.gate);
        // Destroying an agent joins its threads, which blocks.
        self.control.post(move || {
            // At exit of the process, the handler destroys it.
            let Some(_busy) = exit::enter() else { return };
            gate.close();
            exit::remove(&gate);
        });
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("name", &self.name)
            .field("settings", &listed(&self.settings))
            .finish_non_exhaustive()
    }
}

fn listed(settings: &[EngineSetting]) -> String {
    settings.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn addresses(details: &[u8]) -> Option<WorkerAddresses> {
    let blob = Blob::parse(details).ok()?;
    WorkerAddresses::beside(of_backend(&blob).next()?)
}

fn of_backend<'a>(blob: &Blob<'a>) -> impl Iterator<Item = &'a [u8]> {
    let of_it = |(backend, _): &&(&str, _)| *backend == blob::UCX;
    blob.connections.iter().filter(of_it).map(|(_, address)| *address)
}

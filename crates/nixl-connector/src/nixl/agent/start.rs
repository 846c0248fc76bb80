//! The start of an agent.

use std::sync::Arc;

use bytes::Bytes;
use nixl_device::ForkGeneration;
use nixl_device::cuda::relax_capture;
use nixl_sys::{AgentConfig, NixlDescriptor, NixlError, OptArgs, ThreadSync};
use slab::Slab;
use uuid::Uuid;

use super::super::library::{NixlLibrary, NixlUnavailable, building};
use super::super::listener::Listener;
use super::super::options::NixlOptions;
use super::super::parameters::Parallelism;
use super::super::ucx::{self, Plan, Ucx, UcxDevices};
use super::super::{configuration, epoll, exit, files, forked, memory, streams, threads};
use super::backends::{create_backends, load_plugins, set_variables};
use super::gate::Gate;
use super::inside::Inside;
use super::listening::{check_networks, guarded};
use super::{Agent, addresses, listed};
use crate::control::ControlThread;

impl Agent {
    /// Starts an agent with its backends. **Blocks.**
    pub(in super::super) fn start(
        name: &str,
        control: ControlThread,
        options: &NixlOptions,
    ) -> Result<Self, NixlUnavailable> {
        // First: a fork waits for a thread inside, for a while.
        let busy = exit::enter().ok_or_else(exiting)?;
        let building = building()?;
        exit::watch_forks()?;
        let (name, options) = (name.to_owned(), options.clone());
        let start = move || {
            // Also in a thread that is left behind.
            let (_busy, _building) = (busy, building);
            Self::start_here(name, control, options)
        };
        forked::start(start, |agent| &agent.listener)
    }

    fn start_here(
        name: String,
        control: ControlThread,
        options: NixlOptions,
    ) -> Result<Self, NixlUnavailable> {
        check_networks(&options)?;
        streams::open_closed();
        memory::check(Ucx::loaded().is_some())?;
        NixlLibrary::open_below(options.chosen_prefix())?;
        let configuration = configuration::check()?;
        ucx::check_files()?;
        let devices = UcxDevices::of_this_machine();
        let plan = Plan::new(&options, &devices)?;
        let parallelism = Parallelism::of(&options)?;
        files::check(plan.devices(&devices), parallelism.workers, plan.shares_memory())?;
        threads::check(parallelism.threads)?;
        epoll::check()?;
        let failed = |what| {
            move |e: NixlError| {
                let files = files::explanation();
                NixlUnavailable::Engine { what, reason: format!("{e}{files}"), error: e.into() }
            }
        };
        let config = AgentConfig {
            enable_prog_thread: options.progress().is_some(),
            // The progress thread sleeps in poll(2) on the backend's own events, so a long delay costs no
            // latency; a delay of zero would make it spin.
            pthr_delay_us: options.progress().map_or(0, |delay| delay.as_micros() as u64),
            thread_sync: ThreadSync::Strict,
            ..AgentConfig::default()
        };
        let listening = Listener::open_now();
        let agent = nixl_sys::Agent::new_configured(&name, &config).map_err(|e| {
            let read = configuration.map(|file| format!(" (it reads {})", file.display()));
            let files = files::explanation();
            let reason = format!("{e}{}{}{files}", read.unwrap_or_default(), set_variables());
            NixlUnavailable::Engine { what: "agent", reason, error: e.into() }
        })?;
        configuration::was_read();
        let plugins = load_plugins(&agent, &options)?;
        // UCX opens its CUDA transports here, if the driver is there.
        let _relaxed = relax_capture();
        let (backends, settings) = create_backends(&agent, plugins, &options, &plan)?;
        let details: Bytes = agent.get_local_md().map_err(failed("metadata"))?.into();
        let listener = guarded(&listening, &details, &options, plan.devices(&devices))?;
        let addresses = addresses(&details);
        let inside = Inside {
            requests: Slab::new(),
            lists: Slab::new(),
            registered: Slab::new(),
            notifications: None,
            details,
            backends,
            agent,
            #[cfg(test)]
            failing_posts: 0,
        };
        let gate = Arc::new(Gate::before(inside));
        exit::add(&gate)?;
        tracing::debug!(name, settings = %listed(&settings), "NIXL's agent has started");
        let (machine, generation) = (ucx::machine(), ForkGeneration::current());
        Ok(Self {
            name,
            control,
            options,
            settings,
            listener,
            machine,
            addresses,
            gate,
            generation,
        })
    }
}

/// Registers memory with a temporary agent. **Blocks.**
pub(in super::super) fn register_apart(
    memory: &impl NixlDescriptor,
    options: &NixlOptions,
) -> Result<(), NixlUnavailable> {
    let failed = |e: NixlError| {
        let reason = e.to_string();
        NixlUnavailable::Engine { what: "agent", reason, error: e.into() }
    };
    threads::check(Parallelism::of(options)?.threads)?;
    let _busy = exit::enter().ok_or_else(exiting)?;
    let _building = building()?;
    exit::watch_forks()?;
    let listening = Listener::open_now();
    let agent = nixl_sys::Agent::new(&format!("try-{}", Uuid::new_v4())).map_err(failed)?;
    let plugins = load_plugins(&agent, options)?;
    let devices = UcxDevices::of_this_machine();
    let plan = Plan::new(options, &devices)?;
    let (backends, _) = create_backends(&agent, plugins, options, &plan)?;
    let details = agent.get_local_md().map_err(failed)?;
    guarded(&listening, &details, options, plan.devices(&devices))?;
    let mut with = OptArgs::new().map_err(failed)?;
    for backend in &backends {
        with.add_backend(backend).map_err(failed)?;
    }
    agent.register_memory(memory, Some(&with)).map(drop).map_err(failed)
}

fn exiting() -> NixlUnavailable {
    NixlUnavailable::Start { what: "agent", reason: "the process is exiting".to_owned() }
}

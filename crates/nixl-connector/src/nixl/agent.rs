//! Ownership of the NIXL agent, and the gate through which every call to it goes.
#![allow(
    unsafe_code,
    reason = "a notification map may move between threads, which its type does not declare"
)]

use std::env;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nixl_device::cuda::{RelaxedCapture, relax_capture};
use nixl_device::locks::{lock, try_lock};
use nixl_device::{ForkGeneration, enter_libraries};
use nixl_ops::{EngineSetting, SettingSource};
use nixl_sys::{
    AgentConfig, Backend, NixlDescriptor, NixlError, NotificationMap, OptArgs, Params,
    RegistrationHandle, ThreadSync, XferDescList, XferDlistHandle, XferOp, XferRequest,
};
use slab::Slab;
use uuid::Uuid;

use super::blob::{self, Blob};
use super::configuration;
use super::endpoints::Endpoints;
use super::epoll;
use super::exit::{self, Busy};
use super::files;
use super::forked;
use super::library::{NixlLibrary, NixlUnavailable, building};
use super::listener::Listener;
use super::memory;
use super::options::{NixlBackend, NixlOptions};
use super::signals::Handlers;
use super::streams;
use super::threads;
use super::ucx::{self, Plan, Ucx, UcxDevices, WakeUps};
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

/// Empty once the agent is being dropped, or the process exits.
pub(super) struct Gate {
    inside: Mutex<Option<Inside>>,
    /// Threads with blocking calls, inside or waiting: threads that try the gate yield to them.
    blocking: AtomicUsize,
}

/// One of the threads with blocking calls.
struct Blocking<'a>(&'a AtomicUsize);

impl<'a> Blocking<'a> {
    fn on(gate: &'a Gate) -> Self {
        gate.blocking.fetch_add(1, Ordering::Relaxed);
        Self(&gate.blocking)
    }
}

impl Drop for Blocking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Behind the gate: all of NIXL's state for the agent, so it can be destroyed while other threads hold the parts. Field order:
/// pointers into the agent drop before it.
pub(super) struct Inside {
    /// Posted, unfinished requests.
    pub(super) requests: Slab<XferRequest>,
    /// Lists that requests are made of: of this side, and of a peer.
    lists: Slab<Movable<[XferDlistHandle; 2]>>,
    pub(super) registered: Slab<RegistrationHandle>,
    notifications: Option<Movable<NotificationMap>>,
    /// Metadata with the agent's connection details, which never change.
    pub(super) details: Bytes,
    pub(super) backends: Vec<Backend>,
    pub(super) agent: nixl_sys::Agent,
    /// So many posts report a failure after they have begun.
    #[cfg(test)]
    pub(super) failing_posts: usize,
}

struct Movable<T>(T);

/// The backend parameter in which NIXL passes settings to UCX.
const ENGINE_CONFIG: &str = "engine_config";

// SAFETY: the map owns a heap object of the C API that has no tie to the thread
// that made it; it is used and dropped by one thread at a time, behind the gate.
unsafe impl Send for Movable<NotificationMap> {}

// SAFETY: the handles own heap objects of the C API that have no tie to the thread that made them, and point to the agent, which
// is dropped after them; they are used and dropped by one thread at a time, behind the gate.
unsafe impl Send for Movable<[XferDlistHandle; 2]> {}

/// Loads the plugins of the backends, and UCX with its own.
fn load_plugins(
    agent: &nixl_sys::Agent,
    options: &NixlOptions,
) -> Result<Vec<(NixlBackend, Params)>, NixlUnavailable> {
    let backends = options.chosen_backends();
    if backends.is_empty() {
        return Err(NixlUnavailable::NoBackend);
    }
    let _handlers = Handlers::keep();
    let load = |backend: &NixlBackend| {
        let (_, params) =
            agent.get_plugin_params(backend.name()).map_err(|_| NixlUnavailable::NoPlugin {
                backend: backend.name(),
                folder: env::var_os("NIXL_PLUGIN_DIR").map(PathBuf::from),
                variables: set_variables(),
            })?;
        Ok((backend.clone(), params))
    };
    backends.iter().map(load).collect()
}

/// Makes the backends, and UCX with its settings. One at a time in the process.
fn create_backends(
    agent: &nixl_sys::Agent,
    plugins: Vec<(NixlBackend, Params)>,
    options: &NixlOptions,
    plan: &Plan,
) -> Result<(Vec<Backend>, Vec<EngineSetting>), NixlUnavailable> {
    let create = |(backend, mut params): (NixlBackend, Params), handed: &str| {
        let failed = |e: NixlError| {
            let files = files::explanation();
            NixlUnavailable::Engine {
                what: "backend",
                reason: format!("{}: {e}{files}", backend.name()),
                error: e.into(),
            }
        };
        let mut handed =
            if backend == NixlBackend::Ucx { handed.to_owned() } else { String::new() };
        for (_, name, value) in options.parameters().filter(|(of, ..)| **of == backend) {
            if name == ENGINE_CONFIG && !handed.is_empty() {
                handed = format!("{handed},{value}");
            } else {
                params.set(name, value).map_err(failed)?;
            }
        }
        if !handed.is_empty() {
            params.set(ENGINE_CONFIG, &handed).map_err(failed)?;
        }
        agent.create_backend(backend.name(), &params).map_err(failed)
    };
    let wake_ups = WakeUps::before();
    let create_all = |handed: &str| plugins.into_iter().map(|p| create(p, handed)).collect();
    let (backends, mut settings) = if options.chosen_backends().contains(&NixlBackend::Ucx) {
        plan.start(create_all).map_err(with_variables)?
    } else {
        (create_all("").map_err(with_variables)?, Vec::new())
    };
    wake_ups.keep_apart();
    if let Some(networks) = options.admitted_networks() {
        let networks: Vec<_> = networks.iter().map(|(of, bits)| format!("{of}/{bits}")).collect();
        settings.push(EngineSetting::new(
            "admit_networks",
            networks.join(","),
            SettingSource::Option,
        ));
    }
    for (backend, name, value) in options.parameters() {
        let name = format!("{}.{name}", backend.name());
        settings.push(EngineSetting::new(name, value, SettingSource::Option));
    }
    Ok((backends, settings))
}

/// The listening sockets of the agent, kept from started programs and from networks that are not admitted.
fn guarded(
    before: &[(u64, u16)],
    details: &[u8],
    options: &NixlOptions,
    devices: usize,
) -> Result<Listener, NixlUnavailable> {
    let listener = Listener::found(before, &Listener::open_now(), details);
    listener.keep_apart();
    let Some(networks) = options.admitted_networks() else { return Ok(listener) };
    let failed = |reason| NixlUnavailable::Start { what: "filter of networks", reason };
    let admitted = listener.admit(networks);
    let count = admitted.map_err(|error| failed(format!("the kernel refuses it: {error}")))?;
    if count == 0 && devices > 0 {
        return Err(failed("UCX's listening sockets are not found in /proc".to_owned()));
    }
    Ok(listener)
}

/// Refuses networks that are none.
fn check_networks(options: &NixlOptions) -> Result<(), NixlUnavailable> {
    let bits_of = |address: &IpAddr| if address.is_ipv4() { 32 } else { 128 };
    let networks = options.admitted_networks().into_iter().flatten();
    match networks.into_iter().find(|(address, bits)| *bits > bits_of(address)) {
        None => Ok(()),
        Some((address, bits)) => Err(NixlUnavailable::Setting {
            name: "NixlOptions::admit_networks".to_owned(),
            value: format!("{address}/{bits}"),
            reason: format!("such an address has {} bits", bits_of(address)),
        }),
    }
}

fn addresses(details: &[u8]) -> Option<WorkerAddresses> {
    let blob = Blob::parse(details).ok()?;
    WorkerAddresses::beside(of_backend(&blob).next()?)
}

fn of_backend<'a>(blob: &Blob<'a>) -> impl Iterator<Item = &'a [u8]> {
    let of_it = |(backend, _): &&(&str, _)| *backend == blob::UCX;
    blob.connections.iter().filter(of_it).map(|(_, address)| *address)
}

/// Registers memory with a temporary agent. **Blocks.**
pub(super) fn register_apart(
    memory: &impl NixlDescriptor,
    options: &NixlOptions,
) -> Result<(), NixlUnavailable> {
    let failed = |e: NixlError| {
        let reason = e.to_string();
        NixlUnavailable::Engine { what: "agent", reason, error: e.into() }
    };
    threads::check()?;
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

/// The variables of NIXL in the environment, as the end of a sentence: a value that NIXL cannot read ends the start of an agent, and
/// NIXL does not say which. Empty without any.
fn set_variables() -> String {
    const OURS: [&str; 3] = ["NIXL_PREFIX", "NIXL_RUNTIME_DIR", "NIXL_TEST_"];
    let is_nixls = |name: &String| {
        name.starts_with("NIXL_") && !OURS.iter().any(|ours| name.starts_with(ours))
    };
    let names = env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(is_nixls)?;
        Some(format!("{name}={}", value.to_string_lossy()))
    });
    let names: Vec<_> = names.collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("; NIXL reads these variables: {}", names.join(", ")),
    }
}

/// A failed backend, with the variables by which it may have failed.
fn with_variables(error: NixlUnavailable) -> NixlUnavailable {
    match error {
        NixlUnavailable::Engine { what, reason, error } => {
            NixlUnavailable::Engine { what, reason: reason + &set_variables(), error }
        }
        other => other,
    }
}

fn exiting() -> NixlUnavailable {
    NixlUnavailable::Start { what: "agent", reason: "the process is exiting".to_owned() }
}

impl Agent {
    /// Starts an agent with its backends. **Blocks.**
    pub(super) fn start(
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
        files::check(plan.devices(&devices), plan.shares_memory())?;
        threads::check()?;
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
            pthr_delay_us: options
                .progress()
                .map_or(0, |delay| delay.as_micros().try_into().unwrap_or(u64::MAX)),
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
        tracing::debug!(name, settings = %told(&settings), "NIXL's agent has started");
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
        if !self.generation.is_current() {
            return Entered::NOT;
        }
        let blocking = Some(Blocking::on(&self.gate));
        let gate = Some(self.gate.wait());
        Entered { busy: exit::enter(), gate, _blocking: blocking, _relaxed: Some(relax_capture()) }
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
        if !self.generation.is_current() {
            return Some(Entered::NOT);
        }
        // The lock is not fair: under a flood of messages the receiving thread would always win it.
        if self.gate.is_blocked() {
            return None;
        }
        let gate = try_lock(&self.gate.inside)?;
        let busy = Some(exit::enter()?);
        Some(Entered { busy, gate: Some(gate), _blocking: None, _relaxed: Some(relax_capture()) })
    }
}

impl Gate {
    fn before(inside: Inside) -> Self {
        Self { inside: Mutex::new(Some(inside)), blocking: AtomicUsize::new(0) }
    }

    fn wait(&self) -> MutexGuard<'_, Option<Inside>> {
        lock(&self.inside)
    }

    fn is_blocked(&self) -> bool {
        self.blocking.load(Ordering::Relaxed) > 0
    }

    /// Destroys the agent once no thread is inside; not at all if that takes longer than the deadline. **Blocks**: NIXL joins
    /// its threads.
    pub(super) fn destroy(&self, until: Instant) {
        let inside = loop {
            match try_lock(&self.inside) {
                Some(mut gate) => break gate.take(),
                None if Instant::now() >= until => return,
                None => thread::sleep(Duration::from_micros(100)),
            }
        };
        let (_relaxed, _at_work) = (relax_capture(), enter_libraries());
        drop(inside);
    }
}

/// The entered gate. Field order: this thread leaves NIXL before another enters.
pub(super) struct Entered<'a> {
    busy: Option<Busy<'static>>,
    /// `None` in a fork's child.
    gate: Option<MutexGuard<'a, Option<Inside>>>,
    _blocking: Option<Blocking<'a>>,
    /// UCX queries events and resolves addresses on the calling thread.
    _relaxed: Option<RelaxedCapture>,
}

impl Entered<'_> {
    /// In a fork's child.
    const NOT: Self = Self { busy: None, gate: None, _blocking: None, _relaxed: None };

    /// `None` only while the agent is being dropped, when no thread can enter any more, if the process exits, and in a fork's child.
    pub(super) fn inside(&mut self) -> Option<&mut Inside> {
        self.busy.as_ref()?;
        self.gate.as_mut()?.as_mut()
    }
}

impl Inside {
    /// Posts a request. Returns whether it is in flight.
    pub(super) fn post(&mut self, request: &XferRequest) -> Result<bool, NixlError> {
        let posted = self.agent.post_xfer_req(request, None)?;
        #[cfg(test)]
        if let Some(left) = self.failing_posts.checked_sub(1) {
            self.failing_posts = left;
            return Err(NixlError::BackendError);
        }
        Ok(posted)
    }

    /// The backend of a call, or none to leave the choice to NIXL.
    pub(super) fn only_backend(&self) -> Option<&Backend> {
        match &*self.backends {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Has NIXL prepare a list of this side, and one of a peer, each with the name of its agent. Returns their place.
    pub(super) fn prepare_lists(
        &mut self,
        (me, local): (&str, &XferDescList<'_>),
        (peer, remote): (&str, &XferDescList<'_>),
    ) -> Result<usize, NixlError> {
        let local = self.agent.prepare_xfer_dlist(me, local, None)?;
        let remote = self.agent.prepare_xfer_dlist(peer, remote, None)?;
        Ok(self.lists.insert(Movable([local, remote])))
    }

    /// Makes a request of positions in the lists at a place. `None` if they are gone.
    pub(super) fn request_of_lists(
        &self,
        kind: XferOp,
        place: usize,
        (local, remote): (&[i32], &[i32]),
        options: Option<&OptArgs>,
    ) -> Option<Result<XferRequest, NixlError>> {
        let Movable([ours, theirs]) = self.lists.get(place)?;
        Some(self.agent.make_xfer_req(kind, ours, local, theirs, remote, options))
    }

    /// Releases the lists at a place.
    pub(super) fn release_lists(&mut self, place: usize) {
        drop(self.lists.try_remove(place));
    }

    /// Takes the notifications that have arrived, if there are any. Also of a look that failed.
    pub(super) fn take_notifications(
        &mut self,
    ) -> (Option<NotificationMap>, Result<(), NixlError>) {
        // The binding cannot clear a map that holds a payload it cannot read, so a map is used until it is
        // first filled.
        let mut map = match self.notifications.take() {
            Some(map) => map.0,
            None => match NotificationMap::new() {
                Ok(map) => map,
                Err(error) => return (None, Err(error)),
            },
        };
        let result = self.agent.get_notifications(&mut map, None);
        if map.is_empty().unwrap_or(true) {
            self.notifications = Some(Movable(map));
            return (None, result);
        }
        (Some(map), result)
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
            let _blocking = Blocking::on(&gate);
            let inside = gate.wait().take();
            let (_relaxed, _at_work) = (relax_capture(), enter_libraries());
            drop(inside);
            exit::remove(&gate);
        });
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("name", &self.name)
            .field("settings", &told(&self.settings))
            .finish_non_exhaustive()
    }
}

fn told(settings: &[EngineSetting]) -> String {
    settings.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

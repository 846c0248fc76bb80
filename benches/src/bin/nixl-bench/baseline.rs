//! Plain nixl-sys, as a program without our connector would use it: what we are compared with.
//!
//! One agent, configured as the connector configures its own. A transfer is `create_xfer_req` with a notification,
//! `post_xfer_req` and a loop of `get_xfer_status`; releasing the request is not part of what is timed.
#![allow(unsafe_code, reason = "nixl-sys asks for a pointer through an unsafe trait method")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nixl_connector::nixl::NixlLibrary;
use nixl_descriptor::Region;
use nixl_device::{Device, DeviceKind};
use nixl_sys::{
    Agent, AgentConfig, Backend, MemType, MemoryRegion, NixlDescriptor, NotificationMap, OptArgs,
    RegistrationHandle, ThreadSync, XferDescList, XferOp, XferRequest,
};

use crate::messages::Kind;

/// How long anything may take before the run is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A plain NIXL agent. Field order: what points into the agent goes before it.
pub(crate) struct Baseline {
    notifications: NotificationMap,
    arrived: Vec<Vec<u8>>,
    backend: Backend,
    agent: Agent,
    name: String,
}

/// Memory that the agent knows; it is forgotten before the region can be freed.
pub(crate) struct Registered {
    handle: RegistrationHandle,
    _region: Region,
}

impl Registered {
    pub(crate) fn deregister(mut self) -> Result<()> {
        self.handle.deregister().context("nixl-sys: deregister")
    }
}

/// Addresses of both sides and a length.
pub(crate) type Pair = (u64, u64, usize);

impl Baseline {
    pub(crate) fn start(name: &str) -> Result<Self> {
        // Calling nixl-sys without its library would abort the process.
        NixlLibrary::open()?;
        let config = AgentConfig {
            enable_prog_thread: true,
            pthr_delay_us: 100_000,
            thread_sync: ThreadSync::Strict,
            ..AgentConfig::default()
        };
        let agent = Agent::new_configured(name, &config).context("nixl-sys: agent")?;
        let (_, params) = agent.get_plugin_params("UCX").context("nixl-sys: plugin UCX")?;
        let backend = agent.create_backend("UCX", &params).context("nixl-sys: backend UCX")?;
        let notifications = NotificationMap::new().context("nixl-sys: notifications")?;
        Ok(Self { notifications, arrived: Vec::new(), backend, agent, name: name.to_owned() })
    }

    /// Registers all of a region.
    pub(crate) fn register(&self, region: &Region) -> Result<Registered> {
        let mut options = OptArgs::new()?;
        options.add_backend(&self.backend)?;
        let handle = self
            .agent
            .register_memory(&Whole(region), Some(&options))
            .context("nixl-sys: register_memory")?;
        Ok(Registered { handle, _region: region.clone() })
    }

    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    pub(crate) fn metadata(&self) -> Result<Vec<u8>> {
        self.agent.get_local_md().context("nixl-sys: get_local_md")
    }

    /// Returns the peer's name.
    pub(crate) fn meet(&self, metadata: &[u8]) -> Result<String> {
        let peer = self.agent.load_remote_md(metadata).context("nixl-sys: load_remote_md")?;
        self.agent.make_connection(&peer, None).context("nixl-sys: make_connection")?;
        Ok(peer)
    }

    /// Creates and posts a transfer between memory here and memory there. The flag says whether it is still on its way.
    pub(crate) fn post(
        &self,
        kind: Kind,
        (here, there): (Device, Device),
        pairs: &[Pair],
        peer: &str,
        notification: &[u8],
    ) -> Result<(XferRequest, bool)> {
        let mut local = XferDescList::new(mem_type(here))?;
        let mut remote = XferDescList::new(mem_type(there))?;
        for &(local_address, remote_address, len) in pairs {
            local.add_desc(local_address as usize, len, here.index().into());
            remote.add_desc(remote_address as usize, len, there.index().into());
        }
        let mut options = OptArgs::new()?;
        options.set_has_notification(true)?;
        options.set_notification_message(notification)?;
        let operation = match kind {
            Kind::Read => XferOp::Read,
            Kind::Write => XferOp::Write,
        };
        let request = self
            .agent
            .create_xfer_req(operation, &local, &remote, peer, Some(&options))
            .context("nixl-sys: create_xfer_req")?;
        let pending =
            self.agent.post_xfer_req(&request, None).context("nixl-sys: post_xfer_req")?;
        Ok((request, pending))
    }

    /// Whether the transfer is over.
    pub(crate) fn is_done(&self, request: &XferRequest) -> Result<bool> {
        let status = self.agent.get_xfer_status(request).context("nixl-sys: get_xfer_status")?;
        Ok(status.is_success())
    }

    /// Polls until the transfer is over.
    pub(crate) fn wait(&self, request: &XferRequest) -> Result<()> {
        poll_until("a transfer", || self.is_done(request))
    }

    /// Polls until this notification has arrived.
    pub(crate) fn wait_notified(&mut self, payload: &[u8]) -> Result<()> {
        poll_until("a notification", || self.is_notified(payload))
    }

    /// Whether this notification has arrived.
    pub(crate) fn is_notified(&mut self, payload: &[u8]) -> Result<bool> {
        if let Some(at) = self.arrived.iter().position(|p| p == payload) {
            self.arrived.swap_remove(at);
            return Ok(true);
        }
        self.agent
            .get_notifications(&mut self.notifications, None)
            .context("nixl-sys: get_notifs")?;
        if !self.notifications.is_empty()? {
            let taken = self.notifications.take_notifs()?;
            self.arrived.extend(taken.into_values().flatten().map(String::into_bytes));
        }
        Ok(false)
    }

    pub(crate) fn notify(&self, peer: &str, payload: &[u8]) -> Result<()> {
        self.agent
            .send_notification(peer, payload, Some(&self.backend))
            .context("nixl-sys: gen_notif")
    }
}

impl std::fmt::Debug for Baseline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Baseline").field("name", &self.name).finish_non_exhaustive()
    }
}

fn poll_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    /// Polls between looks at the clock.
    const POLLS: usize = 256;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        for _ in 0..POLLS {
            if done()? {
                return Ok(());
            }
        }
    }
    bail!("nixl-sys: {what} did not end within {PATIENCE:?}")
}

fn mem_type(device: Device) -> MemType {
    match device.kind() {
        DeviceKind::Cuda => MemType::Vram,
        _ => MemType::Dram,
    }
}

#[derive(Debug)]
struct Whole<'a>(&'a Region);

impl MemoryRegion for Whole<'_> {
    unsafe fn as_ptr(&self) -> *const u8 {
        // Only a number to nixl-sys; `Registered` keeps the memory allocated.
        self.0.address() as *const u8
    }

    fn size(&self) -> usize {
        self.0.len()
    }
}

impl NixlDescriptor for Whole<'_> {
    fn mem_type(&self) -> MemType {
        mem_type(self.0.device())
    }

    fn device_id(&self) -> u64 {
        self.0.device().index().into()
    }
}

//! The registrar of memory with NIXL.
#![allow(unsafe_code, reason = "implements unsafe traits, ours and one of nixl-sys")]

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex};

use nixl_descriptor::{
    Access, RegionSpan, RegisterError, Registered, Registrar, RegistrarId, Retired,
};
use nixl_device::locks::lock;
use nixl_device::{DeviceKind, PerProcess, SharedError};
use nixl_sys::{MemType, MemoryRegion, NixlDescriptor, OptArgs};

use super::agent::{self, Agent, Entered};
use super::exit;
use super::files;
use super::gpu;
use super::options::NixlOptions;
use super::ucx;

/// NIXL's number for the memory of a device, and the device's number.
pub(super) fn memory_kind(device: nixl_device::Device) -> (MemType, u64) {
    match device.kind() {
        DeviceKind::Host => (MemType::Dram, 0),
        _ => (MemType::Vram, device.index().into()),
    }
}

/// NIXL's wire number of a kind of memory. Not `MemType::fmt`, which calls the library.
pub(super) fn wire_kind(kind: MemType) -> u32 {
    match kind {
        MemType::Dram => 0,
        _ => 1,
    }
}

/// Registers with one agent.
#[derive(Debug)]
pub(super) struct NixlRegistrar {
    id: RegistrarId,
    agent: Arc<Agent>,
    /// Whether registering host memory makes the kernel pin it.
    pins: bool,
}

impl NixlRegistrar {
    pub(super) fn new(agent: Arc<Agent>) -> Self {
        Self { id: RegistrarId::new(), agent, pins: ucx::may_use_rdma() }
    }

    fn register_inside(
        &self,
        span: &RegionSpan,
        entered: &mut Entered<'_>,
    ) -> Result<Box<dyn Registered>, RegisterError> {
        let inside = entered.inside().ok_or_else(closed)?;
        let failed = |e: nixl_sys::NixlError| match memory_kind(span.device()).0 {
            MemType::Dram => RegisterError::OutOfResources {
                what: format!("registering {} bytes of host memory ({e})", span.len()),
                hint: match files::exhausted() {
                    Some((open, limit)) => format!(
                        "{open} of {limit} files are open: raise the limit (`ulimit -n`), or close some"
                    ),
                    None if self.pins => {
                        "raise the limit on locked memory (`ulimit -l`), or register less"
                            .to_owned()
                    }
                    None => "see the engine's log for the cause".to_owned(),
                },
            },
            _ => RegisterError::Engine { engine: "nixl", error: e.into() },
        };
        let mut options = OptArgs::new().map_err(failed)?;
        for backend in &inside.backends {
            options.add_backend(backend).map_err(failed)?;
        }
        let handle =
            inside.agent.register_memory(&Spanned(span), Some(&options)).map_err(failed)?;
        let handle = Some(inside.registered.insert(handle));
        Ok(Box::new(Handle { agent: Arc::clone(&self.agent), handle, span: span.clone() }))
    }
}

// SAFETY: NIXL gets the span's address and length, and has no record of the memory if `register_memory` fails or is not
// reached. It writes read-only memory only for a peer, an exception in the documentation of `nixl_descriptor`: transfers of
// this process into it are refused before.
unsafe impl Registrar for NixlRegistrar {
    fn id(&self) -> RegistrarId {
        self.id
    }

    fn register(&self, span: &RegionSpan) -> Result<Box<dyn Registered>, RegisterError> {
        // NIXL has no access rights: a holder of this agent's metadata may write all registered memory, and UCX's own thread
        // does so for a peer over TCP.
        if !span.has_writable_pages() {
            return Err(RegisterError::ReadOnlyPages { len: span.len() });
        }
        let _context = gpu::enter([span.device()]);
        // Not tried with this agent: after NIXL has refused a kind of memory, no peer accepts its metadata any more.
        if span.device().kind() == DeviceKind::Cuda && !takes_gpu(span, self.agent.options()) {
            return Err(RegisterError::Unsupported { device: span.device() });
        }
        self.register_inside(span, &mut self.agent.enter())
    }

    fn register_quickly(
        &self,
        span: &RegionSpan,
    ) -> Option<Result<Box<dyn Registered>, RegisterError>> {
        // Other memory is checked first, or needs a GPU's context.
        let is_plain = span.device().is_host() && span.access() == Access::ReadWrite;
        if self.pins || !is_plain {
            return None;
        }
        let mut entered = self.agent.try_enter()?;
        Some(self.register_inside(span, &mut entered))
    }

    fn retire(&self, retired: Retired) {
        self.agent.control().post(move || {
            match retired.deregister() {
                // The agent is destroyed there, with its registrations.
                Err(_) if exit::is_exiting() => {}
                Err(error) => {
                    tracing::error!(%error, "memory cannot be deregistered and is leaked");
                }
                Ok(()) => {}
            }
        });
    }
}

/// Whether NIXL accepts memory of this GPU: tried once per process, with a temporary agent. **Blocks.**
fn takes_gpu(span: &RegionSpan, options: &NixlOptions) -> bool {
    static KNOWN: PerProcess<Mutex<BTreeMap<u32, bool>>> = PerProcess::new(Mutex::default);
    if !nixl_device::cuda::is_available() {
        return false;
    }
    let mut known = lock(KNOWN.get());
    *known.entry(span.device().index()).or_insert_with(|| {
        let tried = agent::register_apart(&Spanned(span), options);
        if let Err(error) = &tried {
            let device = span.device();
            tracing::warn!(%device, %error, "NIXL refuses memory of this GPU");
        }
        tried.is_ok()
    })
}

fn closed() -> RegisterError {
    RegisterError::Engine { engine: "nixl", error: SharedError::text("the agent is closed") }
}

/// Adapter of a span for nixl-sys.
struct Spanned<'a>(&'a RegionSpan);

impl fmt::Debug for Spanned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl MemoryRegion for Spanned<'_> {
    unsafe fn as_ptr(&self) -> *const u8 {
        // A number to nixl-sys; the span keeps the memory allocated until deregistration.
        self.0.address() as *const u8
    }

    fn size(&self) -> usize {
        self.0.len()
    }
}

impl NixlDescriptor for Spanned<'_> {
    fn mem_type(&self) -> MemType {
        memory_kind(self.0.device()).0
    }

    fn device_id(&self) -> u64 {
        memory_kind(self.0.device()).1
    }
}

/// A registration of NIXL's.
struct Handle {
    agent: Arc<Agent>,
    /// Its index among the agent's registrations; `Some` until deregistered.
    handle: Option<usize>,
    /// The memory outlives the registration.
    span: RegionSpan,
}

// SAFETY: `Ok` means that NIXL's `deregisterMem` succeeded on the agent that registered the memory: its backends have unmapped
// it, and a peer's later request fails by an unknown key or address. If the agent is closed or the call fails, this is an
// `Err`.
unsafe impl Registered for Handle {
    fn deregister(mut self: Box<Self>) -> Result<(), RegisterError> {
        let Some(handle) = self.handle.take() else { return Ok(()) };
        let mut entered = self.agent.enter();
        let inside = entered.inside().ok_or_else(closed)?;
        let Some(mut handle) = inside.registered.try_remove(handle) else { return Err(closed()) };
        let result = handle
            .deregister()
            .map_err(|e| RegisterError::Engine { engine: "nixl", error: e.into() });
        drop(handle);
        drop(entered);
        result
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Never reached with a handle in normal operation: registrations end in `deregister`. Deregistering here
        // would block this thread, so the handle stays registered, and its span keeps the memory.
        if self.handle.take().is_some() {
            mem::forget(self.span.clone());
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("span", &self.span).finish_non_exhaustive()
    }
}

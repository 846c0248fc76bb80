//! NIXL's POSIX plugin by plain nixl-sys: one agent that is its own peer, a request for all pieces, and a poll each 200 us.
#![allow(unsafe_code, reason = "nixl-sys asks for a pointer through an unsafe trait method")]

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nixl_connector::nixl::NixlLibrary;
use nixl_descriptor::layout::Layout;
use nixl_executor::files::IoKind;
use nixl_sys::{
    Agent, AgentConfig, Backend, MemType, MemoryRegion, NixlDescriptor, OptArgs,
    RegistrationHandle, XferDescList, XferOp,
};

use super::calls::Call;
use crate::baseline::PATIENCE;

/// The time between two polls: shorter ones take more of the processor for the same throughput.
const POLL: Duration = Duration::from_micros(200);

/// An agent with the plugin.
pub(super) struct Posix {
    backend: Backend,
    agent: Agent,
}

/// Memory and a file that the agent knows. To be dropped before the agent.
pub(super) struct Known {
    _handles: Vec<RegistrationHandle>,
    _memory: Layout,
}

impl Posix {
    const NAME: &str = "bench-files";

    pub(super) fn start() -> Result<Self> {
        // Calling nixl-sys without its library would abort the process.
        NixlLibrary::open()?;
        let agent = Agent::new_configured(Self::NAME, &AgentConfig::default())
            .context("nixl-sys: agent")?;
        let (_, params) = agent.get_plugin_params("POSIX").context("nixl-sys: plugin POSIX")?;
        let backend = agent.create_backend("POSIX", &params).context("nixl-sys: backend POSIX")?;
        Ok(Self { backend, agent })
    }

    pub(super) fn register(&self, memory: &Layout, fd: BorrowedFd<'_>, len: u64) -> Result<Known> {
        let mut options = OptArgs::new()?;
        options.add_backend(&self.backend)?;
        let of_memory = memory.parts().iter().map(|part| Known::memory(part.address(), part.len()));
        let of_file =
            Place { kind: MemType::File, address: 0, len: len as usize, device: number(fd) };
        let handles = of_memory
            .chain([of_file])
            .map(|place| self.agent.register_memory(&place, Some(&options)))
            .collect::<Result<Vec<_>, _>>()
            .context("nixl-sys: register_memory")?;
        Ok(Known { _handles: handles, _memory: memory.clone() })
    }

    /// Carries out all calls by one request.
    pub(super) fn run(&self, fd: BorrowedFd<'_>, kind: IoKind, calls: &[Call]) -> Result<()> {
        let mut local = XferDescList::new(MemType::Dram)?;
        let mut remote = XferDescList::new(MemType::File)?;
        for call in calls {
            let mut offset = call.offset as usize;
            for segment in &call.segments {
                local.add_desc(segment.address, segment.len, 0);
                remote.add_desc(offset, segment.len, number(fd));
                offset += segment.len;
            }
        }
        let operation = match kind {
            IoKind::Read => XferOp::Read,
            _ => XferOp::Write,
        };
        let mut options = OptArgs::new()?;
        options.add_backend(&self.backend)?;
        let request = self
            .agent
            .create_xfer_req(operation, &local, &remote, Self::NAME, Some(&options))
            .context("nixl-sys: create_xfer_req")?;
        let begun = Instant::now();
        let mut pending =
            self.agent.post_xfer_req(&request, None).context("nixl-sys: post_xfer_req")?;
        while pending {
            thread::sleep(POLL);
            let status =
                self.agent.get_xfer_status(&request).context("nixl-sys: get_xfer_status")?;
            pending = !status.is_success();
            if begun.elapsed() > PATIENCE {
                bail!("a transfer did not end within {PATIENCE:?}");
            }
        }
        Ok(())
    }
}

fn number(fd: BorrowedFd<'_>) -> u64 {
    u64::from(fd.as_raw_fd().unsigned_abs())
}

impl Known {
    fn memory(address: u64, len: usize) -> Place {
        Place { kind: MemType::Dram, address: address as usize, len, device: 0 }
    }
}

/// What is registered.
#[derive(Debug)]
struct Place {
    kind: MemType,
    address: usize,
    len: usize,
    device: u64,
}

impl MemoryRegion for Place {
    unsafe fn as_ptr(&self) -> *const u8 {
        // Only a number to nixl-sys; `Known` keeps the memory allocated, and the caller the file open.
        self.address as *const u8
    }

    fn size(&self) -> usize {
        self.len
    }
}

impl NixlDescriptor for Place {
    fn mem_type(&self) -> MemType {
        self.kind
    }

    fn device_id(&self) -> u64 {
        self.device
    }
}

//! Plain nixl-sys on one side.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nixl_device::Device;
use nixl_device::cuda::{Context, CudaError, Current};

use super::buffer::Buffer;
use super::memory::kind;
use super::messages::Introduction;
use crate::baseline::{Baseline, PATIENCE, Registered};
use crate::clock;
use crate::gpus::Gpus;
use crate::messages::Kind;

/// An agent with one registered buffer. Every buffer gets an agent of its own, as NIXL keeps to the first GPU whose
/// memory an agent registers. Field order: what points into the agent goes before it.
pub(crate) struct Plain {
    _registered: Registered,
    baseline: Baseline,
    /// NIXL wants the context of the GPU to be current.
    context: Option<Context>,
    device: Device,
    address: u64,
    peer: Option<String>,
}

impl Plain {
    pub(crate) fn start(role: &str, gpus: &Gpus, buffer: &Buffer) -> Result<Self> {
        static AGENTS: AtomicU64 = AtomicU64::new(0);
        let number = AGENTS.fetch_add(1, Ordering::Relaxed);
        let kind = kind(buffer.memory);
        let context = if kind.is_host() { None } else { Some(gpus.of(kind)?.context) };
        let _current = enter(context.as_ref())?;
        let baseline = Baseline::start(&format!("{role}-{}-{number}", std::process::id()))?;
        let registered = baseline.register(&buffer.region)?;
        let (device, address) = (buffer.region.device(), buffer.region.address());
        Ok(Self { _registered: registered, baseline, context, device, address, peer: None })
    }

    pub(crate) fn introduction(&self) -> Result<Introduction> {
        Ok(Introduction { metadata: self.baseline.metadata()?, address: self.address })
    }

    pub(crate) fn meet(&mut self, metadata: &[u8]) -> Result<()> {
        let _current = enter(self.context.as_ref())?;
        self.peer = Some(self.baseline.meet(metadata)?);
        Ok(())
    }

    /// Moves this part of both buffers. Returns the nanoseconds that it took.
    pub(crate) fn transfer(
        &self,
        kind: Kind,
        (device, address): (Device, u64),
        part: Range<usize>,
        notification: &[u8],
    ) -> Result<u64> {
        let peer = self.peer.as_deref().context("not met yet")?;
        let _current = enter(self.context.as_ref())?;
        let devices = (self.device, device);
        let at = part.start as u64;
        let pairs = [(self.address + at, address + at, part.len())];
        let begun = clock::now();
        let (request, pending) = self.baseline.post(kind, devices, &pairs, peer, notification)?;
        if pending {
            self.baseline.wait(&request)?;
        }
        Ok(clock::now() - begun)
    }

    /// Looks now and then until the peer's transfers have been notified: often enough to move on what arrives by sockets,
    /// seldom enough to leave the processor to the initiator.
    pub(crate) fn watch(&mut self, notifications: &[Vec<u8>]) -> Result<()> {
        const PAUSE: Duration = Duration::from_micros(20);
        let _current = enter(self.context.as_ref())?;
        let begun = Instant::now();
        let mut left = notifications;
        while begun.elapsed() < PATIENCE {
            while let [first, others @ ..] = left
                && self.baseline.is_notified(first)?
            {
                left = others;
            }
            if left.is_empty() {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
        bail!("nixl-sys: no notification arrived within {PATIENCE:?}")
    }
}

fn enter(context: Option<&Context>) -> Result<Option<Current>, CudaError> {
    context.map(Context::enter).transpose()
}

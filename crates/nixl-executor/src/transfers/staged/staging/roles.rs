//! The parts of this side in staged transfers: sources and sinks, and what they need.

use std::sync::Arc;

use nixl_descriptor::{Descriptor, DescriptorList, GpuAllocation, Leased, Registration};
use nixl_device::ProcessWatch;
use nixl_ops::{PeerId, TransportError};

use super::Staging;
use crate::local::allocation_of;
use crate::messages::SessionId;
use crate::pinned_slots::{GpuSlotPool, RegisteredSlots};
use crate::sessions::{failed, unwatched};
use crate::transfers::location::MemoryLocation;
use crate::transfers::staged::chunking::Chunking;
use crate::transfers::staged::copies::{Copier, engine_failed};
use crate::transfers::staged::gpu_sink::GpuSink;
use crate::transfers::staged::gpu_source::GpuSource;
use crate::transfers::staged::granted::SourceGrant;
use crate::transfers::staged::role::Role;
use crate::transfers::staged::sink::{Sink, SinkMemory};
use crate::transfers::staged::source::{Source, SourceMemory};
use crate::transfers::staged::targets::{Grants, Targets};

impl Staging {
    /// The part of this side where chunks go through slots on the source's GPU. `process` is the peer's, and `grant` that of the source's
    /// memory, if it is granted.
    pub(super) fn on_gpu(
        &self,
        is_source: bool,
        (list, chunking): (&DescriptorList, &Arc<Chunking>),
        process: u32,
        grant: Option<SourceGrant>,
    ) -> Result<Role, TransportError> {
        let MemoryLocation::Gpu(gpu) = self.place(list)? else {
            return Err(failed("begin", "only memory of GPUs is staged on a GPU"));
        };
        let copier = self.copier(gpu, list)?.of_grant(grant);
        let copier = copier.between_gpus(gpu, self.gpus.capabilities(), &self.costs);
        if !is_source {
            let is_read_only = |d: &Descriptor| {
                allocation_of(&*self.gpus, d.region()).is_some_and(GpuAllocation::is_read_only)
            };
            if list.iter().any(is_read_only) {
                let reason = "the driver lets the GPU only read the memory";
                return Err(failed("begin", reason));
            }
            let of = (gpu, process);
            return Ok(Role::GpuSink(GpuSink::new(
                &self.imports,
                of,
                Arc::clone(chunking),
                copier,
            )));
        }
        let slots = self.on_gpus.on(gpu);
        does_fit(chunking, slots.slot_bytes())?;
        // The end of its process is the only proof that a silent peer's GPU no longer reads a slot.
        let process = ProcessWatch::open(process).map_err(|error| unwatched("begin", error))?;
        self.allocate(&slots);
        let (chunking, window) = (Arc::clone(chunking), self.sessions.config().gpu_window());
        Ok(Role::GpuSource(GpuSource::new(chunking, copier, slots.join(), process, window)))
    }

    /// Has slots allocated on the connection's thread, unless they are. Where it refuses, the transfer fails.
    fn allocate(&self, slots: &Arc<GpuSlotPool>) {
        let now = self.link().clock().now();
        let Some(allocation) = slots.allocation(now) else { return };
        let (gpus, waker) = (Arc::clone(&self.gpus), self.link().waker().clone());
        let _ = self.link().background().run_for_peer(Box::new(move || {
            allocation.make(&*gpus, now);
            waker.wake();
        }));
    }

    pub(super) fn source(
        &self,
        peer: PeerId,
        session: Option<SessionId>,
        (list, chunking): (&DescriptorList, &Arc<Chunking>),
        targets: Targets,
        (registrations, leased): (Vec<Registration>, Leased),
    ) -> Result<Source, TransportError> {
        let memory = match self.place(list)? {
            MemoryLocation::Host => SourceMemory::Host(registrations, leased),
            MemoryLocation::Gpu(gpu) => {
                self.fits(&self.outgoing, chunking)?;
                SourceMemory::Gpu(self.copier(gpu, list)?, self.outgoing.join())
            }
        };
        let road = (Arc::clone(self.link().transport()), peer);
        let bytes = (list.clone(), Arc::clone(chunking));
        Ok(Source::new(road, session, bytes, memory, targets, self.sessions.config().window))
    }

    /// A source of granted blocks.
    pub(super) fn granted_source(
        &self,
        (peer, session): (PeerId, SessionId),
        (list, chunking): (&DescriptorList, &Arc<Chunking>),
        grant: SourceGrant,
    ) -> Result<Source, TransportError> {
        // The host's memory has no lease of its own while an engine reads it.
        let MemoryLocation::Gpu(gpu) = self.place(list)? else {
            return Err(failed("serve", "only blocks in memory of GPUs are staged for a reader"));
        };
        self.fits(&self.outgoing, chunking)?;
        let copier = self.copier(gpu, list)?.of_grant(Some(grant));
        let memory = SourceMemory::Gpu(copier, self.outgoing.join());
        let road = (Arc::clone(self.link().transport()), peer);
        let (bytes, window) = ((list.clone(), Arc::clone(chunking)), self.sessions.config().window);
        let targets = Targets::Granted(Grants::default());
        Ok(Source::new(road, Some(session), bytes, memory, targets, window))
    }

    pub(super) fn sink(
        &self,
        list: &DescriptorList,
        chunking: &Arc<Chunking>,
    ) -> Result<Sink, TransportError> {
        let memory = match self.place(list)? {
            MemoryLocation::Host => SinkMemory::Host { granted: 0 },
            MemoryLocation::Gpu(gpu) => {
                self.fits(&self.incoming, chunking)?;
                SinkMemory::Gpu(self.copier(gpu, list)?, self.incoming.join())
            }
        };
        Ok(Sink::new(list.clone(), Arc::clone(chunking), memory, self.sessions.config().window))
    }

    pub(super) fn copier(&self, gpu: u32, list: &DescriptorList) -> Result<Copier, TransportError> {
        Copier::new(&self.gpus, gpu, list.clone()).map_err(|e| engine_failed("begin", &e))
    }

    pub(super) fn fits(
        &self,
        pool: &RegisteredSlots,
        chunking: &Chunking,
    ) -> Result<(), TransportError> {
        does_fit(chunking, pool.slot_bytes())?;
        if !pool.is_ready() {
            let reason = pool.why_not();
            return Err(failed(
                "begin",
                reason.unwrap_or_else(|| "no slots were allocated".into()),
            ));
        }
        Ok(())
    }

    pub(super) fn chunking(
        &self,
        list: &DescriptorList,
        chunk_bytes: u64,
    ) -> Result<Arc<Chunking>, TransportError> {
        Chunking::new(list, chunk_bytes).map(Arc::new).ok_or_else(|| {
            let total = list.total_bytes();
            failed("begin", format!("{total} bytes cannot be cut into chunks of {chunk_bytes}"))
        })
    }

    /// Registrations of an offer's memory, which the offer holds too.
    pub(super) fn registrations(&self, list: &DescriptorList) -> Vec<Registration> {
        let mut held = Vec::new();
        let mut last = None;
        for region in list.iter().map(|d| d.region()) {
            if last.replace(region.id()) != Some(region.id()) {
                held.extend(self.link().registrations().get(region));
            }
        }
        held
    }
}

fn does_fit(chunking: &Chunking, slot: u64) -> Result<(), TransportError> {
    let longest = chunking.longest();
    if longest <= slot {
        return Ok(());
    }
    let reason =
        format!("chunks of {longest} bytes do not fit slots of {slot}; configure both sides alike");
    Err(failed("begin", reason))
}

//! The staged transfers of one connection: [begun](begin) and [served](serve), also for [readers by tickets](readers), in their
//! [roles].

mod begin;
mod readers;
mod roles;
mod serve;

use std::sync::Arc;

use nixl_descriptor::DescriptorList;
use nixl_metadata::{OperationKind, RdmaMetadata};
use nixl_ops::{ConnectionContext, Offer, PathKind, PathReport, Preparation, TransportError};

use crate::local::{Costs, GpuBackend};
use crate::pinned_slots::{GpuSlots, RegisteredSlots, SlotPools};
use crate::remote_memory::ImportCache;
use crate::sessions::Sessions;
use crate::transfers::location::MemoryLocation;
use crate::transfers::remote_copy::RemoteCopyContext;

pub(crate) use readers::why_owner_takes_no_part;

/// Staged transfers of one connection: those that this side begins, and those that it serves.
#[derive(Debug)]
pub(crate) struct Staging {
    sessions: Arc<Sessions>,
    gpus: Arc<dyn GpuBackend>,
    costs: Costs,
    outgoing: Arc<RegisteredSlots>,
    incoming: Arc<RegisteredSlots>,
    on_gpus: Arc<GpuSlots>,
    /// Slots of peers that are open here.
    imports: Arc<ImportCache>,
}

/// The sides that take part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StagingMode {
    /// This side only. The peer's memory must be the host's.
    OneSided,
    /// Both sides. The peer must run this library, with staging.
    TwoSided,
    /// Both sides, through slots on the source's GPU. Both sides' memory must be that of GPUs, on one host.
    OnGpu,
}

impl Staging {
    pub(crate) fn new(
        sessions: &Arc<Sessions>,
        context: &RemoteCopyContext,
        pools: &SlotPools,
    ) -> Arc<Self> {
        Arc::new(Self {
            sessions: Arc::clone(sessions),
            gpus: Arc::clone(&context.context.gpus),
            costs: context.context.costs.clone(),
            outgoing: RegisteredSlots::new(&pools.outgoing),
            incoming: RegisteredSlots::new(&pools.incoming),
            on_gpus: Arc::clone(&pools.on_gpus),
            imports: Arc::clone(&context.imports),
        })
    }

    /// Whether an offer of this side may be asked for that needs slots.
    pub(crate) fn may_need_slots(&self) -> bool {
        let on_gpu = |offer: &Offer| offer.descriptors().iter().any(|d| !d.device().is_host());
        self.sessions.len() > 0 || self.sessions.offers_any(on_gpu)
    }

    /// *Blocking.* Releases the slots' memory, which is registered again when it is needed.
    pub(crate) fn release_slots(&self) {
        self.outgoing.release();
        self.incoming.release();
    }

    /// What must be done on the connection's thread first, for an operation that will be staged if it involves GPU
    /// memory: `remote` is what the peer offers, none if this side offers.
    pub(crate) fn prepare(
        &self,
        local: &DescriptorList,
        remote: Option<&RdmaMetadata>,
    ) -> Option<Preparation> {
        let Ok(MemoryLocation::Gpu(gpu)) = self.place(local) else { return None };
        let now = self.link().clock().now();
        // A peer learns of the slots in which bytes arrive from the metadata that is exported afterwards.
        let mut wanted = match remote.map(RdmaMetadata::operation_kind) {
            Some(OperationKind::Write) => vec![&self.outgoing],
            Some(OperationKind::Read) => vec![&self.incoming],
            None => vec![&self.outgoing, &self.incoming],
        };
        wanted.retain(|pool| pool.wants_memory(now));
        if wanted.is_empty() {
            return None;
        }
        let pools: Vec<_> = wanted.into_iter().map(Arc::clone).collect();
        let (gpus, registrations) =
            (Arc::clone(&self.gpus), Arc::clone(self.link().registrations()));
        Some(Box::new(move || {
            // An operation that has another path does without.
            pools.iter().for_each(|pool| pool.make_ready(&*gpus, gpu, &registrations, now));
            Ok(())
        }))
    }

    /// Why this side cannot stage an operation with this memory, if it has to and that is known.
    pub(crate) fn why_not(&self, local: &DescriptorList, kind: OperationKind) -> Option<String> {
        let Ok(MemoryLocation::Gpu(_)) = self.place(local) else { return None };
        match kind {
            OperationKind::Write => self.outgoing.why_not(),
            OperationKind::Read => self.incoming.why_not(),
        }
    }

    /// Why this side cannot stage an operation with this memory on its GPU, if it has to and that is known.
    pub(crate) fn why_not_on_gpu(
        &self,
        local: &DescriptorList,
        kind: OperationKind,
    ) -> Option<String> {
        match (kind, self.place(local)) {
            (OperationKind::Write, Ok(MemoryLocation::Gpu(gpu))) => {
                self.on_gpus.on(gpu).why_not(self.link().clock().now())
            }
            _ => None,
        }
    }

    fn place(&self, list: &DescriptorList) -> Result<MemoryLocation, TransportError> {
        MemoryLocation::of(list, &*self.gpus)
    }

    fn link(&self) -> &ConnectionContext {
        self.sessions.link()
    }
}

fn report_on_gpu(bytes: u64, descriptors: usize) -> PathReport {
    PathReport::new(PathKind::StagedOnGpu, "cuda-ipc", bytes, descriptors)
}

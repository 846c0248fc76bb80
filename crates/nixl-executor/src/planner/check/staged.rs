//! Staged paths: on GPUs, by one side, by both sides.

use nixl_ops::Medium;

use super::sides::Link;
use super::{Check, CheckResult, Missing, available, missing, not_applicable, supports_version};
use crate::facts::{STAGING, STAGING_ON_GPU};
use crate::local::{Cost, MemoryKind};
use crate::planner::Export;

impl Check<'_> {
    /// A bounce through slots on the GPU that has the bytes.
    pub(super) fn staged_on_gpu(&self) -> CheckResult {
        let (MemoryKind::Gpu(ours), Some(theirs)) = (self.query.local, self.remote_ordinal())
        else {
            return Err(not_applicable("not both sides are memory of CUDA GPUs"));
        };
        self.opens_handles()?;
        self.cooperates()?;
        if !self.peer.ipc {
            return Err(missing("the peer shares no GPU memory"));
        }
        if self.peer.versions.staging() < STAGING_ON_GPU {
            return Err(missing("the peer's release stages through host memory alone"));
        }
        let costs = self.costs;
        let (cost, way) = match self.gpus(ours, self.peer.gpu(theirs))? {
            Link::Same => (costs.staged_on_same_gpu, "both sides are on one GPU"),
            Link::Reach => (costs.staged_on_other_gpu, "the GPUs reach each other"),
            Link::Unknown => {
                (costs.staged_on_other_gpu, "the peer's GPU is not visible here; unproven")
            }
        };
        let bounce = "a bounce through slots on the GPU that has the bytes";
        match self.query.export {
            Export::Without(kind) => available(
                Some(Medium::Gpu),
                cost,
                format!("{bounce}; this side's is {kind}; {way}"),
            ),
            Export::ByHandle | Export::ByPieces | Export::Unknown => {
                available(Some(Medium::Gpu), cost, format!("{bounce}; {way}"))
            }
        }
    }

    pub(super) fn staged_one_side(&self) -> CheckResult {
        match (self.query.local, self.query.remote.is_host()) {
            (MemoryKind::Gpu(ours), true) => {
                self.local_gpu(ours)?;
                let (medium, cost) = self.staged()?;
                let alone = Cost::new(self.costs.staged_one_sided_us, cost.per_chunk_us, cost.gbps);
                available(medium, alone, "only this side stages")
            }
            (MemoryKind::Gpu(_), false) => Err(not_applicable("GPU memory on both sides")),
            (_, true) => Err(not_applicable("no GPU takes part")),
            (_, false) => {
                self.cooperates()?;
                let (medium, cost) = self.staged()?;
                available(medium, cost, "the peer stages")
            }
        }
    }

    pub(super) fn staged_both_sides(&self) -> CheckResult {
        let MemoryKind::Gpu(ours) = self.query.local else {
            return Err(not_applicable("this side is host memory"));
        };
        if self.query.remote.is_host() {
            return Err(not_applicable("the other side is host memory"));
        }
        self.local_gpu(ours)?;
        self.cooperates()?;
        let (medium, cost) = self.staged()?;
        available(medium, cost, "both sides stage")
    }

    fn staged(&self) -> Result<(Option<Medium>, Cost), Missing> {
        let medium = self.engine_medium()?;
        let cost = match medium {
            Some(Medium::SharedMemory) => self.costs.staged_shared,
            Some(Medium::Rdma) => self.costs.staged_rdma,
            _ => self.costs.staged_tcp,
        };
        Ok((medium, cost))
    }

    fn cooperates(&self) -> Result<(), Missing> {
        if self.remote_ordinal().is_none() {
            return Err(not_applicable("the peer's memory is not memory of a CUDA GPU"));
        }
        if self.peer.staging {
            supports_version("staging", self.peer.versions.staging(), STAGING)
        } else if self.peer.native {
            Err(missing("the peer's metadata has no staging capability"))
        } else {
            Err(missing("the peer's metadata has no staging capability: it is Dynamo's profile"))
        }
    }
}

//! CUDA IPC: the peer's GPU memory, opened by this process.

use nixl_ops::Medium;

use super::sides::Link;
use super::{Check, CheckResult, Missing, available, missing, not_applicable};
use crate::facts::ShareForm;
use crate::local::MemoryKind;

impl Check<'_> {
    pub(super) fn cuda_ipc(&self) -> CheckResult {
        let theirs = match (self.remote_ordinal(), self.query.local) {
            (Some(theirs), _) => Some(theirs),
            (None, MemoryKind::Gpu(_)) if self.query.remote.is_host() => None,
            _ => {
                return Err(not_applicable(
                    "there is no memory of a CUDA GPU that the other could reach",
                ));
            }
        };
        let Some(theirs) = theirs else { return self.remote_copy() };
        match self.query.offered.share {
            Some(ShareForm::CudaIpc | ShareForm::Mixed) => self.opens_handles()?,
            Some(ShareForm::Pieces) => self.opens_pieces()?,
            _ => return self.remote_copy_of_gpus(theirs),
        }
        let medium = Some(Medium::Gpu);
        let costs = self.costs;
        let theirs = self.peer.gpu(theirs);
        match self.query.local {
            MemoryKind::Gpu(ours) => match self.gpus(ours, theirs)? {
                Link::Same => available(medium, costs.ipc_same_gpu, "both sides are on one GPU"),
                Link::Reach => available(medium, costs.ipc_other_gpu, "the GPUs reach each other"),
                Link::Unknown => available(
                    medium,
                    costs.ipc_other_gpu,
                    "the peer's GPU is not visible here; unproven",
                ),
            },
            _ if self.here.gpus.is_empty() => Err(missing("this process has no GPU")),
            MemoryKind::Pinned => available(medium, costs.ipc_pinned, "a GPU copies to the host"),
            MemoryKind::Pageable => {
                available(medium, costs.ipc_pageable, "a GPU copies, through pinned slots")
            }
        }
    }

    /// Whether each side opens pieces of memory that the other gives it as descriptors.
    pub(super) fn opens_pieces(&self) -> Result<(), Missing> {
        self.same_host()?;
        self.opens_files()?;
        self.is_another_process()?;
        self.has_cuda_ipc()
    }

    /// Whether each side opens handles of CUDA IPC that the other names.
    pub(super) fn opens_handles(&self) -> Result<(), Missing> {
        self.same_host()?;
        self.same_pid_namespace()?;
        self.is_another_process()?;
        match self.peer.locality.ipc_namespace {
            Some(true) => {}
            Some(false) => return Err(missing("separate IPC namespaces")),
            None => return Err(missing("whether both are in one IPC namespace is not known")),
        }
        self.has_cuda_ipc()
    }

    fn is_another_process(&self) -> Result<(), Missing> {
        match self.peer.locality.process {
            true => {
                Err(missing("the peer is in this very process, which cannot open its own handles"))
            }
            false => Ok(()),
        }
    }

    fn has_cuda_ipc(&self) -> Result<(), Missing> {
        if !self.here.ucx.cuda_ipc {
            return Err(missing("UCX_TLS allows no cuda_ipc"));
        }
        match &self.here.cuda {
            Ok(()) => Ok(()),
            Err(why) => Err(missing(why.clone())),
        }
    }
}

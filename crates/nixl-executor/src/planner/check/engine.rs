//! Paths of the engine alone, and the medium that it has between the two hosts.

use nixl_ops::{Medium, OperationKind};

use super::sides::Link;
use super::{Check, CheckResult, Missing, available, missing, not_applicable};
use crate::facts::{Engine, PeerGpu, ShareForm};
use crate::local::MemoryKind;

impl Check<'_> {
    pub(super) fn gpu_direct(&self) -> CheckResult {
        if self.all_host() {
            return Err(not_applicable("no GPU takes part"));
        }
        self.rdma()?;
        if let MemoryKind::Gpu(ours) = self.query.local
            && let Err(why) = &self.local_gpu(ours)?.gpu_direct
        {
            return Err(missing(format!("cuda:{ours}: {why}")));
        }
        if !self.query.remote.is_host() {
            let remote = self.query.remote;
            match self.remote_ordinal().and_then(|ordinal| self.peer.gpu(ordinal)) {
                Some(PeerGpu { gpu_direct: true, .. }) => {}
                Some(_) => {
                    return Err(missing(format!(
                        "the peer reports no NIC that reaches its {remote}"
                    )));
                }
                None => return Err(missing(format!("the peer does not describe its {remote}"))),
            }
        }
        available(Some(Medium::Rdma), self.costs.gpu_direct, "NICs reach the memory on both sides")
    }

    pub(super) fn direct(&self) -> CheckResult {
        if !self.all_host() {
            return Err(not_applicable("GPU memory takes part"));
        }
        let medium = self.engine_medium()?;
        let (cost, why) = match (medium, self.query.operation) {
            (Some(Medium::SharedMemory), _) => (self.costs.direct_shared, "on one host"),
            (Some(Medium::Rdma), _) => (self.costs.direct_rdma, "NICs on both sides"),
            (_, OperationKind::Read) => (self.costs.direct_tcp_read, "host memory on both sides"),
            (_, OperationKind::Write) => (self.costs.direct_tcp_write, "host memory on both sides"),
        };
        available(medium, cost, why)
    }

    pub(super) fn engine_staged(&self) -> CheckResult {
        if self.all_host() {
            return Err(not_applicable("no GPU takes part"));
        }
        if self.query.engine.is_ucx() && !self.here.ucx.cuda_copy {
            return Err(missing(
                "UCX_TLS allows no cuda_copy, without which UCX takes no GPU memory",
            ));
        }
        if let (MemoryKind::Gpu(ours), Some(theirs)) = (self.query.local, self.remote_ordinal())
            && self.engine_has_ipc()
            && !self.is_unexported()
        {
            let medium = Some(Medium::Gpu);
            let why = "UCX copies by CUDA IPC";
            match self.gpus(ours, self.peer.gpu(theirs)) {
                Ok(Link::Same) => return available(medium, self.costs.engine_staged_same_gpu, why),
                Ok(Link::Reach) => {
                    return available(medium, self.costs.engine_staged_other_gpu, why);
                }
                // Whether UCX would dare is not known.
                Ok(Link::Unknown) | Err(_) => {}
            }
        }
        available(
            self.engine_medium()?,
            self.costs.engine_staged,
            "the engine copies GPU memory by itself",
        )
    }

    /// Whether UCX would use CUDA IPC between the two processes. An inference.
    fn engine_has_ipc(&self) -> bool {
        let locality = self.peer.locality;
        self.query.engine.is_ucx()
            && self.here.ucx.cuda_ipc
            && self.here.cuda.is_ok()
            && !locality.process
            && locality.pid_namespace == Some(true)
            && locality.ipc_namespace == Some(true)
    }

    /// Whether the peer shares GPU memory, by its own report, and has no handle for this: an allocation of a pool or of the VMM API,
    /// which UCX copies through the host.
    fn is_unexported(&self) -> bool {
        self.peer.native && self.peer.ipc && self.query.offered.share != Some(ShareForm::CudaIpc)
    }

    /// What carries the engine's bytes between host memories. For UCX an inference: memory of the host if both are there,
    /// else NICs, else sockets. `None` if it is unknown.
    pub(super) fn engine_medium(&self) -> Result<Option<Medium>, Missing> {
        let (locality, ucx) = (self.peer.locality, self.here.ucx);
        let by_sockets = self.query.engine == Engine::UcxBySockets;
        if self.query.engine == Engine::Other || (locality.host.is_none() && !by_sockets) {
            return Ok(None);
        }
        let shared = self.peer.media.is_none_or(|c| c.shared_memory);
        let tcp = self.peer.media.is_none_or(|c| c.tcp);
        if by_sockets {
            // Should it have none, the estimate was wrong, and the medium is unknown.
            Ok((ucx.tcp && tcp).then_some(Medium::Tcp))
        } else if locality.pid_namespace == Some(true) && ucx.shared_memory && shared {
            Ok(Some(Medium::SharedMemory))
        } else if self.rdma().is_ok() {
            Ok(Some(Medium::Rdma))
        } else if ucx.tcp && tcp {
            Ok(Some(Medium::Tcp))
        } else if !ucx.tcp {
            Err(missing("UCX_TLS leaves nothing that both sides have: it allows no tcp"))
        } else {
            Err(missing("the peer leaves nothing that both sides have: it allows no tcp"))
        }
    }

    fn rdma(&self) -> Result<(), Missing> {
        if self.query.engine == Engine::Other {
            return Err(missing("the engine is not known to use NICs"));
        }
        if let Err(why) = &self.here.rdma {
            return Err(missing(why.clone()));
        }
        if !self.here.ucx.rdma {
            return Err(missing("UCX_TLS allows no RDMA"));
        }
        match self.peer.media {
            Some(media) if media.rdma => Ok(()),
            Some(_) => Err(missing("the peer reports no RDMA NIC")),
            None => Err(missing("the peer does not say that it has an RDMA NIC")),
        }
    }
}

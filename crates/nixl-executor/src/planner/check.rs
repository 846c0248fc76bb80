//! Availability checks of each kind of path, with the reason against those that are unavailable.

use std::borrow::Cow;

use nixl_descriptor::RendezvousState;
use nixl_device::{Device, DeviceKind};
use nixl_ops::{Medium, OperationKind, PathKind};

use super::{Export, PathCosts, PathQuery, Refusal};
use crate::facts::{
    Engine, LocalFacts, LocalGpu, PeerFacts, PeerGpu, REMOTE_COPY, REMOTE_COPY_OF_GPUS, STAGING,
    STAGING_ON_GPU, ShareForm,
};
use crate::local::{Cost, MemoryKind};

/// What a path is carried by and costs, and what makes it possible.
pub(super) struct Availability {
    pub(super) medium: Option<Medium>,
    pub(super) cost: Cost,
    pub(super) why: Cow<'static, str>,
}

/// Why a path is not there.
pub(super) struct Missing {
    pub(super) refusal: Refusal,
    pub(super) reason: Cow<'static, str>,
}

type CheckResult = Result<Availability, Missing>;

fn missing(reason: impl Into<Cow<'static, str>>) -> Missing {
    Missing { refusal: Refusal::Missing, reason: reason.into() }
}

/// The path is not one between memories like these.
fn not_applicable(reason: &'static str) -> Missing {
    Missing { refusal: Refusal::Inapplicable, reason: reason.into() }
}

fn available(medium: Option<Medium>, cost: Cost, why: impl Into<Cow<'static, str>>) -> CheckResult {
    Ok(Availability { medium, cost, why: why.into() })
}

/// Everything that the facts are judged by.
pub(super) struct Check<'a> {
    pub(super) query: &'a PathQuery,
    pub(super) here: &'a LocalFacts,
    pub(super) peer: &'a PeerFacts,
    pub(super) costs: &'a PathCosts,
}

impl Check<'_> {
    pub(super) fn check(&self, kind: PathKind) -> CheckResult {
        if !matches!(kind, PathKind::SameProcessCopy | PathKind::Local(_))
            && self.query.offered.ours
        {
            return Err(not_applicable("both sides are memory of this process"));
        }
        if self.query.is_read_only && self.query.operation == OperationKind::Read {
            return Err(missing("the driver lets the GPU only read the local memory"));
        }
        match kind {
            PathKind::SameProcessCopy => self.same_process_copy(),
            PathKind::Local(_) => self.local(),
            PathKind::CudaIpc => self.cuda_ipc(),
            PathKind::SharedMemory => self.shared_memory(),
            PathKind::StagedOnGpu => self.staged_on_gpu(),
            PathKind::GpuDirect => self.gpu_direct(),
            PathKind::Direct => self.direct(),
            PathKind::StagedOneSide => self.staged_one_side(),
            PathKind::StagedBothSides => self.staged_both_sides(),
            PathKind::EngineStaged => self.engine_staged(),
            _ => Err(missing("the planner does not know this kind of path")),
        }
    }

    fn same_process_copy(&self) -> CheckResult {
        if !self.query.offered.ours {
            return Err(not_applicable("the peer is another process"));
        }
        if !self.all_host() {
            return Err(not_applicable("the processor cannot reach GPU memory"));
        }
        available(None, self.costs.memcpy, "both sides are host memory of this process")
    }

    fn local(&self) -> CheckResult {
        if !self.query.offered.ours {
            return Err(not_applicable("the peer is another process"));
        }
        if self.all_host() {
            return Err(not_applicable("no GPU takes part"));
        }
        for ordinal in [self.local_ordinal(), self.remote_ordinal()].into_iter().flatten() {
            if self.here.gpu(ordinal).is_none() {
                return Err(missing(self.no_gpu(ordinal)));
            }
        }
        available(None, self.costs.local, "both sides are memory of this process")
    }

    fn cuda_ipc(&self) -> CheckResult {
        let theirs = match (self.remote_ordinal(), self.query.local) {
            (Some(theirs), _) => Some(theirs),
            (None, MemoryKind::Gpu(_)) if self.query.remote.is_host() => None,
            _ => {
                return Err(not_applicable(
                    "there is no memory of a CUDA GPU that the other could reach",
                ));
            }
        };
        self.opens_handles()?;
        let Some(theirs) = theirs else { return self.remote_copy() };
        if self.query.offered.share != Some(ShareForm::CudaIpc) {
            return self.remote_copy_of_gpus(theirs);
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

    /// Whether each side opens handles of CUDA IPC that the other names.
    fn opens_handles(&self) -> Result<(), Missing> {
        self.same_host()?;
        self.same_pid_namespace()?;
        if self.peer.locality.process {
            return Err(missing(
                "the peer is in this very process, which cannot open its own handles",
            ));
        }
        match self.peer.locality.ipc_namespace {
            Some(true) => {}
            Some(false) => return Err(missing("separate IPC namespaces")),
            None => return Err(missing("whether both are in one IPC namespace is not known")),
        }
        if !self.here.ucx.cuda_ipc {
            return Err(missing("UCX_TLS allows no cuda_ipc"));
        }
        match &self.here.cuda {
            Ok(()) => Ok(()),
            Err(why) => Err(missing(why.clone())),
        }
    }

    /// GPU memory of this side and host memory of the peer, whose GPU copies.
    fn remote_copy(&self) -> CheckResult {
        if let MemoryKind::Gpu(ours) = self.query.local {
            self.local_gpu(ours)?;
        }
        if let Export::Without(kind) = self.query.export {
            return Err(missing(format!(
                "no other process can open the memory of this side: {kind}"
            )));
        }
        self.copies_for_others()?;
        if self.peer.gpus.is_empty() {
            return Err(missing("the peer has no GPU that could copy"));
        }
        available(Some(Medium::Gpu), self.costs.ipc_remote_copy, "the peer's GPU copies")
    }

    /// GPU memory of the peer that no other process can open, and GPU memory of this side that the peer can.
    fn remote_copy_of_gpus(&self, theirs: u32) -> CheckResult {
        if !self.peer.ipc {
            return Err(missing("the peer shares no GPU memory"));
        }
        let MemoryKind::Gpu(ours) = self.query.local else {
            return Err(missing("no other process can open the peer's memory"));
        };
        self.exported()?;
        self.copies_for_others()?;
        if self.peer.versions.remote_copy() < REMOTE_COPY_OF_GPUS {
            return Err(missing(
                "no other process can open the peer's memory, and the peer's release copies for others to and from host memory alone",
            ));
        }
        let medium = Some(Medium::Gpu);
        match self.gpus(ours, self.peer.gpu(theirs))? {
            Link::Same => available(
                medium,
                self.costs.remote_copy_same_gpu,
                "the peer copies; both are on one GPU",
            ),
            Link::Reach => {
                available(medium, self.costs.remote_copy_other_gpu, "the peer's GPU copies")
            }
            Link::Unknown => available(
                medium,
                self.costs.remote_copy_other_gpu,
                "the peer's GPU copies; it is not visible here, and unproven",
            ),
        }
    }

    /// Whether the peer can open the memory of this side, where it is asked to since the peer's own cannot be opened.
    fn exported(&self) -> Result<(), Missing> {
        const NEITHER: &str = "no other process can open the memory of either side";
        match self.query.export {
            Export::ByHandle => Ok(()),
            Export::Without(kind) => Err(missing(format!("{NEITHER}: this side's is {kind}"))),
            Export::Unknown => Err(missing(NEITHER)),
        }
    }

    fn copies_for_others(&self) -> Result<(), Missing> {
        if !(self.peer.ipc && self.peer.staging) {
            return Err(missing("the peer does not say that its GPU copies for others"));
        }
        // The metadata's name of these messages.
        supports_version("remote copies", self.peer.versions.remote_copy(), REMOTE_COPY)
    }

    fn shared_memory(&self) -> CheckResult {
        if !self.query.remote.is_host() {
            return Err(not_applicable("the peer's memory is not host memory"));
        }
        self.same_host()?;
        self.opens_files()?;
        if self.peer.locality.process {
            return Err(missing(
                "the peer is in this very process, whose memory is not opened again",
            ));
        }
        if !self.here.ucx.shared_memory {
            return Err(missing("UCX_TLS allows no shared memory"));
        }
        if self.query.offered.share != Some(ShareForm::File) {
            return Err(missing("the peer did not share this memory"));
        }
        let medium = Some(Medium::SharedMemory);
        match self.query.local {
            MemoryKind::Gpu(ours) => {
                self.local_gpu(ours)?;
                available(
                    medium,
                    self.costs.shared_to_gpu,
                    "the GPU copies, through pinned slots; the memory is mapped here",
                )
            }
            _ => available(medium, self.costs.shared_to_host, "the peer's memory is mapped here"),
        }
    }

    /// A bounce through slots on the GPU that has the bytes.
    fn staged_on_gpu(&self) -> CheckResult {
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
            Export::ByHandle | Export::Unknown => {
                available(Some(Medium::Gpu), cost, format!("{bounce}; {way}"))
            }
        }
    }

    fn gpu_direct(&self) -> CheckResult {
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

    fn direct(&self) -> CheckResult {
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

    fn staged_one_side(&self) -> CheckResult {
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

    fn staged_both_sides(&self) -> CheckResult {
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

    fn engine_staged(&self) -> CheckResult {
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
    fn engine_medium(&self) -> Result<Option<Medium>, Missing> {
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

    fn staged(&self) -> Result<(Option<Medium>, Cost), Missing> {
        let medium = self.engine_medium()?;
        let cost = match medium {
            Some(Medium::SharedMemory) => self.costs.staged_shared,
            Some(Medium::Rdma) => self.costs.staged_rdma,
            _ => self.costs.staged_tcp,
        };
        Ok((medium, cost))
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

    fn same_host(&self) -> Result<(), Missing> {
        match self.peer.locality.host {
            Some(true) => Ok(()),
            Some(false) => Err(missing("the peer runs on another host")),
            None => Err(missing("whether the peer runs on this host is not known")),
        }
    }

    fn same_pid_namespace(&self) -> Result<(), Missing> {
        match self.peer.locality.pid_namespace {
            Some(true) => Ok(()),
            Some(false) => Err(missing("separate PID namespaces")),
            None => Err(missing("whether both are in one PID namespace is not known")),
        }
    }

    /// Whether this process can open files of the peer: by its number, or through a rendezvous.
    fn opens_files(&self) -> Result<(), Missing> {
        match (self.peer.locality.pid_namespace, self.query.offered.rendezvous) {
            (Some(false), RendezvousState::Connected) => Ok(()),
            (Some(false), RendezvousState::Absent) => Err(missing(
                "separate PID namespaces, and the peer is not met in the rendezvous folder of this process",
            )),
            (Some(false), _) => Err(missing(
                "separate PID namespaces; a rendezvous folder that both see would help (PathExecutor::rendezvous)",
            )),
            _ => self.same_pid_namespace(),
        }
    }

    fn local_gpu(&self, ordinal: u32) -> Result<&LocalGpu, Missing> {
        self.here.gpu(ordinal).ok_or_else(|| missing(self.no_gpu(ordinal)))
    }

    fn no_gpu(&self, ordinal: u32) -> String {
        format!("there is no cuda:{ordinal} here: {} GPUs are there", self.here.gpus.len())
    }

    fn gpus(&self, ours: u32, theirs: Option<&PeerGpu>) -> Result<Link, Missing> {
        let here = self.local_gpu(ours)?;
        let Some(uuid) = theirs.and_then(|gpu| gpu.uuid) else {
            return Ok(Link::Unknown);
        };
        if here.uuid == Some(uuid) {
            return Ok(Link::Same);
        }
        // CUDA maps memory of GPUs that `CUDA_VISIBLE_DEVICES` hides, too. Whether they reach each other shows then.
        let Some(seen) = self.here.gpu_with(uuid) else { return Ok(Link::Unknown) };
        if self.here.reach(ours, seen.ordinal) {
            return Ok(Link::Reach);
        }
        let short: String = uuid.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Err(missing(format!("cuda:{ours} has no P2P access to the peer's GPU {short}…")))
    }

    fn all_host(&self) -> bool {
        self.query.local.is_host() && self.query.remote.is_host()
    }

    fn local_ordinal(&self) -> Option<u32> {
        match self.query.local {
            MemoryKind::Gpu(ordinal) => Some(ordinal),
            _ => None,
        }
    }

    fn remote_ordinal(&self) -> Option<u32> {
        cuda(self.query.remote)
    }
}

/// Whether a peer that speaks version `theirs` of some messages understands this release's. Each release speaks its own version
/// and those before, and is understood by the next.
fn supports_version(messages: &str, theirs: u16, ours: u16) -> Result<(), Missing> {
    match (1..=ours + 1).contains(&theirs) {
        true => Ok(()),
        false => Err(missing(format!(
            "the peer speaks version {theirs} of {messages} messages, and this release version {ours}"
        ))),
    }
}

/// The way between a GPU here and one of the peer's.
enum Link {
    Same,
    Reach,
    /// The peer's GPU is not among those that this process sees.
    Unknown,
}

fn cuda(device: Device) -> Option<u32> {
    (device.kind() == DeviceKind::Cuda).then(|| device.index())
}

//! Facts about the two sides of an operation, as plain data.

use std::borrow::Cow;

use nixl_descriptor::{PiecesHandle, RendezvousState};
use nixl_metadata::{HostIdentity, MessageVersions, PeerInfo, RdmaMetadata, Share, ShareKind};
use nixl_ops::Medium;

use super::UcxTransports;
use crate::local::GpuCapabilities;

/// Availability, or the missing condition.
pub(crate) type Fact = Result<(), Cow<'static, str>>;

/// Facts of this process. [`discover`](Self::discover) finds them; the default is an unknown machine without GPUs.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalFacts {
    /// Host and namespaces of this process. `None` if unknown.
    pub(crate) host: Option<HostIdentity>,
    /// The transports that `UCX_TLS` allows.
    pub(crate) ucx: UcxTransports,
    /// A usable NIC of this process.
    pub(crate) rdma: Fact,
    /// CUDA.
    pub(crate) cuda: Fact,
    /// The GPUs, by ordinal.
    pub(crate) gpus: Vec<LocalGpu>,
    /// Pairs of ordinals, the smaller first, whose GPUs reach each other's memory over NVLink or PCIe.
    pub(crate) peer_access: Vec<(u32, u32)>,
}

/// A GPU of this process.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalGpu {
    /// Its ordinal here.
    pub(crate) ordinal: u32,
    /// The GPU's identity in every process. `None` if the driver does not report it.
    pub(crate) uuid: Option<[u8; 16]>,
    /// A NIC that reaches its memory by the static facts. Only use proves it.
    pub(crate) gpu_direct: Fact,
}

impl LocalGpu {
    /// A GPU without further facts.
    #[must_use]
    pub fn new(ordinal: u32) -> Self {
        Self { ordinal, uuid: None, gpu_direct: Err("its NICs are unknown".into()) }
    }
}

impl Default for LocalFacts {
    fn default() -> Self {
        Self {
            host: None,
            ucx: UcxTransports::ALL,
            rdma: Err(NO_NIC.into()),
            cuda: Err("this process has no CUDA".into()),
            gpus: Vec::new(),
            peer_access: Vec::new(),
        }
    }
}

pub(super) const NO_NIC: &str = "no RDMA NIC on this host";

impl LocalFacts {
    /// The same process with the GPUs of these capabilities instead of the machine's, for simulated ones. GPUs of one ordinal
    /// are the same GPU in all processes of the machine.
    #[must_use]
    pub fn with_simulated_gpus(mut self, capabilities: &GpuCapabilities) -> Self {
        let gpu = |ordinal: u32| {
            let uuid =
                (u128::from_be_bytes(*b"simulated GPU   ") + u128::from(ordinal)).to_be_bytes();
            LocalGpu { uuid: Some(uuid), ..LocalGpu::new(ordinal) }
        };
        self.gpus = (0..capabilities.gpus).map(gpu).collect();
        self.peer_access.clone_from(&capabilities.peers);
        self.cuda = Ok(());
        self
    }

    /// The identity of this host. `None` if unknown.
    #[must_use]
    pub fn host(&self) -> Option<&HostIdentity> {
        self.host.as_ref()
    }

    /// The GPU of this ordinal.
    #[must_use]
    pub fn gpu(&self, ordinal: u32) -> Option<&LocalGpu> {
        self.gpus.iter().find(|gpu| gpu.ordinal == ordinal)
    }

    /// The GPU of this UUID.
    #[must_use]
    pub fn gpu_with(&self, uuid: [u8; 16]) -> Option<&LocalGpu> {
        self.gpus.iter().find(|gpu| gpu.uuid == Some(uuid))
    }

    /// Whether two GPUs reach each other's memory.
    #[must_use]
    pub fn reach(&self, a: u32, b: u32) -> bool {
        a == b || self.peer_access.contains(&(a.min(b), a.max(b)))
    }
}

/// The locality of the other side. `None` is unknown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Locality {
    /// On one host.
    pub(crate) host: Option<bool>,
    /// In one PID namespace of it.
    pub(crate) pid_namespace: Option<bool>,
    /// In one IPC namespace of it.
    pub(crate) ipc_namespace: Option<bool>,
    /// In one process, as far as known.
    pub(crate) process: bool,
}

impl Locality {
    /// The locality of two processes.
    #[must_use]
    pub(crate) fn between(a: &HostIdentity, b: &HostIdentity) -> Self {
        let host = a.boot_id().zip(b.boot_id()).map(|(a, b)| a == b);
        let namespace = |one, other| match host {
            // Inode numbers are meaningless beyond one boot.
            Some(true) => Option::zip(one, other).map(|(a, b)| a == b),
            other => other,
        };
        Self {
            host,
            pid_namespace: namespace(a.pid_namespace(), b.pid_namespace()),
            ipc_namespace: namespace(a.ipc_namespace(), b.ipc_namespace()),
            process: a.same_process(b),
        }
    }
}

/// Facts that a peer reports of itself. A wrong one costs time but no safety, with one exception: GPU memory that a peer may
/// open is in use until the peer's process ends, and only the peer knows which process that is.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerFacts {
    /// Whether it reports facts: Dynamo's profile has none.
    pub(crate) native: bool,
    /// Its locality.
    pub(crate) locality: Locality,
    /// It takes part in staged transfers.
    pub(crate) staging: bool,
    /// It shares GPU memory.
    pub(crate) ipc: bool,
    /// The versions of its messages.
    pub(crate) versions: MessageVersions,
    /// The media that can carry bytes to it. `None` if not reported; this side's media are assumed.
    pub(crate) media: Option<PeerMedia>,
    /// Its GPUs.
    pub(crate) gpus: Vec<PeerGpu>,
}

/// The media that can carry bytes to a peer, as reported by it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct PeerMedia {
    /// Memory of its host.
    pub(crate) shared_memory: bool,
    /// A NIC.
    pub(crate) rdma: bool,
    /// Sockets.
    pub(crate) tcp: bool,
}

/// A GPU of a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerGpu {
    /// Its ordinal there.
    pub(crate) ordinal: u32,
    /// The GPU's identity. `None` if unknown.
    pub(crate) uuid: Option<[u8; 16]>,
    /// A NIC of the peer reaches its memory, as the peer reports.
    pub(crate) gpu_direct: bool,
}

impl PeerFacts {
    /// A peer without facts, as in Dynamo's profile.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            native: false,
            locality: Locality::default(),
            staging: false,
            versions: MessageVersions::default(),
            ipc: false,
            media: None,
            gpus: Vec::new(),
        }
    }

    /// A peer's description of itself, reduced to the facts that hold for this process.
    #[must_use]
    pub fn new(info: &PeerInfo, here: &LocalFacts) -> Self {
        let says = |medium: Medium| info.transports().iter().any(|t| *t == medium.to_string());
        let media = PeerMedia {
            shared_memory: says(Medium::SharedMemory),
            rdma: says(Medium::Rdma),
            tcp: says(Medium::Tcp),
        };
        let gpus = info.devices().iter().map(|device| PeerGpu {
            ordinal: device.device().index(),
            uuid: device.uuid(),
            gpu_direct: device.gpu_direct(),
        });
        Self {
            native: true,
            locality: here
                .host
                .as_ref()
                .map_or_else(Locality::default, |host| Locality::between(host, info.host())),
            staging: info.capabilities().staging(),
            versions: info.versions(),
            ipc: info.capabilities().ipc(),
            media: (media != PeerMedia::default()).then_some(media),
            gpus: gpus.collect(),
        }
    }

    /// The peer's GPU of this number.
    #[must_use]
    pub fn gpu(&self, ordinal: u32) -> Option<&PeerGpu> {
        self.gpus.iter().find(|gpu| gpu.ordinal == ordinal)
    }
}

/// The engine, which moves bytes that the executor does not.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "the rules of an engine are known here or not")]
pub enum Engine {
    /// UCX, for example inside NIXL: its medium is inferred.
    Ucx,
    /// UCX with an estimate of the connection to this peer that is no better than sockets.
    UcxBySockets,
    /// An unknown engine.
    Other,
}

impl Engine {
    /// The engine of a [transport's name](nixl_ops::Transport::name).
    #[must_use]
    pub fn of(transport: &str) -> Self {
        if transport.ends_with("/UCX") { Self::Ucx } else { Self::Other }
    }

    pub(crate) fn is_ucx(self) -> bool {
        self != Self::Other
    }
}

/// Facts of the offer.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct OfferFacts {
    /// The offer is of this process.
    pub(crate) ours: bool,
    /// The way for another process to open all of its memory, if any.
    pub(crate) share: Option<ShareForm>,
    /// The state of the rendezvous with a peer in another PID namespace.
    pub(crate) rendezvous: RendezvousState,
}

impl OfferFacts {
    /// An offer of this process.
    #[must_use]
    pub fn by_this_process() -> Self {
        Self { ours: true, ..Self::default() }
    }

    /// An offer of a peer. Its shares count if they cover all descriptors, and are all of host memory or all of GPUs.
    #[must_use]
    pub fn by_a_peer(remote: &RdmaMetadata) -> Self {
        let form = |share: &Share| match share.kind() {
            ShareKind::CudaIpc { handle } => Some(match PiecesHandle::from_bytes(handle) {
                None => ShareForm::CudaIpc,
                Some(_) => ShareForm::Pieces,
            }),
            ShareKind::File { .. } => Some(ShareForm::File),
            _ => None,
        };
        let shares = remote.shares();
        // Shares do not overlap, so one for each descriptor covers all.
        let covered: usize = shares.iter().map(|share| share.descriptors().len()).sum();
        let all = covered == remote.descriptors().len();
        let mut forms = shares.iter().map(form);
        let first = forms.next().flatten().filter(|_| all);
        let share = forms.try_fold(first, |before, form| match (before?, form?) {
            (before, form) if before == form => Some(Some(form)),
            (ShareForm::File, _) | (_, ShareForm::File) => None,
            _ => Some(Some(ShareForm::Mixed)),
        });
        Self { share: share.flatten(), ..Self::default() }
    }

    /// The same, with the state of the rendezvous with the peer.
    pub(crate) fn with_rendezvous(self, rendezvous: RendezvousState) -> Self {
        Self { rendezvous, ..self }
    }
}

impl ShareForm {
    /// Whether it is GPU memory.
    pub(crate) fn is_of_gpus(self) -> bool {
        self != Self::File
    }
}

/// The form of shared memory.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub(crate) enum ShareForm {
    /// GPU memory by handles of CUDA IPC.
    CudaIpc,
    /// GPU memory by the descriptors of its pieces.
    Pieces,
    /// GPU memory, some of each.
    Mixed,
    /// Host memory by open files.
    File,
}

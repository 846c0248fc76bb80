//! Facts about the two sides of an operation, as plain data.

use std::borrow::Cow;

use nixl_metadata::{HostIdentity, MessageVersions, PeerInfo, RdmaMetadata, Share, ShareKind};
use nixl_ops::Medium;

use super::UcxTransports;
use crate::local::GpuCapabilities;

/// That something is there, or what is missing.
pub type Fact = Result<(), Cow<'static, str>>;

/// What this process knows of itself. [`discover`](Self::discover) finds it; the default is a machine of which nothing
/// is known, without GPUs.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalFacts {
    /// Where this process runs. `None` if that could not be told.
    pub(crate) host: Option<HostIdentity>,
    /// What `UCX_TLS` allows.
    pub(crate) ucx: UcxTransports,
    /// A NIC that this process can use.
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
    /// Its number here.
    pub(crate) ordinal: u32,
    /// Identifies the GPU in every process. `None` if the driver does not tell.
    pub(crate) uuid: Option<[u8; 16]>,
    /// A NIC that reaches its memory, as far as the static facts say. Only use proves it.
    pub(crate) gpu_direct: Fact,
}

impl LocalGpu {
    /// A GPU of which no more is known.
    #[must_use]
    pub fn new(ordinal: u32) -> Self {
        Self { ordinal, uuid: None, gpu_direct: Err("nothing is known of its NICs".into()) }
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
    /// The same process, with the GPUs of these capabilities instead of the machine's: for simulated ones. Those
    /// of one number are the same GPU in all processes of the machine.
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

    /// The identity of this host. `None` if it is not known.
    #[must_use]
    pub fn host(&self) -> Option<&HostIdentity> {
        self.host.as_ref()
    }

    /// The GPU of this number.
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

/// How near the other side is. `None` is unknown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Locality {
    /// On one host.
    pub(crate) host: Option<bool>,
    /// In one PID namespace of it.
    pub(crate) pid_namespace: Option<bool>,
    /// In one IPC namespace of it.
    pub(crate) ipc_namespace: Option<bool>,
    /// In one process, as far as that is known.
    pub(crate) process: bool,
}

impl Locality {
    /// How near two processes are.
    #[must_use]
    pub fn between(a: &HostIdentity, b: &HostIdentity) -> Self {
        let host = a.boot_id().zip(b.boot_id()).map(|(a, b)| a == b);
        let namespace = |one, other| match host {
            // The numbers of inodes mean nothing beyond one boot.
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

/// What is known of a peer: what it says of itself. If that is wrong it costs time, but no safety, with one exception: GPU
/// memory that a peer may open is the peer's until its process ends, and which process that is only the peer knows.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerFacts {
    /// Whether it said anything: with Dynamo's profile it does not.
    pub(crate) native: bool,
    /// How near it is.
    pub(crate) locality: Locality,
    /// It takes part in staged transfers.
    pub(crate) staging: bool,
    /// It shares GPU memory.
    pub(crate) ipc: bool,
    /// The versions of the messages that it speaks.
    pub(crate) versions: MessageVersions,
    /// What can carry bytes to it. `None` if it does not say; then it is taken to have what this side has.
    pub(crate) media: Option<PeerMedia>,
    /// Its GPUs.
    pub(crate) gpus: Vec<PeerGpu>,
}

/// The media that can carry bytes to a peer, by its own description.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PeerMedia {
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
    /// Its number there.
    pub(crate) ordinal: u32,
    /// Which GPU it is. `None` if that is not known.
    pub(crate) uuid: Option<[u8; 16]>,
    /// A NIC of the peer reaches its memory, the peer says.
    pub(crate) gpu_direct: bool,
}

impl PeerFacts {
    /// A peer that says nothing of itself, as in Dynamo's profile.
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

    /// A peer's description of itself, as far as it holds for this process.
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

/// What moves the bytes where the executor does not.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "either its rules are known here or not")]
pub enum Engine {
    /// UCX, for instance inside NIXL: what carries its bytes is inferred.
    Ucx,
    /// The same, and it expects no more of the way to this peer than of sockets.
    UcxBySockets,
    /// Another, of which nothing is known.
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

/// What came with the offer.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct OfferFacts {
    /// The offer is one of this process.
    pub(crate) ours: bool,
    /// How all of its memory can be opened by another process, if it can.
    pub(crate) share: Option<ShareForm>,
}

impl OfferFacts {
    /// An offer of this process.
    #[must_use]
    pub fn by_this_process() -> Self {
        Self { ours: true, share: None }
    }

    /// An offer of a peer. Its shares count if they cover all descriptors and are of one form.
    #[must_use]
    pub fn by_a_peer(remote: &RdmaMetadata) -> Self {
        let form = |share: &Share| match share.kind() {
            ShareKind::CudaIpc { .. } => Some(ShareForm::CudaIpc),
            ShareKind::File { .. } => Some(ShareForm::File),
            _ => None,
        };
        let shares = remote.shares();
        // They do not overlap, so as many as there are descriptors are all.
        let covered: usize = shares.iter().map(|share| share.descriptors().len()).sum();
        let share = shares.first().and_then(form).filter(|first| {
            covered == remote.descriptors().len() && shares.iter().all(|s| form(s) == Some(*first))
        });
        Self { ours: false, share }
    }
}

/// How memory is shared.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum ShareForm {
    /// GPU memory by handles of CUDA IPC.
    CudaIpc,
    /// Host memory by open files.
    File,
}

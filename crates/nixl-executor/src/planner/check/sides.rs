//! Conditions on the two sides: host, namespaces, GPUs.

use nixl_descriptor::RendezvousState;
use nixl_device::{Device, DeviceKind};

use super::{Check, Missing, missing};
use crate::facts::{LocalGpu, PeerGpu};
use crate::local::MemoryKind;

impl Check<'_> {
    pub(super) fn same_host(&self) -> Result<(), Missing> {
        match self.peer.locality.host {
            Some(true) => Ok(()),
            Some(false) => Err(missing("the peer runs on another host")),
            None => Err(missing("whether the peer runs on this host is not known")),
        }
    }

    pub(super) fn same_pid_namespace(&self) -> Result<(), Missing> {
        match self.peer.locality.pid_namespace {
            Some(true) => Ok(()),
            Some(false) => Err(missing("separate PID namespaces")),
            None => Err(missing("whether both are in one PID namespace is not known")),
        }
    }

    /// Whether this process can open files of the peer: by its number, or through a rendezvous.
    pub(super) fn opens_files(&self) -> Result<(), Missing> {
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

    pub(super) fn local_gpu(&self, ordinal: u32) -> Result<&LocalGpu, Missing> {
        self.here.gpu(ordinal).ok_or_else(|| missing(self.no_gpu(ordinal)))
    }

    pub(super) fn no_gpu(&self, ordinal: u32) -> String {
        format!("there is no cuda:{ordinal} here: {} GPUs are there", self.here.gpus.len())
    }

    pub(super) fn gpus(&self, ours: u32, theirs: Option<&PeerGpu>) -> Result<Link, Missing> {
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

    pub(super) fn all_host(&self) -> bool {
        self.query.local.is_host() && self.query.remote.is_host()
    }

    pub(super) fn local_ordinal(&self) -> Option<u32> {
        match self.query.local {
            MemoryKind::Gpu(ordinal) => Some(ordinal),
            _ => None,
        }
    }

    pub(super) fn remote_ordinal(&self) -> Option<u32> {
        cuda(self.query.remote)
    }
}

/// The way between a GPU here and one of the peer's.
pub(super) enum Link {
    Same,
    Reach,
    /// The peer's GPU is not among those that this process sees.
    Unknown,
}

fn cuda(device: Device) -> Option<u32> {
    (device.kind() == DeviceKind::Cuda).then(|| device.index())
}

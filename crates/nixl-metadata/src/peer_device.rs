//! A device of a peer.

use nixl_device::Device;

/// A CUDA device of a peer: its number there, which device that is, and whether the peer's NICs reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerDevice {
    ordinal: u32,
    uuid: [u8; 16],
    gpu_direct: bool,
}

impl PeerDevice {
    /// The peer's CUDA device with this ordinal, of which no more is known yet.
    #[must_use]
    pub const fn cuda(ordinal: u32) -> Self {
        Self { ordinal, uuid: [0; 16], gpu_direct: false }
    }

    /// Sets the device's UUID, by which other processes of the host know it; all zero if unknown.
    #[must_use]
    pub const fn with_uuid(mut self, uuid: [u8; 16]) -> Self {
        self.uuid = uuid;
        self
    }

    /// Sets whether an RDMA NIC of the peer reaches the device's memory.
    #[must_use]
    pub const fn with_gpu_direct(mut self, gpu_direct: bool) -> Self {
        self.gpu_direct = gpu_direct;
        self
    }

    /// The device, in the peer's numbering.
    #[must_use]
    pub const fn device(&self) -> Device {
        Device::cuda(self.ordinal)
    }

    /// The device's UUID, if known.
    #[must_use]
    pub fn uuid(&self) -> Option<[u8; 16]> {
        (self.uuid != [0; 16]).then_some(self.uuid)
    }

    /// Whether an RDMA NIC of the peer reaches the device's memory, by its own statement.
    #[must_use]
    pub const fn gpu_direct(&self) -> bool {
        self.gpu_direct
    }
}

//! GPU Direct support of each device and each NIC, with reasons.
//!
//! These are preconditions. That a transfer really takes the direct path, only a transfer can prove.

use serde::Serialize;

use super::device::{CudaDevice, RDMA_WITH_VIRTUAL_MEMORY};
use crate::system::Topology;
use crate::system::gpu_direct::{GpuDirect, NvidiaDriverFlavor, PeerMemoryProvider};
use crate::system::node::NodeAccess;
use crate::system::pci::Distance;
use crate::system::{DmaBufSupport, RdmaNic};

/// A device's attributes for GPU Direct, by the driver. `None` where the driver has no such attribute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GpuDirectAttributes {
    rdma: Option<bool>,
    rdma_with_virtual_memory: Option<bool>,
    flush_writes: Option<u32>,
    writes_ordering: Option<i32>,
    dma_buf: Option<bool>,
}

impl GpuDirectAttributes {
    pub(super) fn read(attribute: impl Fn(i32) -> Option<i32>) -> Self {
        let flag = |which| attribute(which).map(|value| value != 0);
        Self {
            rdma: flag(116),
            rdma_with_virtual_memory: flag(RDMA_WITH_VIRTUAL_MEMORY),
            flush_writes: attribute(117).and_then(|bits| u32::try_from(bits).ok()),
            writes_ordering: attribute(118),
            dma_buf: flag(124),
        }
    }

    /// Memory can be registered with a NIC through a peer memory module (attribute 116).
    #[must_use]
    pub fn rdma(&self) -> Option<bool> {
        self.rdma
    }

    /// The same for memory made with CUDA's virtual memory calls (attribute 110).
    #[must_use]
    pub fn rdma_with_virtual_memory(&self) -> Option<bool> {
        self.rdma_with_virtual_memory
    }

    /// Which calls flush what a NIC wrote, as a set of bits: 1 the host's call, 2 memory operations of streams
    /// (attribute 117).
    #[must_use]
    pub fn flush_writes(&self) -> Option<u32> {
        self.flush_writes
    }

    /// The observers for which writes of a NIC are in order without a flush: 0 none, 100 the device itself, 200 all devices
    /// (attribute 118).
    #[must_use]
    pub fn writes_ordering(&self) -> Option<i32> {
        self.writes_ordering
    }

    /// Memory can be exported as a DMA-BUF (attribute 124).
    #[must_use]
    pub fn dma_buf(&self) -> Option<bool> {
        self.dma_buf
    }
}

/// Whether something can work, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GpuDirectSupport {
    /// No fact rules it out.
    Possible {
        /// What it builds on.
        reason: String,
    },
    /// It cannot work here.
    Impossible {
        /// What is missing.
        reason: String,
    },
    /// It may or may not.
    Unknown {
        /// What is not known.
        reason: String,
    },
}

impl GpuDirectSupport {
    fn possible(reason: impl Into<String>) -> Self {
        Self::Possible { reason: reason.into() }
    }

    fn impossible(reason: impl Into<String>) -> Self {
        Self::Impossible { reason: reason.into() }
    }

    fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown { reason: reason.into() }
    }

    /// Whether no fact rules it out.
    #[must_use]
    pub const fn is_possible(&self) -> bool {
        matches!(self, Self::Possible { .. })
    }
}

/// A device and a NIC: how far apart they are, and which ways of GPU Direct RDMA there are between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NicLink {
    gpu: u32,
    nic: String,
    distance: Option<Distance>,
    rdma_by_peer_memory: GpuDirectSupport,
    rdma_by_dma_buf: GpuDirectSupport,
}

impl NicLink {
    /// Ordinal of the device.
    #[must_use]
    pub fn gpu(&self) -> u32 {
        self.gpu
    }

    /// Name of the NIC.
    #[must_use]
    pub fn nic(&self) -> &str {
        &self.nic
    }

    /// What their traffic crosses. `None` if either has no known place on the PCI bus.
    #[must_use]
    pub fn distance(&self) -> Option<Distance> {
        self.distance
    }

    /// Registering device memory by its address, through a peer memory module.
    #[must_use]
    pub fn rdma_by_peer_memory(&self) -> &GpuDirectSupport {
        &self.rdma_by_peer_memory
    }

    /// Registering device memory as a DMA-BUF.
    #[must_use]
    pub fn rdma_by_dma_buf(&self) -> &GpuDirectSupport {
        &self.rdma_by_dma_buf
    }
}

/// What a device offers without a NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LocalGpuDirect {
    gpu: u32,
    gdrcopy: GpuDirectSupport,
    storage: GpuDirectSupport,
}

impl LocalGpuDirect {
    /// Ordinal of the device.
    #[must_use]
    pub fn gpu(&self) -> u32 {
        self.gpu
    }

    /// GDRCopy: the processor reads and writes device memory at low latency.
    #[must_use]
    pub fn gdrcopy(&self) -> &GpuDirectSupport {
        &self.gdrcopy
    }

    /// GPU Direct Storage: files are read into device memory without the host.
    #[must_use]
    pub fn storage(&self) -> &GpuDirectSupport {
        &self.storage
    }
}

/// Every pair of a device and a NIC, nearest NIC first for each device.
#[must_use]
pub fn nic_links(devices: &[CudaDevice], topology: &Topology) -> Vec<NicLink> {
    let mut all = Vec::new();
    for device in devices {
        let mut links: Vec<_> = topology
            .nics
            .iter()
            .map(|nic| NicLink {
                gpu: device.ordinal,
                nic: nic.name.clone(),
                distance: distance(device, nic, topology),
                rdma_by_peer_memory: by_peer_memory(device, nic, &topology.gpu_direct),
                rdma_by_dma_buf: by_dma_buf(device, nic, &topology.gpu_direct),
            })
            .collect();
        // An unknown distance is no reason to prefer a NIC.
        links.sort_by_key(|link| (link.distance.is_none(), link.distance));
        all.append(&mut links);
    }
    all
}

/// What each device offers without a NIC.
#[must_use]
pub fn local_gpu_direct(devices: &[CudaDevice], topology: &Topology) -> Vec<LocalGpuDirect> {
    devices
        .iter()
        .map(|device| LocalGpuDirect {
            gpu: device.ordinal,
            gdrcopy: gdrcopy(device, &topology.gpu_direct),
            storage: storage(&topology.gpu_direct),
        })
        .collect()
}

fn distance(device: &CudaDevice, nic: &RdmaNic, topology: &Topology) -> Option<Distance> {
    let gpu = topology.gpus.iter().find(|gpu| Some(gpu.address) == device.pci)?;
    Some(gpu.distance(nic.pci.as_ref()?))
}

fn by_peer_memory(device: &CudaDevice, nic: &RdmaNic, kernel: &GpuDirect) -> GpuDirectSupport {
    if nic.pci.is_none() {
        return GpuDirectSupport::impossible(format!(
            "{} is made of software, which cannot reach device memory",
            nic.name
        ));
    }
    if device.gpu_direct.rdma == Some(false) {
        return GpuDirectSupport::impossible(
            "the device does not support GPU Direct RDMA (attribute 116)",
        );
    }
    let serves = |provider| match provider {
        // Made for one kind of NIC.
        PeerMemoryProvider::EfaNvPeermem => {
            nic.name.starts_with("efa") || nic.name.starts_with("rdmap")
        }
        PeerMemoryProvider::NvMem
        | PeerMemoryProvider::NvidiaPeermem
        | PeerMemoryProvider::NvPeerMem => true,
    };
    let Some(module) = kernel.peer_memory.iter().find(|module| serves(module.provider)) else {
        return GpuDirectSupport::impossible(
            "no peer memory module is loaded; load nvidia_peermem, or use DMA-BUF",
        );
    };
    let module = match module.provider {
        PeerMemoryProvider::NvMem => "the peer memory client nv_mem",
        PeerMemoryProvider::NvidiaPeermem => "nvidia_peermem",
        PeerMemoryProvider::NvPeerMem => "nv_peer_mem",
        PeerMemoryProvider::EfaNvPeermem => "efa_nv_peermem",
    };
    match device.gpu_direct.rdma {
        Some(true) => {
            GpuDirectSupport::possible(format!("{module} is loaded, and the device supports it"))
        }
        _ => GpuDirectSupport::unknown(format!(
            "{module} is loaded, but the driver does not say whether the device supports it"
        )),
    }
}

fn by_dma_buf(device: &CudaDevice, nic: &RdmaNic, kernel: &GpuDirect) -> GpuDirectSupport {
    if let DmaBufSupport::Unsupported { reason } = &nic.dma_buf {
        return GpuDirectSupport::impossible(format!("{}: {reason}", nic.name));
    }
    match device.gpu_direct.dma_buf {
        Some(true) => {}
        Some(false) => {
            let flavor = kernel.nvidia_driver.as_ref().and_then(|driver| driver.flavor);
            return GpuDirectSupport::impossible(match flavor {
                Some(NvidiaDriverFlavor::Proprietary) => {
                    "the device cannot export a DMA-BUF (attribute 124): that needs NVIDIA's open \
                     kernel modules, and the proprietary one is loaded"
                }
                _ => "the device cannot export a DMA-BUF (attribute 124)",
            });
        }
        None => {
            return GpuDirectSupport::unknown(
                "the driver is too old to know DMA-BUF (attribute 124)",
            );
        }
    }
    match &nic.dma_buf {
        DmaBufSupport::Unknown { reason } => {
            GpuDirectSupport::unknown(format!("the device can; {}: {reason}", nic.name))
        }
        DmaBufSupport::Unsupported { reason } => GpuDirectSupport::impossible(reason.clone()),
    }
}

fn gdrcopy(device: &CudaDevice, kernel: &GpuDirect) -> GpuDirectSupport {
    let Some(module) = &kernel.gdrcopy else {
        return GpuDirectSupport::impossible("gdrdrv is not loaded");
    };
    match module.access {
        NodeAccess::Missing => {
            GpuDirectSupport::impossible("gdrdrv is loaded, but there is no /dev/gdrdrv here")
        }
        NodeAccess::Denied => GpuDirectSupport::impossible("this process may not open /dev/gdrdrv"),
        NodeAccess::Granted => match device.gpu_direct.rdma {
            Some(false) => {
                GpuDirectSupport::impossible("the device does not support it (attribute 116)")
            }
            Some(true) => {
                GpuDirectSupport::possible("gdrdrv is loaded, and the device supports it")
            }
            None => {
                GpuDirectSupport::unknown("the driver does not say whether the device supports it")
            }
        },
    }
}

fn storage(kernel: &GpuDirect) -> GpuDirectSupport {
    match kernel.nvidia_fs {
        Some(_) => GpuDirectSupport::possible("nvidia_fs is loaded"),
        None => GpuDirectSupport::impossible(
            "nvidia_fs is not loaded; cuFile falls back to copies through host memory",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::device::describe_all;
    use super::super::fake::Fake;
    use super::*;

    fn file(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A machine with modules by name, one NIC made of software, and the fake devices.
    fn machine(modules: &[&str], attributes: GpuDirectAttributes) -> (Vec<CudaDevice>, Topology) {
        let root = tempfile::tempdir().unwrap();
        for module in modules {
            file(root.path(), &format!("sys/module/{module}/version"), "1.0");
        }
        file(root.path(), "sys/class/infiniband/rxe0/ports/1/state", "4: ACTIVE");
        let topology = Topology::discover_in(root.path());
        let mut devices = describe_all(Fake::new().driver(), &topology).unwrap();
        for device in &mut devices {
            device.gpu_direct = attributes;
        }
        (devices, topology)
    }

    fn able() -> GpuDirectAttributes {
        GpuDirectAttributes::read(|_| Some(1))
    }

    #[test]
    fn attributes_have_their_numbers() {
        let read = GpuDirectAttributes::read(|which| match which {
            110 | 116 => Some(1),
            117 => Some(3),
            118 => Some(200),
            124 => Some(0),
            _ => None,
        });
        assert_eq!(
            read,
            GpuDirectAttributes {
                rdma: Some(true),
                rdma_with_virtual_memory: Some(true),
                flush_writes: Some(3),
                writes_ordering: Some(200),
                dma_buf: Some(false),
            }
        );
        assert_eq!(GpuDirectAttributes::read(|_| None), GpuDirectAttributes::default());
    }

    #[test]
    fn every_pair_has_a_verdict_with_a_reason() {
        let (devices, topology) = machine(&["nvidia_peermem"], able());
        let links = nic_links(&devices, &topology);
        assert_eq!(links.len(), 2);
        for link in links {
            assert_eq!((link.nic.as_str(), link.distance), ("rxe0", None));
            assert!(
                matches!(&link.rdma_by_peer_memory, GpuDirectSupport::Impossible { reason } if reason.contains("software")),
                "{link:?}"
            );
        }
    }

    #[test]
    fn peer_memory_needs_a_module_and_a_device() {
        let (devices, mut topology) = machine(&["nvidia_peermem"], able());
        let mut nic = topology.nics.remove(0);
        nic.pci = Some(crate::PciFunction {
            address: "0000:03:00.0".parse().unwrap(),
            host_bridge: "pci0000:00".to_owned(),
            bridges: Vec::new(),
            numa_node: None,
            vendor: None,
            device: None,
            class: None,
            driver: None,
            link: crate::PcieLink { speed_mt_s: None, lanes: None },
            max_link: crate::PcieLink { speed_mt_s: None, lanes: None },
        });
        let mut device = devices[0].clone();
        assert!(by_peer_memory(&device, &nic, &topology.gpu_direct).is_possible());
        device.gpu_direct.rdma = None;
        assert!(matches!(
            by_peer_memory(&device, &nic, &topology.gpu_direct),
            GpuDirectSupport::Unknown { .. }
        ));
        device.gpu_direct.rdma = Some(false);
        assert!(matches!(
            by_peer_memory(&device, &nic, &topology.gpu_direct),
            GpuDirectSupport::Impossible { .. }
        ));
        device.gpu_direct.rdma = Some(true);
        topology.gpu_direct.peer_memory.clear();
        assert!(matches!(
            by_peer_memory(&device, &nic, &topology.gpu_direct),
            GpuDirectSupport::Impossible { .. }
        ));
    }

    #[test]
    fn a_device_that_cannot_export_is_never_possible_by_dma_buf() {
        let (mut devices, topology) = machine(&[], able());
        let nic = &topology.nics[0];
        for dma_buf in [Some(false), None, Some(true)] {
            devices[0].gpu_direct.dma_buf = dma_buf;
            let verdict = by_dma_buf(&devices[0], nic, &topology.gpu_direct);
            assert!(!verdict.is_possible(), "{dma_buf:?}: {verdict:?}");
        }
    }

    #[test]
    fn local_ways_need_their_modules() {
        let (devices, topology) = machine(&["nvidia_fs", "gdrdrv"], able());
        let local = &local_gpu_direct(&devices, &topology)[0];
        assert!(local.storage.is_possible());
        assert!(
            matches!(&local.gdrcopy, GpuDirectSupport::Impossible { reason } if reason.contains("/dev/gdrdrv")),
            "{local:?}"
        );
        let (devices, topology) = machine(&[], able());
        let local = &local_gpu_direct(&devices, &topology)[1];
        assert!(!local.storage.is_possible() && !local.gdrcopy.is_possible());
    }
}

//! Kernel modules and devices for moving GPU memory without the processor.

use serde::Serialize;

use super::node::{NodeAccess, node_access};
use super::pci::PciFunction;
use super::tree::Tree;

/// The kernel's side of GPU Direct: which modules are loaded.
///
/// These are preconditions. That a transfer really takes the direct path, only a transfer can prove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuDirect {
    pub(crate) nvidia_driver: Option<NvidiaDriver>,
    pub(crate) peer_memory: Vec<PeerMemory>,
    pub(crate) gdrcopy: Option<GdrCopy>,
    pub(crate) nvidia_fs: Option<ModuleVersion>,
}

impl GpuDirect {
    /// The loaded NVIDIA driver. `None` if there is none.
    #[must_use]
    pub fn nvidia_driver(&self) -> Option<&NvidiaDriver> {
        self.nvidia_driver.as_ref()
    }

    /// The modules that let NICs register GPU memory by its address. GPU Direct RDMA needs one of them, or DMA-BUF
    /// on both sides ([`NvidiaDriver::flavor`], [`RdmaNic::dma_buf`](crate::RdmaNic::dma_buf)).
    #[must_use]
    pub fn peer_memory(&self) -> &[PeerMemory] {
        &self.peer_memory
    }

    /// GDRCopy, with which the processor reads and writes GPU memory at low latency. `None` if `gdrdrv` is not
    /// loaded.
    #[must_use]
    pub fn gdrcopy(&self) -> Option<&GdrCopy> {
        self.gdrcopy.as_ref()
    }

    /// The version of `nvidia_fs`, which GPU Direct Storage uses. `None` if it is not loaded.
    #[must_use]
    pub fn nvidia_fs(&self) -> Option<&ModuleVersion> {
        self.nvidia_fs.as_ref()
    }
}

/// The loaded NVIDIA driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NvidiaDriver {
    version: ModuleVersion,
    pub(crate) flavor: Option<NvidiaDriverFlavor>,
}

impl NvidiaDriver {
    /// Its version.
    #[must_use]
    pub fn version(&self) -> &ModuleVersion {
        &self.version
    }

    /// Open or proprietary. `None` if `/proc/driver/nvidia/version` does not state it.
    #[must_use]
    pub fn flavor(&self) -> Option<NvidiaDriverFlavor> {
        self.flavor
    }
}

/// Which of NVIDIA's two kernel drivers is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NvidiaDriverFlavor {
    /// The open kernel modules, which can export GPU memory as a DMA-BUF.
    Open,
    /// The proprietary module, which cannot.
    Proprietary,
}

/// The version of a kernel module that is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ModuleVersion {
    /// As the module states it.
    Known(String),
    /// It does not say.
    Unknown,
}

/// A way to register GPU memory by address that is in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerMemory {
    pub(crate) provider: PeerMemoryProvider,
    version: ModuleVersion,
}

impl PeerMemory {
    /// Who provides it.
    #[must_use]
    pub fn provider(&self) -> PeerMemoryProvider {
        self.provider
    }

    /// The provider's version.
    #[must_use]
    pub fn version(&self) -> &ModuleVersion {
        &self.version
    }
}

/// Who lets NICs register GPU memory by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PeerMemoryProvider {
    /// A client that the peer memory interface of MLNX_OFED lists as `nv_mem`.
    NvMem,
    /// The module `nvidia_peermem` of the NVIDIA driver.
    NvidiaPeermem,
    /// The older module `nv_peer_mem`.
    NvPeerMem,
    /// The module `efa_nv_peermem`, for AWS EFA only.
    EfaNvPeermem,
}

/// GDRCopy's kernel module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GdrCopy {
    version: ModuleVersion,
    pub(crate) access: NodeAccess,
}

impl GdrCopy {
    /// Its version.
    #[must_use]
    pub fn version(&self) -> &ModuleVersion {
        &self.version
    }

    /// Whether this process can open `/dev/gdrdrv`.
    #[must_use]
    pub fn access(&self) -> NodeAccess {
        self.access
    }
}

pub(crate) fn read_gpu_direct(tree: &Tree) -> GpuDirect {
    const PROVIDERS: [(PeerMemoryProvider, &str); 4] = [
        (PeerMemoryProvider::NvMem, "sys/kernel/mm/memory_peers/nv_mem"),
        (PeerMemoryProvider::NvidiaPeermem, "sys/module/nvidia_peermem"),
        (PeerMemoryProvider::NvPeerMem, "sys/module/nv_peer_mem"),
        (PeerMemoryProvider::EfaNvPeermem, "sys/module/efa_nv_peermem"),
    ];
    GpuDirect {
        nvidia_driver: module(tree, "sys/module/nvidia").map(|version| NvidiaDriver {
            version,
            flavor: tree.text("proc/driver/nvidia/version").as_deref().and_then(parse_flavor),
        }),
        peer_memory: PROVIDERS
            .iter()
            .filter_map(|&(provider, folder)| {
                module(tree, folder).map(|version| PeerMemory { provider, version })
            })
            .collect(),
        gdrcopy: module(tree, "sys/module/gdrdrv")
            .map(|version| GdrCopy { version, access: node_access(tree, "dev/gdrdrv") }),
        nvidia_fs: module(tree, "sys/module/nvidia_fs"),
    }
}

/// The version of a module, if its folder is there: not every module has a version.
fn module(tree: &Tree, folder: &str) -> Option<ModuleVersion> {
    if !tree.exists(folder) {
        return None;
    }
    Some(match tree.text(&format!("{folder}/version")) {
        Some(version) => ModuleVersion::Known(version),
        None => ModuleVersion::Unknown,
    })
}

/// The first line is `NVIDIA UNIX Open Kernel Module for x86_64` or `NVIDIA UNIX x86_64 Kernel Module`.
fn parse_flavor(text: &str) -> Option<NvidiaDriverFlavor> {
    let line = text.lines().find(|line| line.starts_with("NVRM version:"))?;
    Some(if line.contains("Open Kernel Module") {
        NvidiaDriverFlavor::Open
    } else {
        NvidiaDriverFlavor::Proprietary
    })
}

/// NVIDIA's display and 3D controllers on the PCI bus, ascending by address, with or without a driver.
pub(crate) fn read_gpus(tree: &Tree, only_node: Option<u32>) -> Vec<PciFunction> {
    const FOLDER: &str = "sys/bus/pci/devices";
    const NVIDIA: &str = "0x10de";
    // Class and subclass; the programming interface follows.
    const DISPLAY: [&str; 2] = ["0x0300", "0x0302"];
    let mut gpus: Vec<PciFunction> = tree
        .names(FOLDER)
        .iter()
        .map(|name| format!("{FOLDER}/{name}"))
        .filter(|link| {
            let has = |file: &str, prefixes: &[&str]| {
                tree.optional_text(&format!("{link}/{file}"))
                    .is_some_and(|text| prefixes.iter().any(|prefix| text.starts_with(prefix)))
            };
            has("vendor", &[NVIDIA]) && has("class", &DISPLAY)
        })
        .filter_map(|link| {
            let gpu = PciFunction::read(tree, &link, only_node);
            if gpu.is_none() {
                tree.note(&link, "is a GPU, but not below a PCI host bridge");
            }
            gpu
        })
        .collect();
    gpus.sort_by_key(|gpu| gpu.address);
    gpus
}

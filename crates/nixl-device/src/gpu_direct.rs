//! Kernel modules and devices for moving GPU memory without the processor.

use serde::Serialize;

use crate::node::{NodeAccess, node_access};
use crate::pci::PciFunction;
use crate::tree::Tree;

/// The kernel's side of GPU Direct: which modules are loaded.
///
/// These are preconditions. That a transfer really takes the direct path, only a transfer can prove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GpuDirect {
    /// The loaded NVIDIA driver. `None` if there is none.
    pub nvidia_driver: Option<NvidiaDriver>,
    /// The modules that let NICs register GPU memory by its address. GPU Direct RDMA needs one of them, or DMA-BUF
    /// on both sides ([`NvidiaDriver::flavor`], [`RdmaNic::dma_buf`](crate::RdmaNic::dma_buf)).
    pub peer_memory: Vec<PeerMemory>,
    /// GDRCopy, with which the processor reads and writes GPU memory at low latency. `None` if `gdrdrv` is not
    /// loaded.
    pub gdrcopy: Option<GdrCopy>,
    /// The version of `nvidia_fs`, which GPU Direct Storage uses. `None` if it is not loaded.
    pub nvidia_fs: Option<ModuleVersion>,
}

/// The loaded NVIDIA driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NvidiaDriver {
    /// Its version.
    pub version: ModuleVersion,
    /// Open or proprietary. `None` if `/proc/driver/nvidia/version` does not tell.
    pub flavor: Option<NvidiaDriverFlavor>,
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
    /// As the module says.
    Known(String),
    /// It does not say.
    Unknown,
}

/// A way to register GPU memory by address that is in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PeerMemory {
    /// Who provides it.
    pub provider: PeerMemoryProvider,
    /// The provider's version.
    pub version: ModuleVersion,
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
#[non_exhaustive]
pub struct GdrCopy {
    /// Its version.
    pub version: ModuleVersion,
    /// Whether this process can open `/dev/gdrdrv`.
    pub access: NodeAccess,
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

/// The first line says `NVIDIA UNIX Open Kernel Module for x86_64` or `NVIDIA UNIX x86_64 Kernel Module`.
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

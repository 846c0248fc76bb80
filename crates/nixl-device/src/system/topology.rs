//! The topology of the machine.

use std::path::Path;

use serde::Serialize;

use super::gpu_direct::{GpuDirect, read_gpu_direct, read_gpus};
use super::host::{MachineIdentity, MemlockLimit, read_identity, read_memlock};
use super::nic::{RdmaNic, read_nics};
use super::numa::{NumaNode, read_nodes};
use super::pci::PciFunction;
use super::tree::{Note, Tree};

/// The memories and links of this machine, as `/sys`, `/proc` and `/dev` describe them.
///
/// A snapshot: ports go up and down, modules are loaded. It serialises for people and tools to read.
///
/// ```
/// use nixl_device::Topology;
///
/// let topology = Topology::discover();
/// for gpu in topology.gpus() {
///     let nearest = topology
///         .nics()
///         .iter()
///         .filter_map(|nic| Some((gpu.distance(nic.pci()?), nic.name())))
///         .min();
///     println!("{}: {nearest:?}", gpu.address());
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Topology {
    host: MachineIdentity,
    numa_nodes: Vec<NumaNode>,
    pub(crate) nics: Vec<RdmaNic>,
    pub(crate) gpus: Vec<PciFunction>,
    pub(crate) gpu_direct: GpuDirect,
    memlock: Option<MemlockLimit>,
    notes: Vec<Note>,
}

impl Topology {
    /// Discovers this machine.
    ///
    /// Reads some hundred small files, which takes milliseconds; call it off async threads. Never fails: what cannot
    /// be read is absent, with a note in [`notes`](Self::notes).
    #[must_use]
    pub fn discover() -> Self {
        Self::discover_in(Path::new("/"))
    }

    /// Discovers the machine whose `sys`, `proc` and `dev` lie below `root`, as [`discover`](Self::discover) does.
    ///
    /// `root` may be a copy from another machine or made up for a test. Links must stay below it.
    #[must_use]
    pub fn discover_in(root: &Path) -> Self {
        let tree = Tree::new(root);
        let host = read_identity(&tree);
        let numa_nodes = read_nodes(&tree);
        let only_node = match numa_nodes.as_slice() {
            [node] => Some(node.id),
            _ => None,
        };
        Self {
            nics: read_nics(&tree, host.kernel.as_deref(), only_node),
            gpus: read_gpus(&tree, only_node),
            gpu_direct: read_gpu_direct(&tree),
            memlock: read_memlock(&tree),
            host,
            numa_nodes,
            notes: tree.into_notes(),
        }
    }

    /// Which machine this is.
    #[must_use]
    pub fn host(&self) -> &MachineIdentity {
        &self.host
    }

    /// The NUMA nodes, ascending. Empty if the kernel does not know of any.
    #[must_use]
    pub fn numa_nodes(&self) -> &[NumaNode] {
        &self.numa_nodes
    }

    /// The RDMA NICs, in natural order of their names.
    #[must_use]
    pub fn nics(&self) -> &[RdmaNic] {
        &self.nics
    }

    /// NVIDIA's GPUs, ascending by PCI address. They need no driver to be here, and being here does not make them
    /// usable: see `cuda::probe`. CUDA may count them in another order.
    #[must_use]
    pub fn gpus(&self) -> &[PciFunction] {
        &self.gpus
    }

    /// The kernel's side of GPU Direct.
    #[must_use]
    pub fn gpu_direct(&self) -> &GpuDirect {
        &self.gpu_direct
    }

    /// How much memory this process may lock. `None` if that could not be read.
    #[must_use]
    pub fn memlock(&self) -> Option<MemlockLimit> {
        self.memlock
    }

    /// What could not be read or understood. What is merely not there takes no note.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }
}

//! Discovery of a machine's memories and links, without verbs or NIXL; and CUDA memory.
//!
//! - [`Device`] names a memory: the host's, or that of an accelerator.
//! - [`Topology`] is what the file system tells: NUMA nodes, RDMA NICs, GPUs, how far apart they are, and what there is
//!   for GPU Direct.
//! - [`cuda`] is CUDA: whether it can be used, on any machine and without a panic; devices, memory, streams and copies.
//!
//! ```
//! use nixl_device::{Device, Topology, cuda};
//!
//! assert_eq!("gpu:1".parse(), Ok(Device::cuda(1)));
//!
//! let topology = Topology::discover();
//! println!("{} NUMA nodes, {} RDMA NICs", topology.numa_nodes().len(), topology.nics().len());
//! match cuda::probe() {
//!     Ok(driver) => println!("{} CUDA devices", driver.device_count()),
//!     Err(reason) => println!("no CUDA: {reason}"),
//! }
//! ```

pub mod cuda;

mod device;
mod gpu_direct;
mod host;
mod interfaces;
mod nic;
mod node;
mod numa;
mod pci;
mod process;
mod sockets;
mod topology;
mod tree;

pub use device::{Device, DeviceKind, ParseDeviceError};
pub use gpu_direct::{
    GdrCopy, GpuDirect, ModuleVersion, NvidiaDriver, NvidiaDriverFlavor, PeerMemory,
    PeerMemoryProvider,
};
pub use host::{Limit, MachineIdentity, MemlockLimit};
pub use interfaces::{InterfaceReach, NetworkInterface};
pub use nic::{DmaBufSupport, LinkLayer, PortState, RdmaNic, RdmaPort, VerbsDevice};
pub use node::NodeAccess;
pub use numa::NumaNode;
pub use pci::{Distance, ParsePciAddressError, PciAddress, PciFunction, PcieLink};
pub use process::{
    ExitWatch, FileIdentity, ForkGeneration, Holders, LeakInChild, PerProcess, ProcessError,
    ProcessExits, ProcessIdentity, ProcessWatch, memfd_holders, proc_is_of_this_namespace,
};
pub use sockets::{SocketsError, TcpSocket, TcpState, is_this_host, tcp_gives_up_after};
pub use topology::Topology;
pub use tree::Note;

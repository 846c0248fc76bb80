//! Facts of the operating system: topology, NICs, sockets and processes.

pub(crate) mod gpu_direct;
pub(crate) mod node;
pub(crate) mod numa;
pub(crate) mod pci;
pub(crate) mod process;
pub(crate) mod tree;

mod host;
mod interfaces;
mod limits;
mod nic;
mod random;
mod sharing;
mod sockets;
mod threads;
mod topology;

pub use gpu_direct::{
    GdrCopy, GpuDirect, ModuleVersion, NvidiaDriver, NvidiaDriverFlavor, PeerMemory,
    PeerMemoryProvider,
};
pub use host::{Limit, MachineIdentity, MemlockLimit};
pub use interfaces::{InterfaceReach, NetworkInterface};
pub use limits::ProcessLimit;
pub use nic::{DmaBufSupport, LinkLayer, PortState, RdmaNic, RdmaPort, VerbsDevice};
pub use node::NodeAccess;
pub use numa::NumaNode;
pub use pci::{Distance, ParsePciAddressError, PciAddress, PciFunction, PcieLink};
pub use process::{
    AtWork, ExitWatch, FileIdentity, ForkGeneration, Holders, LeakInChild, PerProcess,
    ProcessError, ProcessExits, ProcessIdentity, ProcessWatch, enter_libraries, is_in_libraries,
    memfd_holders, memfds_of, proc_is_of_this_namespace, was_forked_amid_libraries,
};
pub use random::fill_random;
pub use sharing::{has_system_v_memory, permits_cross_memory_attach, takes_shared_files};
pub use sockets::{SocketsError, TcpSocket, TcpState, is_this_host, tcp_gives_up_after};
pub use threads::named_thread;
pub use topology::Topology;
pub use tree::Note;

//! Discovery of a machine's memories and links, without verbs or NIXL; and CUDA memory.
//!
//! - [`Device`] names a memory: the host's, or that of an accelerator. It needs no feature.
#![cfg_attr(
    feature = "host",
    doc = "- [`Topology`] has the facts of the file system: NUMA nodes, RDMA NICs, GPUs, how far apart they are, and what there is\n  for GPU Direct. Feature `host`."
)]
#![cfg_attr(
    feature = "cuda",
    doc = "- [`cuda`] is CUDA: whether it can be used, on any machine and without a panic; devices, memory, streams and copies.\n  Feature `cuda`, which is on by default and has `host` with it."
)]
//!
#![cfg_attr(feature = "cuda", doc = "```")]
#![cfg_attr(not(feature = "cuda"), doc = "```ignore")]
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
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "cuda")]
pub mod cuda;

mod advice;
mod device;
#[doc(hidden)]
pub mod locks;
#[cfg(feature = "host")]
mod shared_error;
#[cfg(feature = "host")]
mod system;

pub use advice::Advice;
pub use device::{Device, DeviceKind, ParseDeviceError};
#[cfg(feature = "host")]
pub use shared_error::SharedError;
#[cfg(feature = "host")]
pub use system::*;

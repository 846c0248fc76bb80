//! Memory of simulated GPUs, which is that of this process.

use nixl_descriptor::Region;
use nixl_executor::{MemoryKind, SimulatedGpus};

use crate::common::Machine;

/// "GPU" memory refuses the host's copies, so these go by address.
impl Machine for SimulatedGpus {
    fn region(&self, kind: MemoryKind, len: usize) -> Region {
        self.region(kind, len).unwrap()
    }

    fn upload(&self, region: &Region, bytes: &[u8]) {
        assert_eq!(region.len(), bytes.len());
        // SAFETY: the region is a vector of this process, of this length, that no transfer uses now.
        unsafe { std::ptr::copy(bytes.as_ptr(), region.address() as *mut u8, bytes.len()) };
    }

    fn download(&self, region: &Region) -> Vec<u8> {
        // SAFETY: the region is a vector of this process, of this length, that no transfer uses now.
        unsafe { std::slice::from_raw_parts(region.address() as *const u8, region.len()) }.to_vec()
    }
}

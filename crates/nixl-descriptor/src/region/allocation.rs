//! The allocation under a region of GPU memory, looked up once.
#![allow(unsafe_code, reason = "an unsafe function, no block")]

use std::sync::Arc;

use super::Region;
use crate::gpu_allocation::GpuAllocation;
use crate::rendezvous::SharedPieces;

impl Region {
    /// The allocation that the memory lies in, if it is a GPU's and an executor has asked the driver for it.
    #[must_use]
    pub fn allocation(&self) -> Option<&GpuAllocation> {
        self.0.allocation.get().map(|looked_up| &looked_up.0)
    }

    /// The allocation that the memory lies in, as `look_up` finds it the first time; later calls cost a load. What is not found is
    /// looked up again by the next call. The region keeps what gives the memory to other processes in pieces.
    ///
    /// # Safety
    ///
    /// `look_up` returns the driver's attributes of the memory at the region's address: peers get its handle to open the memory
    /// by.
    pub unsafe fn allocation_or_look_up(
        &self,
        look_up: impl FnOnce() -> Option<(GpuAllocation, Option<Arc<SharedPieces>>)>,
    ) -> Option<&GpuAllocation> {
        if self.allocation().is_none() {
            let found = look_up()?;
            // If another thread was first, both have found the same.
            let _ = self.0.allocation.set(Box::new(found));
        }
        self.allocation()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu_allocation::AllocationKind;

    #[test]
    fn it_is_looked_up_until_it_is_found_and_then_shown() {
        let region = Region::zeroed(100).unwrap();
        let look_up = |found: Option<GpuAllocation>| {
            // SAFETY: peers learn of nothing here.
            unsafe { region.allocation_or_look_up(|| found.map(|found| (found, None))) }.copied()
        };
        assert_eq!(look_up(None), None);
        assert!(!format!("{region:?}").contains("allocation"));
        let found = GpuAllocation::new(AllocationKind::Pool, region.address(), 100);
        assert_eq!(look_up(Some(found)), Some(found));
        assert_eq!(look_up(None), Some(found), "it is kept");
        assert_eq!(region.clone().allocation(), Some(&found));
        assert!(format!("{region:?}").contains("kind: Pool"), "{region:?}");
    }
}

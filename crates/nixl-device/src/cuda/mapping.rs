//! Anonymous memory of the process, for pinning.

use std::ffi::c_void;
use std::io;
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Zeroed memory straight from the kernel, unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    /// With exposed provenance.
    address: usize,
    len: usize,
}

impl Mapping {
    /// `len` is not 0 and a multiple of the page size. Physical memory comes when a page is first touched.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let mapping = Self { address: start.expose_provenance(), len };
        mapping.advise();
        Ok(mapping)
    }

    /// Huge pages make touching and pinning faster; and a child process must not share pages that a device writes.
    /// Both are best effort: the kernel may have neither.
    #[cfg(target_os = "linux")]
    fn advise(&self) {
        use rustix::mm::{Advice, madvise};
        for advice in [Advice::LinuxHugepage, Advice::LinuxDontFork] {
            // SAFETY: the range is this mapping; neither advice changes its content.
            let _ = unsafe { madvise(self.start(), self.len, advice) };
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn advise(&self) {}

    pub(super) fn start(&self) -> *mut c_void {
        ptr::with_exposed_provenance_mut(self.address)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Touches every page of a range, which makes the kernel provide them near the calling thread.
    pub(super) fn touch(&self, range: std::ops::Range<usize>) {
        let end = range.end.min(self.len);
        for offset in (range.start..end).step_by(PAGE) {
            let byte = self.start().cast::<u8>().wrapping_add(offset);
            // SAFETY: inside the mapping, which has no other user yet; threads touch different ranges. The bytes are
            // zero already.
            unsafe { byte.write_volatile(0) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no pointer into it is used after its owner dropped it.
        // It can fail only for lack of kernel memory; then the memory stays mapped.
        let _ = unsafe { munmap(self.start(), self.len) };
    }
}

/// The smallest page that any supported system has. Touching a larger one several times is harmless.
const PAGE: usize = 4096;

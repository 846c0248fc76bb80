//! Bytes of memory, and their checksum.
#![allow(unsafe_code, reason = "reads memory by address")]

use std::ptr;

use nixl_descriptor::Descriptor;

/// Bytes of memory, as the kernel takes them (`iovec`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub(crate) struct Segment {
    pub(crate) address: usize,
    pub(crate) len: usize,
}

impl Segment {
    pub(super) fn of(descriptor: &Descriptor) -> Self {
        // Addresses of the host fit.
        let address = usize::try_from(descriptor.address()).unwrap_or(0);
        Self { address, len: descriptor.len() }
    }
}

/// Adds the first `bytes` bytes of segments, which an operation in flight leases, to a checksum.
///
/// Peers may change the memory meanwhile, so it is copied before it is summed, and no reference to it is made.
pub(super) fn sum(segments: &[Segment], bytes: u64, sum: &mut crc32fast::Hasher) {
    let (mut buffer, mut left) = ([0u8; 16 * 1024], usize::try_from(bytes).unwrap_or(usize::MAX));
    for segment in segments {
        let end = segment.address + segment.len.min(left);
        let mut at = segment.address;
        while at < end {
            let len = buffer.len().min(end - at);
            let source = ptr::with_exposed_provenance::<u8>(at);
            // SAFETY: the bytes are inside the segment, whose memory the operation that is answered leases and keeps allocated,
            // and the buffer has room for them.
            unsafe { ptr::copy_nonoverlapping(source, buffer.as_mut_ptr(), len) };
            sum.update(&buffer[..len]);
            at += len;
        }
        left -= segment.len.min(left);
    }
}

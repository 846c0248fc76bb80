//! Plain io_uring: one ring, used by the thread that waits.
#![allow(unsafe_code, reason = "the kernel reads and writes memory by address")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result, ensure};
use io_uring::{IoUring, opcode, squeue, types};
use nixl_descriptor::layout::Layout;
use nixl_executor::files::IoKind;

use super::calls::{Call, Segment};

/// A ring, and the memory that it knows.
pub(super) struct Ring {
    ring: IoUring,
    /// Registered, by their places.
    buffers: Vec<Segment>,
    _memory: Layout,
}

impl Ring {
    /// A ring on this thread; with registered memory and file if `fixed`.
    pub(super) fn new(fd: BorrowedFd<'_>, memory: &Layout, fixed: bool) -> Result<Self> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(256)?;
        let mut buffers = Vec::new();
        if fixed {
            let parts = memory.parts().iter();
            buffers.extend(
                parts.map(|part| Segment { address: part.address() as usize, len: part.len() }),
            );
            let vectors: Vec<_> = buffers
                .iter()
                .map(|part| libc::iovec { iov_base: part.address as *mut _, iov_len: part.len })
                .collect();
            // SAFETY: the layout owns the memory, and lives as long as the ring.
            unsafe { ring.submitter().register_buffers(&vectors) }
                .context("cannot register the memory (limit on locked memory?)")?;
            ring.submitter().register_files(&[fd.as_raw_fd()])?;
        }
        Ok(Self { ring, buffers, _memory: memory.clone() })
    }

    /// Carries out all calls, so many at a time.
    pub(super) fn run(
        &mut self,
        fd: BorrowedFd<'_>,
        kind: IoKind,
        calls: &[Call],
        depth: usize,
    ) -> Result<()> {
        let (mut begun, mut ended) = (0, 0);
        while ended < calls.len() {
            while begun < calls.len() && begun - ended < depth {
                let entry = self.entry(fd, kind, &calls[begun])?.user_data(begun as u64);
                // SAFETY: the kernel copies the segments when the call is submitted. The ring owns the memory, and is closed before
                // it is given back, also after an error.
                if unsafe { self.ring.submission().push(&entry) }.is_err() {
                    break;
                }
                begun += 1;
            }
            self.ring.submit_and_wait(1)?;
            for answer in self.ring.completion() {
                let len = calls[answer.user_data() as usize].len;
                let moved = usize::try_from(answer.result())
                    .map_err(|_| io::Error::from_raw_os_error(-answer.result()))?;
                ensure!(moved == len, "{moved} of {len} bytes were moved");
                ended += 1;
            }
        }
        Ok(())
    }

    fn entry(&self, fd: BorrowedFd<'_>, kind: IoKind, call: &Call) -> Result<squeue::Entry> {
        let offset = call.offset;
        if !self.buffers.is_empty() {
            let [one] = call.segments[..] else {
                anyhow::bail!("a registered call has one segment")
            };
            let is_in = |part: &Segment| {
                part.address <= one.address && one.address + one.len <= part.address + part.len
            };
            let index = self.buffers.iter().position(is_in).context("memory is not registered")?;
            let (address, len, index) = (one.address as *mut u8, one.len as u32, index as u16);
            return Ok(match kind {
                IoKind::Read => opcode::ReadFixed::new(types::Fixed(0), address, len, index)
                    .offset(offset)
                    .build(),
                _ => opcode::WriteFixed::new(types::Fixed(0), address, len, index)
                    .offset(offset)
                    .build(),
            });
        }
        let (fd, vectors) = (types::Fd(fd.as_raw_fd()), call.segments.as_ptr().cast());
        let count = call.segments.len() as u32;
        Ok(match kind {
            IoKind::Read => opcode::Readv::new(fd, vectors, count).offset(offset).build(),
            _ => opcode::Writev::new(fd, vectors, count).offset(offset).build(),
        })
    }
}

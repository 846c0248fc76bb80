//! Pinned host memory, which devices access at the full speed of the link.

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr;
use std::slice;
use std::sync::Arc;

use super::context::Context;
use super::mapping::Mapping;
use super::memory_error::{MemoryError, checked_len};
use super::pool::{Block, PooledBlock};
use super::registration::{register, unregister};
use super::uses::{Use, UseGuard, Uses};

/// Page-locked host memory near a device, freed (or given back to its [`PinnedPool`](super::PinnedPool)) when dropped.
///
/// All devices reach it, at the address that the host uses. It is ordinary cached memory, not write-combined, so the
/// host reads it at full speed too. Fresh memory is zero; memory of a pool has what was in it.
///
/// The host gets at the bytes by [`read`](Self::read) and [`write`](Self::write), which refuse bytes that a queued
/// [`Stream::copy`](super::Stream::copy) uses; or by [`as_slice`](Self::as_slice) while nothing shares the memory, so
/// that nothing can be queued.
#[derive(Debug)]
pub struct PinnedMemory {
    context: Context,
    address: usize,
    len: usize,
    numa_node: Option<u32>,
    uses: Arc<Uses>,
    _block: PooledBlock<PinnedBlock>,
}

/// Why the host could not read or write pinned memory. Nothing was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostAccessError {
    /// The range is not inside the memory.
    #[error("bytes {offset}..{offset}+{len} are not inside the {size} bytes there are")]
    OutOfBounds {
        /// First requested byte.
        offset: usize,
        /// Requested number of bytes.
        len: usize,
        /// Number of bytes there are.
        size: usize,
    },
    /// A queued copy, or another thread, uses some of the bytes. That a copy is done is noticed when its stream
    /// [reclaims](super::Stream::reclaim).
    #[error(
        "a copy in flight uses some of these bytes: wait until it is done, then reclaim or synchronize its stream"
    )]
    InUse,
}

impl PinnedMemory {
    /// Allocates `len` bytes on the NUMA node next to the context's device, if the system reports which that is.
    ///
    /// Blocks: below 16 MiB the driver takes about 0.4 ms for each MiB. From there on several threads prepare the
    /// memory, at about 40 ms for each GiB.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]: a request for no bytes, too little memory or too low a limit, or the driver's error.
    pub fn new(context: &Context, len: usize) -> Result<Self, MemoryError> {
        Ok(Self::from_block(PooledBlock::owned(PinnedBlock::new(context, len)?), len))
    }

    /// The first `len` bytes of a block, which has at least as many.
    pub(super) fn from_block(pooled: PooledBlock<PinnedBlock>, len: usize) -> Self {
        let block = pooled.block();
        Self {
            context: block.context,
            address: block.start().expose_provenance(),
            len,
            numa_node: block.context.placement().node,
            uses: Arc::default(),
            _block: pooled,
        }
    }

    /// Address of the first byte, for the host and all devices.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address as u64
    }

    /// Number of bytes, at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.len
    }

    /// The context whose device the memory is near.
    #[must_use]
    pub fn context(&self) -> Context {
        self.context
    }

    /// The NUMA node that the memory was requested from. `None` if the system does not report the nearest.
    #[must_use]
    pub fn numa_node(&self) -> Option<u32> {
        self.numa_node
    }

    /// Copies the bytes from `offset` on into `to`.
    ///
    /// # Errors
    ///
    /// [`HostAccessError`]
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), HostAccessError> {
        let _use = self.begin_host(offset, to.len(), Use::HostRead)?;
        // SAFETY: the range is inside the memory, and while `_use` lives nothing safe writes it. `to` is elsewhere.
        unsafe { ptr::copy_nonoverlapping(self.at(offset), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Copies `from` to the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`HostAccessError`]
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), HostAccessError> {
        let _use = self.begin_host(offset, from.len(), Use::HostWrite)?;
        // SAFETY: the range is inside the memory, and while `_use` lives nothing else safe uses it. `from` is
        // elsewhere.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.at(offset), from.len()) };
        Ok(())
    }

    /// The bytes, while nothing shares the memory: what is queued holds an [`Arc`] to it.
    #[must_use]
    pub fn as_slice(&mut self) -> &[u8] {
        self.as_mut_slice()
    }

    /// The bytes, while nothing shares the memory: what is queued holds an [`Arc`] to it.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the memory is this value's own and initialised. `&mut self` shows that there is no other handle to
        // it, so no safe copy is queued; unsafe ones promised not to overlap with other use.
        unsafe { slice::from_raw_parts_mut(self.at(0), self.len) }
    }

    /// Takes note that a queued copy uses bytes. `None` if the host does right now.
    pub(super) fn begin_device(&self, range: Range<usize>, kind: Use) -> Option<UseGuard> {
        self.uses.begin(range, kind)
    }

    fn begin_host(
        &self,
        offset: usize,
        len: usize,
        kind: Use,
    ) -> Result<UseGuard, HostAccessError> {
        let size = self.len;
        match offset.checked_add(len) {
            Some(end) if end <= size => {
                self.uses.begin(offset..end, kind).ok_or(HostAccessError::InUse)
            }
            _ => Err(HostAccessError::OutOfBounds { offset, len, size }),
        }
    }

    fn at(&self, offset: usize) -> *mut u8 {
        ptr::with_exposed_provenance_mut::<u8>(self.address).wrapping_add(offset)
    }
}

/// One allocation.
#[derive(Debug)]
pub(super) struct PinnedBlock {
    context: Context,
    len: usize,
    /// Taken when dropped.
    backing: ManuallyDrop<Backing>,
}

#[derive(Debug)]
enum Backing {
    /// Allocated by the driver; an address with exposed provenance.
    Driver(usize),
    /// Mapped here, then registered.
    Mapped(Mapping),
}

impl PinnedBlock {
    pub(super) fn new(context: &Context, len: usize) -> Result<Self, MemoryError> {
        /// From here on, touching with many threads and registering is faster than the driver's one thread: 1.3 ms
        /// against 5.3 ms for 16 MiB, 38 ms against 350 ms for 1 GiB (H200, PCIe 5, 32 cores, driver 580).
        const MAP_FROM: usize = 16 << 20;
        let len = checked_len(len)?;
        let backing = if len < MAP_FROM {
            context.placement().run(|| allocate(context, len))?
        } else {
            map(context, len)?
        };
        Ok(Self { context: *context, len, backing: ManuallyDrop::new(backing) })
    }

    fn start(&self) -> *mut c_void {
        match &*self.backing {
            Backing::Driver(address) => ptr::with_exposed_provenance_mut(*address),
            Backing::Mapped(mapping) => mapping.start(),
        }
    }
}

/// Lets the driver allocate. Its memory comes to lie near the calling thread.
fn allocate(context: &Context, len: usize) -> Result<Backing, MemoryError> {
    /// Pinned for all devices, not for the context's alone.
    const PORTABLE: u32 = 1;
    let mut start = ptr::null_mut();
    // SAFETY: the pointer is to a live variable, written during the call only.
    let allocated = context.call("cuMemHostAlloc", |api| unsafe {
        (api.mem_host_alloc)(&raw mut start, len, PORTABLE)
    });
    allocated.map_err(|error| MemoryError::pinned(len, error))?;
    // SAFETY: the memory was just allocated with this length, and has no other user. The driver may have had it in
    // use before, so zero is not a matter of course.
    unsafe { start.cast::<u8>().write_bytes(0, len) };
    Ok(Backing::Driver(start.expose_provenance()))
}

/// Maps, touches with many threads, then pins.
fn map(context: &Context, len: usize) -> Result<Backing, MemoryError> {
    const HUGE_PAGE: usize = 2 << 20;
    /// 1 GiB takes 136 ms with one thread, 28 with 8, 19 with 16 and 16 with 32.
    const MAX_THREADS: usize = 16;
    let Some(rounded) = len.checked_next_multiple_of(HUGE_PAGE) else {
        return Err(MemoryError::TooLarge { len });
    };
    let mapping = Mapping::new(rounded)
        .map_err(|error| MemoryError::OutOfPinnedMemory { len, error: error.into() })?;
    context.placement().run_pieces(mapping.len(), HUGE_PAGE, MAX_THREADS, |range| {
        mapping.touch(range);
    });
    // SAFETY: the mapping is alive, and its drop unregisters first.
    unsafe { register(context, mapping.start(), mapping.len()) }?;
    Ok(Backing::Mapped(mapping))
}

impl Block for PinnedBlock {
    fn len(&self) -> usize {
        self.len
    }

    fn is_usable(&self) -> bool {
        self.context.health().is_ok()
    }
}

impl Drop for PinnedBlock {
    fn drop(&mut self) {
        // SAFETY: dropped once, and `backing` is not used again.
        match unsafe { ManuallyDrop::take(&mut self.backing) } {
            Backing::Driver(address) => self.context.release("cuMemFreeHost", move |api| {
                // SAFETY: nothing else frees it, and callers that queued work on it kept it until the device had passed.
                unsafe { (api.mem_free_host)(ptr::with_exposed_provenance_mut(address)) }
            }),
            Backing::Mapped(mapping) => {
                unregister(self.context, mapping.start().expose_provenance(), mapping);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    #[test]
    fn small_memory_is_the_drivers_and_large_memory_is_registered() {
        let fake = Fake::new();
        let context = fake.context(0);
        for (len, allocate, free) in [
            (4097, "cuMemHostAlloc", "cuMemFreeHost"),
            (16 << 20, "cuMemHostRegister", "cuMemHostUnregister"),
        ] {
            let mut memory = PinnedMemory::new(&context, len).unwrap();
            assert_eq!((fake.count(allocate), fake.count(free)), (1, 0));
            assert_eq!(memory.len(), len);
            assert!(memory.as_slice().iter().all(|&byte| byte == 0));
            memory.as_mut_slice()[len - 1] = 7;
            let mut last = [0];
            memory.read(len - 1, &mut last).unwrap();
            assert_eq!(last, [7]);
            drop(memory);
            assert_eq!((fake.count(allocate), fake.count(free)), (1, 1));
        }
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_pinned_is_a_specific_error_and_leaves_nothing() {
        let fake = Fake::new();
        let context = fake.context(0);
        for (len, call) in [(4096, "cuMemHostAlloc"), (16 << 20, "cuMemHostRegister")] {
            for code in [2, 304] {
                fake.fail(call, code, 1);
                let error = PinnedMemory::new(&context, len).unwrap_err();
                assert!(matches!(error, MemoryError::OutOfPinnedMemory { .. }), "{error}");
            }
        }
        assert_eq!(PinnedMemory::new(&context, 0).err(), Some(MemoryError::Empty));
        assert_eq!(fake.live_bytes(), 0);
        assert_eq!(context.leaked(), 0);
    }

    #[test]
    fn the_host_stays_inside() {
        let fake = Fake::new();
        let memory = PinnedMemory::new(&fake.context(0), 8).unwrap();
        memory.write(2, &[1, 2, 3]).unwrap();
        let mut all = [9; 8];
        memory.read(0, &mut all).unwrap();
        assert_eq!(all, [0, 0, 1, 2, 3, 0, 0, 0]);
        for (offset, len) in [(0, 9), (8, 1), (9, 0), (usize::MAX, 2)] {
            let expected = Err(HostAccessError::OutOfBounds { offset, len, size: 8 });
            assert_eq!(memory.write(offset, &vec![0; len]), expected);
            assert_eq!(memory.read(offset, &mut vec![0; len]), expected);
        }
        assert_eq!(memory.write(8, &[]), Ok(()));
    }

    #[test]
    fn memory_that_cannot_be_unpinned_stays_mapped() {
        let fake = Fake::new();
        let context = fake.context(0);
        let memory = PinnedMemory::new(&context, 16 << 20).unwrap();
        let address = memory.address() as usize;
        fake.fail("cuMemHostUnregister", 999, 1);
        drop(memory);
        assert_eq!(context.leaked(), 1);
        // SAFETY: still mapped, which is what this shows.
        let byte = unsafe { ptr::with_exposed_provenance::<u8>(address).read_volatile() };
        assert_eq!(byte, 0);
    }
}

//! Copies that are sound in safe code: the stream keeps both memories until the device has passed.

use std::ops::Range;
use std::sync::Arc;

use super::device_memory::DeviceMemory;
use super::error::CudaError;
use super::ipc::ImportedMemory;
use super::pinned::PinnedMemory;
use super::registration::HostRegistration;
use super::stream::Stream;
use super::uses::{Use, UseGuard};

/// Memory that a stream can copy from and to. A handle, free to clone.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Buffer {
    /// Memory of a device.
    Device(Arc<DeviceMemory>),
    /// Pinned host memory.
    Pinned(Arc<PinnedMemory>),
    /// Host memory that was pinned where it is.
    Registered(Arc<HostRegistration<Vec<u8>>>),
    /// Device memory of another process.
    Imported(Arc<ImportedMemory>),
}

impl Buffer {
    /// Address of the first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        match self {
            Self::Device(memory) => memory.address(),
            Self::Pinned(memory) => memory.address(),
            Self::Registered(memory) => memory.address(),
            Self::Imported(memory) => memory.address(),
        }
    }

    /// Number of bytes, at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        match self {
            Self::Device(memory) => memory.len(),
            Self::Pinned(memory) => memory.len(),
            Self::Registered(memory) => memory.len(),
            Self::Imported(memory) => memory.len(),
        }
    }

    fn range(&self, offset: usize, len: usize) -> Result<Range<usize>, CopyError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => Ok(offset..end),
            _ => Err(CopyError::OutOfBounds { offset, len, size: self.len() }),
        }
    }

    /// Only memory that the host can reach meanwhile needs a note of its use.
    fn begin(&self, range: Range<usize>, kind: Use) -> Result<Option<UseGuard>, CopyError> {
        match self {
            Self::Pinned(memory) => {
                memory.begin_device(range, kind).map(Some).ok_or(CopyError::InUse)
            }
            Self::Device(_) | Self::Registered(_) | Self::Imported(_) => Ok(None),
        }
    }
}

macro_rules! from {
    ($($variant:ident $memory:ty),*) => {$(
        impl From<Arc<$memory>> for Buffer {
            fn from(memory: Arc<$memory>) -> Self {
                Self::$variant(memory)
            }
        }

        impl From<$memory> for Buffer {
            fn from(memory: $memory) -> Self {
                Self::$variant(Arc::new(memory))
            }
        }
    )*};
}

from!(
    Device DeviceMemory,
    Pinned PinnedMemory,
    Registered HostRegistration<Vec<u8>>,
    Imported ImportedMemory
);

/// Why a copy was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// A range is not inside its memory.
    #[error("bytes {offset}..{offset}+{len} are not inside the {size} bytes there are")]
    OutOfBounds {
        /// First requested byte.
        offset: usize,
        /// Requested number of bytes.
        len: usize,
        /// Number of bytes there are.
        size: usize,
    },
    /// Source and destination share bytes.
    #[error("source and destination overlap: copy in pieces that do not")]
    Overlap,
    /// The host reads or writes some of the bytes right now.
    #[error("the host is reading or writing some of these bytes: try again when it is done")]
    InUse,
    /// The driver refused, or earlier work on the device failed. The copy may or may not be queued; the memories stay
    /// alive as if it were.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

impl Stream {
    /// Queues a copy of `len` bytes, between any two memories, and returns at once. Both stay alive, and the host stays
    /// off them, until the device has passed the copy: see [`keep`](Self::keep) for when that is noticed.
    ///
    /// Copies on one stream are done in order. Between streams, order them by events; without, bytes that one copy
    /// writes and another uses are unspecified.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use nixl_device::cuda::{Buffer, Context, DeviceMemory, PinnedMemory, Stream};
    ///
    /// fn fill(context: &Context, bytes: &[u8]) -> Result<DeviceMemory, Box<dyn std::error::Error>> {
    ///     let stream = Stream::new(context)?;
    ///     let pinned = PinnedMemory::new(context, bytes.len())?;
    ///     pinned.write(0, bytes)?;
    ///     let memory = Arc::new(DeviceMemory::new(context, bytes.len())?);
    ///     stream.copy(&memory.clone().into(), 0, &pinned.into(), 0, bytes.len())?;
    ///     stream.synchronize()?;
    ///     Arc::try_unwrap(memory).map_err(|_| "still in use".into())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`CopyError`]
    pub fn copy(
        &self,
        to: &Buffer,
        to_offset: usize,
        from: &Buffer,
        from_offset: usize,
        len: usize,
    ) -> Result<(), CopyError> {
        let to_range = to.range(to_offset, len)?;
        let from_range = from.range(from_offset, len)?;
        if len == 0 {
            return Ok(self.context().health()?);
        }
        let dst = to.address() + to_range.start as u64;
        let src = from.address() + from_range.start as u64;
        if dst.abs_diff(src) < len as u64 {
            return Err(CopyError::Overlap);
        }
        let reads = from.begin(from_range, Use::DeviceRead)?;
        let writes = to.begin(to_range, Use::DeviceWrite)?;
        // SAFETY: both ranges are inside their memories and do not overlap. The memories are kept below until the
        // device has passed. The host can reach only pinned memory, where the guards keep it off.
        let queued = unsafe { self.copy_async(dst, src, len) };
        let kept = self.keep((reads, writes, to.clone(), from.clone()));
        Ok(queued.and(kept)?)
    }

    /// Queues filling bytes with `value`, as [`copy`](Self::copy) queues a copy.
    ///
    /// # Errors
    ///
    /// [`CopyError`]
    pub fn fill(&self, to: &Buffer, offset: usize, len: usize, value: u8) -> Result<(), CopyError> {
        let range = to.range(offset, len)?;
        if len == 0 {
            return Ok(self.context().health()?);
        }
        let dst = to.address() + range.start as u64;
        let writes = to.begin(range, Use::DeviceWrite)?;
        // SAFETY: as in `copy`.
        let queued = unsafe { self.memset_async(dst, value, len) };
        let kept = self.keep((writes, to.clone()));
        Ok(queued.and(kept)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::super::{Context, DevicePool, HostAccessError, PoolLimits};
    use super::*;

    fn device(context: &Context, len: usize) -> Buffer {
        DeviceMemory::new(context, len).unwrap().into()
    }

    #[test]
    fn memory_is_not_freed_while_a_copy_is_queued() {
        let fake = Fake::new();
        let context = fake.context(0);
        let stream = Stream::new(&context).unwrap();
        let pinned = PinnedMemory::new(&context, 100).unwrap();
        stream.copy(&device(&context, 100), 0, &pinned.into(), 0, 100).unwrap();
        stream.reclaim();
        assert_eq!((fake.count("cuMemFree"), fake.count("cuMemFreeHost")), (0, 0));
        fake.finish();
        stream.reclaim();
        assert_eq!((fake.count("cuMemFree"), fake.count("cuMemFreeHost")), (1, 1));
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn memory_is_not_freed_even_if_everything_is_dropped() {
        let fake = Fake::new();
        let context = fake.context(0);
        let stream = Stream::new(&context).unwrap();
        stream.copy(&device(&context, 64), 0, &device(&context, 64), 0, 64).unwrap();
        drop(stream);
        assert_eq!(fake.live_bytes(), 128);
        fake.finish();
        fake.wait_until(|fake| fake.live_bytes() == 0);
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn pooled_memory_is_not_reused_while_a_copy_is_queued() {
        let fake = Fake::new();
        let context = fake.context(0);
        let stream = Stream::new(&context).unwrap();
        let pool = DevicePool::new(&context, PoolLimits::new(1 << 20));
        let memory = pool.allocate(512).unwrap();
        let address = memory.address();
        stream.fill(&memory.into(), 0, 512, 7).unwrap();
        let other = pool.allocate(512).unwrap();
        assert_ne!(other.address(), address);
        fake.finish();
        stream.reclaim();
        assert_eq!(pool.allocate(512).unwrap().address(), address);
    }

    #[test]
    fn a_copy_that_fails_keeps_the_memory_as_if_it_were_queued() {
        let fake = Fake::new();
        let context = fake.context(0);
        let stream = Stream::new(&context).unwrap();
        fake.fail("cuMemcpyAsync", 1, 1);
        let result = stream.copy(&device(&context, 64), 0, &device(&context, 64), 0, 64);
        assert!(matches!(result, Err(CopyError::Cuda(error)) if error.code == 1));
        assert_eq!(fake.live_bytes(), 128);
        fake.finish();
        stream.reclaim();
        assert_eq!(fake.live_bytes(), 0);

        fake.fail("cuMemcpyAsync", 700, 1);
        let result = stream.copy(&device(&context, 64), 0, &device(&context, 64), 0, 64);
        assert!(matches!(result, Err(CopyError::Cuda(error)) if error.is_sticky()));
        drop(stream);
        assert_eq!(fake.live_bytes(), 128, "leaked: the device may still use it");
        assert!(context.leaked() > 0);
    }

    #[test]
    fn ranges_are_checked_before_anything_is_queued() {
        let fake = Fake::new();
        let context = fake.context(0);
        let stream = Stream::new(&context).unwrap();
        let (a, b) = (device(&context, 64), device(&context, 32));
        for (to_offset, from_offset, len) in
            [(0, 0, 33), (33, 0, 32), (0, 32, 1), (usize::MAX, 0, 2)]
        {
            let result = stream.copy(&a, to_offset, &b, from_offset, len);
            assert!(matches!(result, Err(CopyError::OutOfBounds { .. })), "{result:?}");
        }
        assert_eq!(stream.copy(&a, 0, &a, 16, 17), Err(CopyError::Overlap));
        assert_eq!(stream.copy(&a, 0, &a, 0, 1), Err(CopyError::Overlap));
        assert!(matches!(stream.fill(&b, 1, 32, 0), Err(CopyError::OutOfBounds { .. })));
        assert_eq!(fake.copies(), []);
        assert_eq!(stream.copy(&a, 0, &a, 16, 16), Ok(()));
        assert_eq!(stream.copy(&a, 64, &b, 32, 0), Ok(()));
        assert_eq!(fake.copies(), [(a.address(), a.address() + 16, 16)]);
    }

    #[test]
    fn the_host_keeps_off_what_a_copy_uses() {
        let fake = Fake::new();
        let context = fake.context(0);
        let stream = Stream::new(&context).unwrap();
        let pinned = Arc::new(PinnedMemory::new(&context, 64).unwrap());
        let buffer = Buffer::from(Arc::clone(&pinned));
        stream.copy(&buffer, 0, &device(&context, 64), 0, 16).unwrap();
        stream.copy(&device(&context, 64), 0, &buffer, 32, 16).unwrap();
        let mut byte = [0];
        assert_eq!(pinned.read(15, &mut byte), Err(HostAccessError::InUse));
        assert_eq!(pinned.read(16, &mut byte), Ok(()));
        assert_eq!(pinned.read(32, &mut byte), Ok(()), "both only read");
        assert_eq!(pinned.write(32, &byte), Err(HostAccessError::InUse));
        fake.finish();
        stream.reclaim();
        assert_eq!(pinned.write(0, &[1; 64]), Ok(()));
    }

    #[test]
    fn threads_that_share_a_stream_free_nothing_early_or_twice() {
        let fake = Fake::new();
        let context = fake.context(0);
        let stream = Stream::new(&context).unwrap();
        let pool = DevicePool::new(&context, PoolLimits::new(1 << 20));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (stream, pool, fake) = (&stream, &pool, &fake);
                scope.spawn(move || {
                    for round in 0..200 {
                        let from = PinnedMemory::new(&context, 512).unwrap().into();
                        let Ok(memory) = pool.allocate(512 + round) else {
                            stream.synchronize().unwrap();
                            continue;
                        };
                        stream.copy(&memory.into(), 0, &from, 0, 512).unwrap();
                        drop(from);
                        match (round + thread) % 8 {
                            0 => fake.finish(),
                            1 => stream.reclaim(),
                            2 => pool.trim(0),
                            _ => {}
                        }
                    }
                });
            }
        });
        stream.synchronize().unwrap();
        pool.trim(0);
        assert_eq!(fake.live_bytes(), 0);
        assert_eq!(fake.faults(), Vec::<String>::new());
    }
}

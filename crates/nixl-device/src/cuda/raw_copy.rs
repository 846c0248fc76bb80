//! Copies between raw addresses, for executors that have validated them.

use std::ptr;

use super::api::CopyAttributes;
use super::context::Context;
use super::error::{CudaError, INVALID_VALUE, NOT_SUPPORTED};
use super::stream::Stream;

impl Stream {
    /// Queues a copy of `len` bytes between any two addresses of CUDA: of devices, of pinned or registered
    /// host memory, or of pageable host memory. The driver may copy from pageable memory before it returns.
    ///
    /// # Errors
    ///
    /// The driver's error. The copy may be queued even then, if the error is of earlier work.
    ///
    /// # Safety
    ///
    /// Until the device has passed the copy, `src` is valid for reading and `dst` for writing `len` bytes, the two do
    /// not overlap, nothing else writes either, and nothing reads `dst`.
    pub unsafe fn copy_async(&self, dst: u64, src: u64, len: usize) -> Result<(), CudaError> {
        // SAFETY: the caller vouches for the addresses; the stream is alive.
        self.context().call("cuMemcpyAsync", |api| unsafe {
            (api.memcpy_async)(dst, src, len, self.as_raw())
        })
    }

    /// Queues filling `len` bytes with `value`.
    ///
    /// # Errors
    ///
    /// As [`copy_async`](Self::copy_async).
    ///
    /// # Safety
    ///
    /// Until the device has passed it, `dst` is valid for writing `len` bytes, and nothing else reads or writes them.
    pub unsafe fn memset_async(&self, dst: u64, value: u8, len: usize) -> Result<(), CudaError> {
        // SAFETY: the caller vouches for the address; the stream is alive.
        self.context().call("cuMemsetD8Async", |api| unsafe {
            (api.memset_d8_async)(dst, value, len, self.as_raw())
        })
    }

    /// Queues many copies with one call: the i-th copies `lens[i]` bytes from `srcs[i]` to `dsts[i]`. They may be done
    /// in any order among themselves. The lists are read before it returns.
    ///
    /// # Errors
    ///
    /// `CUDA_ERROR_NOT_SUPPORTED` if the driver is older than CUDA 12.8, see [`Context::has_batch_copy`];
    /// `CUDA_ERROR_INVALID_VALUE` if the lists differ in length; else as [`copy_async`](Self::copy_async).
    ///
    /// # Safety
    ///
    /// As [`copy_async`](Self::copy_async) for each copy, and no destination overlaps another copy's source or
    /// destination.
    pub unsafe fn copy_batch_async(
        &self,
        dsts: &[u64],
        srcs: &[u64],
        lens: &[usize],
    ) -> Result<(), CudaError> {
        const CALL: &str = "cuMemcpyBatchAsync";
        /// The sources are read in the order of the stream.
        const SOURCE_ACCESS_ORDER_STREAM: u32 = 1;
        let count = dsts.len();
        if srcs.len() != count || lens.len() != count {
            return Err(CudaError {
                code: INVALID_VALUE,
                name: Some("CUDA_ERROR_INVALID_VALUE"),
                call: CALL,
            });
        }
        if count == 0 {
            return self.context().health();
        }
        let attributes = CopyAttributes {
            source_access_order: SOURCE_ACCESS_ORDER_STREAM,
            source_hint: Default::default(),
            destination_hint: Default::default(),
            flags: 0,
        };
        // One set of attributes, from the first copy on.
        let first = 0;
        let (dsts, srcs, lens) = (dsts.as_ptr(), srcs.as_ptr(), lens.as_ptr());
        let (attributes, first) = (ptr::from_ref(&attributes), ptr::from_ref(&first));
        let mut at_fault = 0;
        let at_fault = &raw mut at_fault;
        self.context().call(CALL, |api| match (api.memcpy_batch_async_v2, api.memcpy_batch_async) {
            // SAFETY: the lists have `count` elements, attributes and index one; all live during the call. The caller
            // vouches for the addresses.
            (Some(batch), _) => unsafe {
                batch(dsts, srcs, lens, count, attributes, first, 1, self.as_raw())
            },
            // SAFETY: as above; the last pointer is to a live variable, written during the call only.
            (None, Some(batch)) => unsafe {
                batch(dsts, srcs, lens, count, attributes, first, 1, at_fault, self.as_raw())
            },
            (None, None) => NOT_SUPPORTED,
        })
    }
}

impl Context {
    /// Whether [`Stream::copy_batch_async`] is there: with drivers of CUDA 12.8 and newer.
    #[must_use]
    pub fn has_batch_copy(&self) -> bool {
        self.functions()
            .call(|api| api.memcpy_batch_async.is_some() || api.memcpy_batch_async_v2.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::Api;
    use super::super::fake::{self, Fake};
    use super::*;

    fn copy_batch(fake: &Fake, lists: (&[u64], &[u64], &[usize])) -> Result<(), CudaError> {
        let stream = Stream::new(&fake.context(0))?;
        // SAFETY: the fake driver only takes notes of addresses.
        unsafe { stream.copy_batch_async(lists.0, lists.1, lists.2) }
    }

    #[test]
    fn the_newest_call_of_the_driver_is_taken() {
        let new = Fake::new();
        copy_batch(&new, (&[16, 32], &[64, 80], &[8, 8])).unwrap();
        assert_eq!(new.copies(), [(16, 64, 8), (32, 80, 8)]);
        assert_eq!(new.count("cuMemcpyBatchAsync_v2"), 1);

        let older = Fake::with(Api { memcpy_batch_async_v2: None, ..fake::api() });
        copy_batch(&older, (&[16, 32], &[64, 80], &[8, 8])).unwrap();
        assert_eq!(older.copies(), [(16, 64, 8), (32, 80, 8)]);
        assert_eq!(older.count("cuMemcpyBatchAsync"), 1);
    }

    #[test]
    fn a_driver_without_the_call_says_so() {
        let old = Fake::with(Api {
            memcpy_batch_async: None,
            memcpy_batch_async_v2: None,
            ..fake::api()
        });
        assert!(!old.context(0).has_batch_copy());
        let error = copy_batch(&old, (&[16], &[64], &[8])).unwrap_err();
        assert!(error.is_not_supported(), "{error}");
        assert!(old.context(0).health().is_ok());
    }

    #[test]
    fn lists_of_unequal_length_reach_no_driver() {
        let fake = Fake::new();
        for lists in [(&[1, 2][..], &[1][..], &[1, 1][..]), (&[1], &[1], &[]), (&[], &[1], &[1])] {
            assert_eq!(copy_batch(&fake, lists).map_err(|error| error.code), Err(1));
        }
        assert_eq!(copy_batch(&fake, (&[], &[], &[])), Ok(()));
        assert_eq!(fake.copies(), []);
    }
}

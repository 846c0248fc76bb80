//! Pinning of existing host memory.

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use super::context::Context;
use super::error::CudaError;
use super::memory_error::{MemoryError, checked_len};

/// Host memory that was pinned where it is, together with its owner; unpinned when dropped.
///
/// All devices reach it at the full speed of the link, at the address that the host uses. The owner is out of reach
/// until [`into_owner`](Self::into_owner), so no access races with a queued copy.
pub struct HostRegistration<T: Any + Send + Sync> {
    context: Context,
    /// With exposed provenance.
    address: usize,
    len: usize,
    /// Taken when unregistered.
    owner: ManuallyDrop<T>,
}

impl HostRegistration<Vec<u8>> {
    /// Pins the elements of a vector. Whole pages are pinned, so its neighbours in memory are too.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]; the vector is dropped.
    pub fn from_vec(context: &Context, mut owner: Vec<u8>) -> Result<Self, MemoryError> {
        let len = owner.len();
        let Some(start) = NonNull::new(owner.as_mut_ptr()) else {
            return Err(MemoryError::Empty);
        };
        // SAFETY: the vector's elements stay where they are when it moves, and nothing can reach it in here.
        unsafe { Self::from_raw_parts(context, start, len, owner) }
    }
}

impl<T: Any + Send + Sync> HostRegistration<T> {
    /// Pins `len` bytes of host memory at `start`, which `owner` keeps valid.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]: no bytes, too low a limit, or the driver's error, for example for memory that is pinned
    /// already; `owner` is dropped.
    ///
    /// # Safety
    ///
    /// Until `owner` is dropped or handed back, `start..start + len` is host memory valid for reads and writes, also
    /// when `owner` is moved, and nothing else reads or writes it.
    pub unsafe fn from_raw_parts(
        context: &Context,
        start: NonNull<u8>,
        len: usize,
        owner: T,
    ) -> Result<Self, MemoryError> {
        let len = checked_len(len)?;
        // SAFETY: the caller vouches for the memory; it is unregistered before the owner is let go.
        unsafe { register(context, start.as_ptr().cast(), len) }?;
        Ok(Self {
            context: *context,
            address: start.as_ptr().expose_provenance(),
            len,
            owner: ManuallyDrop::new(owner),
        })
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

    /// The context it was registered in.
    #[must_use]
    pub fn context(&self) -> Context {
        self.context
    }

    /// Unpins the memory and hands its owner back.
    ///
    /// # Errors
    ///
    /// The driver's error; then the owner is leaked, because a device may still reach the memory.
    pub fn into_owner(self) -> Result<T, CudaError> {
        let mut this = ManuallyDrop::new(self);
        let address = this.address;
        let unregistered = this.context.call("cuMemHostUnregister", |api| {
            // SAFETY: registered by this value, and not unregistered before.
            unsafe { (api.mem_host_unregister)(ptr::with_exposed_provenance_mut(address)) }
        });
        if let Err(error) = unregistered {
            this.context.count_leak();
            return Err(error);
        }
        // SAFETY: `this` is not dropped, so the owner is taken once.
        Ok(unsafe { ManuallyDrop::take(&mut this.owner) })
    }
}

impl<T: Any + Send + Sync> Drop for HostRegistration<T> {
    fn drop(&mut self) {
        // SAFETY: dropped once, and `owner` is not used again.
        let owner = unsafe { ManuallyDrop::take(&mut self.owner) };
        unregister(self.context, self.address, owner);
    }
}

impl<T: Any + Send + Sync> fmt::Debug for HostRegistration<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostRegistration")
            .field("context", &self.context)
            .field("address", &self.address)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Pins host memory for all devices.
///
/// # Safety
///
/// The memory stays valid until it is [`unregister`]ed.
pub(super) unsafe fn register(
    context: &Context,
    start: *mut c_void,
    len: usize,
) -> Result<(), MemoryError> {
    /// Pinned for all devices, not for the context's alone.
    const PORTABLE: u32 = 1;
    // SAFETY: the caller vouches for the memory.
    let registered = context
        .call("cuMemHostRegister", |api| unsafe { (api.mem_host_register)(start, len, PORTABLE) });
    registered.map_err(|error| MemoryError::pinned(len, error))
}

/// Unpins host memory and then drops its owner; or leaks the owner, if the memory cannot be unpinned.
pub(super) fn unregister(context: Context, address: usize, owner: impl Send + 'static) {
    let owner = ManuallyDrop::new(owner);
    context.release("cuMemHostUnregister", move |api| {
        // SAFETY: the caller registered it, gives it up here, and kept it until the device had passed.
        let code = unsafe { (api.mem_host_unregister)(ptr::with_exposed_provenance_mut(address)) };
        if code == 0 {
            drop(ManuallyDrop::into_inner(owner));
        }
        code
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fake::Fake;
    use super::*;

    #[test]
    fn a_vector_comes_back() {
        let fake = Fake::new();
        let vector = vec![7; 100];
        let start = vector.as_ptr() as u64;
        let registration = HostRegistration::from_vec(&fake.context(0), vector).unwrap();
        assert_eq!((registration.address(), registration.len()), (start, 100));
        assert_eq!(registration.into_owner(), Ok(vec![7; 100]));
        assert_eq!(fake.count("cuMemHostUnregister"), 1);
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn an_empty_vector_is_refused() {
        let fake = Fake::new();
        let error = HostRegistration::from_vec(&fake.context(0), Vec::new()).err();
        assert_eq!(error, Some(MemoryError::Empty));
    }

    #[test]
    fn an_owner_is_dropped_after_unpinning_and_only_then() {
        let fake = Fake::new();
        let context = fake.context(0);
        let mut bytes = [0; 64];
        let owner = Arc::new(());
        let start = NonNull::from(&mut bytes).cast();
        let register = || {
            // SAFETY: `bytes` outlives the registrations, and is not used.
            unsafe { HostRegistration::from_raw_parts(&context, start, 64, Arc::clone(&owner)) }
        };
        drop(register().unwrap());
        assert_eq!(Arc::strong_count(&owner), 1);

        let refused = register().unwrap();
        fake.fail("cuMemHostUnregister", 999, 1);
        drop(refused);
        assert_eq!((Arc::strong_count(&owner), context.leaked()), (2, 1));
        fake.forget_registrations();

        fake.fail("cuMemHostRegister", 2, 1);
        assert!(register().is_err_and(|error| error.is_out_of_memory()));
        assert_eq!(Arc::strong_count(&owner), 2);
    }
}

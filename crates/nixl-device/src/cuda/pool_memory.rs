//! Memory of the driver's pools (`cuMemAllocAsync`) that were made with a type of handle, in other processes.

use std::fmt;
use std::os::fd::OwnedFd;

use super::api::{Address, Api, Handle, PointerBytes};
use super::context::Context;
use super::error::{CudaError, NOT_SUPPORTED};
use super::memory_error::{MemoryError, checked_len};
use super::shareable_handle::ShareableHandle;
use super::virtual_memory::{DESCRIPTOR, access_of, number_of, owned};

/// `CU_POINTER_ATTRIBUTE_{BUFFER_ID, RANGE_START_ADDR, RANGE_SIZE, MEMPOOL_HANDLE}`
pub(super) const ASKED: [i32; 4] = [7, 11, 12, 17];

/// An allocation of a pool of the driver's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PoolMemory {
    context: Context,
    base: Address,
    len: u64,
    /// Of the allocation; not used again.
    id: u64,
    pool: Handle,
}

impl PoolMemory {
    /// The allocation of a pool around an address. `None` for memory of another kind. Takes about a microsecond.
    ///
    /// # Errors
    ///
    /// The driver's error, which may be too old to know of pools.
    pub fn at(context: &Context, address: u64) -> Result<Option<Self>, CudaError> {
        let [id, base, len, pool] = context.pointer_attributes(ASKED, address)?;
        let found = Self { context: *context, base, len, id, pool: pool as Handle };
        let contains = base.checked_add(len).is_some_and(|end| (base..end).contains(&address));
        Ok((contains && pool != 0).then_some(found))
    }

    /// Its first address.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Its number of bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is allocated still.
    #[must_use]
    pub fn is_there(&self) -> bool {
        Self::at(&self.context, self.base).is_ok_and(|found| found == Some(*self))
    }

    /// What another process of this machine [opens](ImportedPoolMemory::open) it by. What holds for
    /// [`DeviceMemory::export`](super::DeviceMemory::export) holds here.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NotMapped`] if it was freed; the driver's error, such as for a pool that was made without that type of handle,
    /// as the default pools are.
    pub fn export(&self) -> Result<ShareableHandle, MemoryError> {
        let mut descriptor = -1i32;
        let out = (&raw mut descriptor).cast();
        let export = |api: &Api| match api.mem_pool_export_handle {
            // SAFETY: for this type of handle the driver writes an integer, to a live variable, during the call only. A pool that is gone
            // by now is an error of the driver's.
            Some(call) => unsafe { call(out, self.pool, DESCRIPTOR, 0) },
            None => NOT_SUPPORTED,
        };
        if !self.is_there() {
            return Err(MemoryError::NotMapped { address: self.base });
        }
        self.context.call("cuMemPoolExportToShareableHandle", export)?;
        // SAFETY: the driver has opened it for the caller.
        let pool = unsafe { owned(descriptor) }.ok_or(MemoryError::NotShareable)?;
        let mut bytes: PointerBytes = [0; 64];
        let export = |api: &Api| match api.mem_pool_export_pointer {
            // SAFETY: written to a live variable, during the call only. The driver looks the address up.
            Some(call) => unsafe { call(&raw mut bytes, self.base) },
            None => NOT_SUPPORTED,
        };
        self.context.call("cuMemPoolExportPointer", export)?;
        // It was this allocation that was named, or this shows that it was not.
        match self.is_there() {
            true => Ok(ShareableHandle::OfPool(pool, bytes)),
            false => Err(MemoryError::NotMapped { address: self.base }),
        }
    }
}

impl fmt::Debug for PoolMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolMemory")
            .field("base", &format_args!("{:#x}", self.base))
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Memory of a pool of another process, open until dropped. What holds for [`ImportedMemory`](super::ImportedMemory) holds here.
#[derive(Debug)]
pub struct ImportedPoolMemory {
    // Field order: before its pool.
    pointer: Pointer,
    _pool: ImportedPool,
    len: usize,
}

impl ImportedPoolMemory {
    /// Opens `len` bytes for the context's device, which another process [exported](PoolMemory::export).
    ///
    /// # Errors
    ///
    /// [`MemoryError::Empty`], [`MemoryError::TooLarge`], [`MemoryError::HandleTooLong`]; [`MemoryError::OtherKind`] for memory that is
    /// not of a pool; the driver's error, such as for a descriptor of something else.
    pub fn open(
        context: &Context,
        handle: ShareableHandle,
        len: usize,
    ) -> Result<Self, MemoryError> {
        let len = checked_len(len)?;
        let ShareableHandle::OfPool(descriptor, bytes) = handle else {
            return Err(MemoryError::OtherKind);
        };
        let pool = ImportedPool::import(*context, &descriptor)?;
        pool.open()?;
        let pointer = pool.pointer(bytes)?;
        let memory = Self { pointer, _pool: pool, len };
        let [_, base, all, _] = context.pointer_attributes(ASKED, memory.address())?;
        let actual = all.saturating_sub(memory.address().saturating_sub(base));
        match len as u64 <= actual {
            true => Ok(memory),
            false => Err(MemoryError::HandleTooLong { claimed: len as u64, actual }),
        }
    }

    /// Address of the first byte in this process, a `CUdeviceptr`. The host cannot dereference it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.pointer.address
    }

    /// Number of bytes, at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.len
    }
}

/// A pool of another process, destroyed here when dropped.
#[derive(Debug)]
struct ImportedPool {
    context: Context,
    pool: Handle,
}

impl ImportedPool {
    fn import(context: Context, descriptor: &OwnedFd) -> Result<Self, CudaError> {
        let mut pool = 0;
        let from = number_of(descriptor);
        let import = |api: &Api| match api.mem_pool_import_handle {
            // SAFETY: the pool is written to a live variable, during the call only. The pointer is the number of a descriptor, which the
            // driver checks.
            Some(call) => unsafe { call(&raw mut pool, from, DESCRIPTOR, 0) },
            None => NOT_SUPPORTED,
        };
        context.call("cuMemPoolImportFromShareableHandle", import)?;
        Ok(Self { context, pool })
    }

    /// Gives the context's device access.
    fn open(&self) -> Result<(), CudaError> {
        let access = access_of(&self.context);
        self.context.call("cuMemPoolSetAccess", |api| match api.mem_pool_set_access {
            // SAFETY: the description is a live variable, read during the call only.
            Some(call) => unsafe { call(self.pool, &raw const access, 1) },
            None => NOT_SUPPORTED,
        })
    }

    fn pointer(&self, mut bytes: PointerBytes) -> Result<Pointer, CudaError> {
        let mut address = 0;
        self.context.call("cuMemPoolImportPointer", |api| match api.mem_pool_import_pointer {
            // SAFETY: the address is written to a live variable, and as many bytes as the driver reads are another; both during the call
            // only.
            Some(call) => unsafe { call(&raw mut address, self.pool, &raw mut bytes) },
            None => NOT_SUPPORTED,
        })?;
        Ok(Pointer { context: self.context, address })
    }
}

impl Drop for ImportedPool {
    fn drop(&mut self) {
        let pool = self.pool;
        self.context.release("cuMemPoolDestroy", move |api| match api.mem_pool_destroy {
            // SAFETY: imported by this value, whose memory is closed.
            Some(call) => unsafe { call(pool) },
            None => NOT_SUPPORTED,
        });
    }
}

/// Memory of an imported pool, closed when dropped.
#[derive(Debug)]
struct Pointer {
    context: Context,
    address: Address,
}

impl Drop for Pointer {
    fn drop(&mut self) {
        let address = self.address;
        // SAFETY: imported by this value, whose users kept it until the device had passed.
        self.context.release("cuMemFree", move |api| unsafe { (api.mem_free)(address) });
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::DeviceMemory;
    use super::super::fake::{Fake, FakeMemory};
    use super::*;

    const LEN: usize = 3 << 20;

    #[test]
    fn memory_of_a_pool_that_was_made_for_it_is_opened_and_closed() {
        let fake = Fake::new();
        let (context, other) = (fake.context(0), fake.context(1));
        let base = fake.allocate(FakeMemory::SharedPool, LEN);
        let memory = PoolMemory::at(&context, base + 77).unwrap().unwrap();
        assert_eq!((memory.base(), memory.len(), memory.is_there()), (base, LEN as u64, true));
        let opened = ImportedPoolMemory::open(&other, memory.export().unwrap(), LEN).unwrap();
        assert_ne!(opened.address(), base);
        let of_vmm = super::super::PhysicalMemory::at(&context, base);
        assert_eq!(of_vmm, Ok(None), "though the driver says where it is mapped");
        assert_eq!((opened.len(), fake.imported_pools()), (LEN, (1, 1)));
        drop(opened);
        assert_eq!((fake.imported_pools(), other.leaked()), ((0, 0), 0));
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn what_is_of_no_such_pool_is_refused_and_leaves_nothing() {
        let fake = Fake::new();
        let context = fake.context(0);
        let error = |error: MemoryError| match error {
            MemoryError::Cuda(error) => (error.call(), error.code()),
            other => panic!("{other:?}"),
        };
        let of_default_pool = fake.allocate(FakeMemory::Pool, LEN);
        let found = PoolMemory::at(&context, of_default_pool).unwrap().unwrap();
        let refused = found.export().unwrap_err();
        assert_eq!(error(refused), ("cuMemPoolExportToShareableHandle", 1));
        let legacy = DeviceMemory::new(&context, LEN).unwrap();
        assert_eq!(PoolMemory::at(&context, legacy.address()), Ok(None));

        let base = fake.allocate(FakeMemory::SharedPool, LEN);
        let memory = PoolMemory::at(&context, base).unwrap().unwrap();
        let open = |handle, len| ImportedPoolMemory::open(&context, handle, len).unwrap_err();
        let handle = || memory.export().unwrap();
        assert_eq!(open(handle(), 0), MemoryError::Empty);
        let beyond = MemoryError::HandleTooLong { claimed: LEN as u64 + 1, actual: LEN as u64 };
        assert_eq!(open(handle(), LEN + 1), beyond);
        assert_eq!(open(ShareableHandle::Fabric([1; 64]), LEN), MemoryError::OtherKind);
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let ShareableHandle::OfPool(pool, bytes) = handle() else { unreachable!() };
        let forged = open(ShareableHandle::OfPool(null(), bytes), LEN);
        assert_eq!(error(forged).0, "cuMemPoolImportFromShareableHandle");
        let forged = open(ShareableHandle::OfPool(pool, [1; 64]), LEN);
        assert_eq!(error(forged).0, "cuMemPoolImportPointer");
        fake.fail("cuMemPoolSetAccess", 1, 1);
        assert_eq!(error(open(handle(), LEN)).0, "cuMemPoolSetAccess");
        assert_eq!((fake.imported_pools(), context.leaked()), ((0, 0), 0));
        // Freed, and allocated again at the same address.
        fake.replace(base);
        assert_eq!(memory.export().unwrap_err(), MemoryError::NotMapped { address: base });
    }
}

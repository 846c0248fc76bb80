//! Attributes of an allocation, queried from the driver by an address in it.

use std::ffi::c_void;

use super::api::Address;
use super::context::Context;
use super::error::{CudaError, NOT_SUPPORTED};

/// The driver's attributes of the memory at an address of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryAttributes {
    base: u64,
    len: u64,
    is_managed: bool,
    is_of_a_pool: bool,
    has_legacy_ipc: bool,
    handle_types: u32,
    access: u32,
}

/// `CU_POINTER_ATTRIBUTE_*`, in the order of the query.
pub(super) const ASKED: [i32; 8] = [2, 8, 10, 11, 12, 14, 16, 17];
/// `CU_MEMORYTYPE_HOST`
pub(super) const HOST: u64 = 1;
/// `CU_MEM_ACCESS_FLAGS_PROT_READ`
pub(super) const READ: u32 = 1;

impl MemoryAttributes {
    /// The first address of the allocation. 0 if the driver does not report it.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The allocation's number of bytes. 0 if the driver does not report it.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // a fact of the allocation's, not a container
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is managed memory (`cuMemAllocManaged`), which the driver moves between devices and the host.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        self.is_managed
    }

    /// Whether it is memory of a pool (`cuMemAllocAsync`).
    #[must_use]
    pub fn is_of_a_pool(&self) -> bool {
        self.is_of_a_pool
    }

    /// Whether it has a [handle](super::IpcMemoryHandle) of CUDA IPC: memory of `cuMemAlloc`.
    #[must_use]
    pub fn has_legacy_ipc(&self) -> bool {
        self.has_legacy_ipc
    }

    /// The types of handle that it was allocated for: bits of `CUmemAllocationHandleType`, of which 1 is a file descriptor.
    #[must_use]
    pub fn handle_types(&self) -> u32 {
        self.handle_types
    }

    /// Whether the device of the queried context may only read it.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.access == READ
    }
}

impl Context {
    /// The attributes of the memory at an address. `None` for an address that is no device's. Takes about a microsecond.
    ///
    /// # Errors
    ///
    /// The driver's error, which may be too old to know some of the attributes.
    pub fn memory_attributes(
        &self,
        address: Address,
    ) -> Result<Option<MemoryAttributes>, CudaError> {
        let [kind, managed, legacy, base, len, types, access, pool] =
            self.pointer_attributes(ASKED, address)?;
        let found = MemoryAttributes {
            base,
            len,
            is_managed: word(managed) != 0,
            is_of_a_pool: pool != 0,
            has_legacy_ipc: word(legacy) != 0,
            handle_types: word(types),
            access: word(access),
        };
        let is_of_a_device = found.is_managed || !matches!(kind, 0 | HOST);
        Ok(is_of_a_device.then_some(found))
    }

    /// The values of attributes of an address; 0 where the driver has none.
    pub(super) fn pointer_attributes<const N: usize>(
        &self,
        mut asked: [i32; N],
        address: Address,
    ) -> Result<[u64; N], CudaError> {
        // The widest value has eight bytes, and narrower ones leave the rest as it is.
        let mut values = [0u64; N];
        let mut outs = values.each_mut().map(|value| std::ptr::from_mut(value).cast::<c_void>());
        self.call("cuPointerGetAttributes", |api| match api.pointer_get_attributes {
            // SAFETY: the lists are live variables of N elements, and each of the second leads to a live variable with
            // room for any attribute; all are used during the call only. The address is looked up, not followed.
            Some(attributes) => unsafe {
                attributes(N as u32, asked.as_mut_ptr(), outs.as_mut_ptr(), address)
            },
            None => NOT_SUPPORTED,
        })?;
        Ok(values)
    }
}

/// Booleans and enumerations are narrower than eight bytes; what lies behind them is 0.
pub(super) fn word(value: u64) -> u32 {
    (value & u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::super::api::Api;
    use super::super::fake::{self, Fake, FakeMemory};
    use super::super::{DeviceMemory, IpcMemoryHandle, PinnedMemory};
    use super::*;

    const LEN: usize = 3 << 20;

    #[test]
    fn each_kind_of_allocation_is_told_from_the_others() {
        let fake = Fake::new();
        let context = fake.context(0);
        let legacy = DeviceMemory::new(&context, LEN).unwrap();
        let told = |address| context.memory_attributes(address).unwrap().unwrap();
        let plain = MemoryAttributes {
            base: legacy.address(),
            len: LEN as u64,
            has_legacy_ipc: true,
            access: 3,
            ..MemoryAttributes::default()
        };
        for inside in [0, 1, LEN as u64 - 1] {
            assert_eq!(told(legacy.address() + inside), plain);
        }
        let others = [
            FakeMemory::Pool,
            FakeMemory::Managed,
            FakeMemory::Virtual { handle_types: 0, is_read_only: false },
            FakeMemory::Virtual { handle_types: 1, is_read_only: true },
        ];
        for kind in others {
            let base = fake.allocate(kind, LEN);
            let (handle_types, is_read_only) = match kind {
                FakeMemory::Virtual { handle_types, is_read_only } => (handle_types, is_read_only),
                _ => (0, false),
            };
            let expected = MemoryAttributes {
                base,
                is_managed: kind == FakeMemory::Managed,
                is_of_a_pool: kind == FakeMemory::Pool,
                has_legacy_ipc: false,
                handle_types,
                access: if is_read_only { 1 } else { 3 },
                ..plain
            };
            assert_eq!(told(base + 5), expected, "{kind:?}");
            assert_eq!(told(base).is_read_only(), is_read_only);
            let handle = IpcMemoryHandle::around(&context, base);
            assert!(handle.is_err_and(|error| error.code() == 1), "{kind:?} has no handle");
        }
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn an_address_that_is_no_devices_has_no_attributes() {
        let fake = Fake::new();
        let context = fake.context(0);
        let pinned = PinnedMemory::new(&context, LEN).unwrap();
        let freed = DeviceMemory::new(&context, LEN).unwrap();
        let gone = freed.address();
        drop(freed);
        for address in [pinned.address(), gone, 1] {
            assert_eq!(context.memory_attributes(address), Ok(None));
        }
    }

    #[test]
    fn a_driver_that_cannot_tell_is_an_error() {
        let fake = Fake::with(Api { pointer_get_attributes: None, ..fake::api() });
        let context = fake.context(0);
        let memory = DeviceMemory::new(&context, LEN).unwrap();
        let error = context.memory_attributes(memory.address()).unwrap_err();
        assert!(error.is_not_supported());
        let fake = Fake::new();
        fake.fail("cuPointerGetAttributes", 1, 1);
        let error = fake.context(0).memory_attributes(1).unwrap_err();
        assert_eq!((error.call(), error.code()), ("cuPointerGetAttributes", 1));
    }
}

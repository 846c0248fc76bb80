//! Memory of the VMM API (`cuMemCreate`): physical allocations, their handles, and their mapping in this process and others.

use std::ffi::c_void;
use std::fmt;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::{FdFlags, fcntl_setfd};

use super::api::{
    AccessDescription, Address, AllocationHandle, AllocationProperties, Api, MemLocation,
    PointerBytes,
};
use super::attributes::word;
use super::context::Context;
use super::device::RDMA_WITH_VIRTUAL_MEMORY;
use super::error::{CudaError, NOT_SUPPORTED};
use super::memory_error::{MemoryError, checked_len};
use super::shareable_handle::ShareableHandle;
use crate::SharedError;

/// `CU_POINTER_ATTRIBUTE_{ALLOWED_HANDLE_TYPES, MEMPOOL_HANDLE, MAPPING_SIZE, MAPPING_BASE_ADDR, MEMORY_BLOCK_ID}`
pub(super) const ASKED: [i32; 5] = [14, 17, 18, 19, 20];
/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`
pub(super) const DESCRIPTOR: u32 = 1;
/// `CU_MEM_HANDLE_TYPE_FABRIC`
pub(super) const FABRIC: u32 = 8;
/// `CU_MEM_LOCATION_TYPE_DEVICE`
pub(super) const ON_DEVICE: u32 = 1;
/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`
pub(super) const READ_AND_WRITE: u32 = 3;
/// `CU_MEM_ALLOCATION_TYPE_PINNED`
pub(super) const PINNED: u32 = 1;
/// `CU_MEM_ALLOC_GRANULARITY_MINIMUM`
pub(super) const MINIMUM: u32 = 0;
/// The place of `gpuDirectRDMACapable` in the flags of an allocation.
pub(super) const RDMA_CAPABLE: usize = 1;

/// A physical allocation of `cuMemCreate` at the place where this process has it mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PhysicalMemory {
    context: Context,
    base: Address,
    len: u64,
    id: u64,
    handle_types: u32,
}

impl PhysicalMemory {
    /// The allocation that is mapped at an address. `None` for memory of another kind. Takes about a microsecond.
    ///
    /// # Errors
    ///
    /// The driver's error, which may be too old to tell mappings apart.
    pub fn at(context: &Context, address: u64) -> Result<Option<Self>, CudaError> {
        let [types, pool, len, base, id] = context.pointer_attributes(ASKED, address)?;
        let found = Self { context: *context, base, len, id, handle_types: word(types) };
        let contains = base.checked_add(len).is_some_and(|end| (base..end).contains(&address));
        // A pool's memory is mapped, too, and the driver gives no handle of it.
        Ok((contains && id != 0 && pool == 0).then_some(found))
    }

    /// The address at which its mapping begins.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The number of bytes that are mapped.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it was made with a handle type by which another process opens it.
    #[must_use]
    pub fn is_shareable(&self) -> bool {
        self.handle_types & (DESCRIPTOR | FABRIC) != 0
    }

    /// Whether it is mapped there still: numbers of allocations are not used again.
    #[must_use]
    pub fn is_there(&self) -> bool {
        Self::at(&self.context, self.base).is_ok_and(|found| found == Some(*self))
    }

    /// What another process of this machine [maps](MappedMemory::map) it by: a file descriptor if it was made for that, else a fabric
    /// handle. The memory stays allocated as long as a descriptor is open, or it is mapped somewhere.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NotMapped`] if another allocation, or none, is mapped at its address by now;
    /// [`MemoryError::NotShareable`] if it was made without these handle types, or is not memory of a device; the driver's error.
    pub fn export(&self) -> Result<ShareableHandle, MemoryError> {
        let handle = Retained::at(self.context, self.base)?;
        // After the handle was retained: it is of the allocation that was found before, or this shows that it is not.
        if !self.is_there() {
            return Err(MemoryError::NotMapped { address: self.base });
        }
        let properties = handle.properties()?;
        if properties.location.kind != ON_DEVICE {
            return Err(MemoryError::NotShareable);
        }
        match properties.handle_types {
            types if types & DESCRIPTOR != 0 => handle.descriptor(),
            types if types & FABRIC != 0 => Ok(handle.fabric()?),
            _ => Err(MemoryError::NotShareable),
        }
    }
}

impl fmt::Debug for PhysicalMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PhysicalMemory")
            .field("base", &format_args!("{:#x}", self.base))
            .field("len", &self.len)
            .field("shareable", &self.is_shareable())
            .finish_non_exhaustive()
    }
}

/// Memory of a device that this process has allocated with file descriptors, by which others [map](MappedMemory::map) it. Freed when
/// dropped, once no other process has it open.
#[derive(Debug)]
pub struct VirtualMemory {
    mapped: MappedMemory,
    len: usize,
}

impl VirtualMemory {
    /// Allocates `len` bytes on the context's device, rounded up to the driver's unit (2 MiB), for that device alone, and such that
    /// NICs can register them where the device has that.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]: a request for no bytes, too little memory, or the driver's error, such as for a system without descriptors of
    /// memory.
    pub fn new(context: &Context, len: usize) -> Result<Self, MemoryError> {
        let len = checked_len(len)?;
        let properties = properties_on(context);
        let unit = granularity(context, &properties)?.max(1);
        let whole = len.checked_next_multiple_of(unit).ok_or(MemoryError::TooLarge { len })?;
        let handle = Retained::create(*context, checked_len(whole)?, &properties)?;
        let mut mapped = MappedMemory::reserve(context, whole)?;
        mapped.append(&handle, whole)?;
        mapped.open()?;
        Ok(Self { mapped, len })
    }

    /// Address of the first byte, a `CUdeviceptr`. The host cannot dereference it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.mapped.address()
    }

    /// Number of bytes, at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.len
    }

    /// The context it belongs to.
    #[must_use]
    pub fn context(&self) -> Context {
        self.mapped.context
    }
}

/// Of memory of the context's device with file descriptors.
fn properties_on(context: &Context) -> AllocationProperties {
    let location = MemLocation { kind: ON_DEVICE, id: context.raw_device() };
    let mut flags = [0; 8];
    flags[RDMA_CAPABLE] = u8::from(context.attribute(RDMA_WITH_VIRTUAL_MEMORY) == Some(1));
    AllocationProperties { kind: PINNED, handle_types: DESCRIPTOR, location, windows: 0, flags }
}

fn granularity(context: &Context, properties: &AllocationProperties) -> Result<usize, CudaError> {
    let mut unit = 0;
    let query = |api: &Api| match api.mem_get_allocation_granularity {
        // SAFETY: written to a live variable, and the properties are read, during the call only.
        Some(call) => unsafe { call(&raw mut unit, properties, MINIMUM) },
        None => NOT_SUPPORTED,
    };
    context.call("cuMemGetAllocationGranularity", query)?;
    Ok(unit)
}

/// A handle of a physical allocation, released when dropped. Mappings outlive it.
struct Retained {
    context: Context,
    handle: AllocationHandle,
}

impl Retained {
    /// Of a new allocation.
    fn create(
        context: Context,
        len: usize,
        properties: &AllocationProperties,
    ) -> Result<Self, MemoryError> {
        let mut handle = 0;
        let create = |api: &Api| match api.mem_create {
            // SAFETY: the handle is written to a live variable, and the properties are read, during the call only.
            Some(call) => unsafe { call(&raw mut handle, len, properties, 0) },
            None => NOT_SUPPORTED,
        };
        let created = context.call("cuMemCreate", create);
        created.map_err(|error| MemoryError::device(context.ordinal(), len, error))?;
        Ok(Self { context, handle })
    }

    /// Of the allocation that is mapped at an address.
    fn at(context: Context, address: Address) -> Result<Self, CudaError> {
        let mut handle = 0;
        let address = ptr::without_provenance_mut(address as usize);
        let retain = |api: &Api| match api.mem_retain_allocation_handle {
            // SAFETY: the handle is written to a live variable, during the call only; the address is looked up, not followed.
            Some(call) => unsafe { call(&raw mut handle, address) },
            None => NOT_SUPPORTED,
        };
        context.call("cuMemRetainAllocationHandle", retain)?;
        Ok(Self { context, handle })
    }

    /// Of the allocation that another process names so.
    fn import(context: Context, shared: &mut ShareableHandle) -> Result<Self, MemoryError> {
        let mut handle = 0;
        let (from, kind) = match shared {
            ShareableHandle::Descriptor(descriptor) => (number_of(descriptor), DESCRIPTOR),
            ShareableHandle::Fabric(bytes) => (bytes.as_mut_ptr().cast::<c_void>(), FABRIC),
            ShareableHandle::OfPool(..) => return Err(MemoryError::OtherKind),
        };
        let import = |api: &Api| match api.mem_import_handle {
            // SAFETY: the handle is written to a live variable, during the call only. The pointer is the number of a descriptor, which
            // the driver checks, or of as many bytes as a fabric handle has, which live as long.
            Some(call) => unsafe { call(&raw mut handle, from, kind) },
            None => NOT_SUPPORTED,
        };
        context.call("cuMemImportFromShareableHandle", import)?;
        Ok(Self { context, handle })
    }

    fn descriptor(&self) -> Result<ShareableHandle, MemoryError> {
        let mut descriptor = -1i32;
        let out = (&raw mut descriptor).cast::<c_void>();
        let export = |api: &Api| match api.mem_export_handle {
            // SAFETY: for this type of handle the driver writes an integer, to a live variable, during the call only.
            Some(call) => unsafe { call(out, self.handle, DESCRIPTOR, 0) },
            None => NOT_SUPPORTED,
        };
        self.context.call("cuMemExportToShareableHandle", export)?;
        // SAFETY: the driver has opened it for the caller.
        let descriptor = unsafe { owned(descriptor) };
        descriptor.map(ShareableHandle::Descriptor).ok_or(MemoryError::NotShareable)
    }

    fn fabric(&self) -> Result<ShareableHandle, CudaError> {
        let mut bytes: PointerBytes = [0; 64];
        let out = bytes.as_mut_ptr().cast::<c_void>();
        let export = |api: &Api| match api.mem_export_handle {
            // SAFETY: for this type of handle the driver writes 64 bytes, to a live variable, during the call only.
            Some(call) => unsafe { call(out, self.handle, FABRIC, 0) },
            None => NOT_SUPPORTED,
        };
        self.context.call("cuMemExportToShareableHandle", export)?;
        Ok(ShareableHandle::Fabric(bytes))
    }

    fn properties(&self) -> Result<AllocationProperties, CudaError> {
        let location = MemLocation::default();
        let (kind, handle_types, windows, flags) = (0, 0, 0, [0; 8]);
        let mut found = AllocationProperties { kind, handle_types, location, windows, flags };
        let query = |api: &Api| match api.mem_get_allocation_properties {
            // SAFETY: written to a live variable, during the call only.
            Some(call) => unsafe { call(&raw mut found, self.handle) },
            None => NOT_SUPPORTED,
        };
        self.context.call("cuMemGetAllocationPropertiesFromHandle", query)?;
        Ok(found)
    }
}

impl Drop for Retained {
    fn drop(&mut self) {
        let handle = self.handle;
        self.context.release("cuMemRelease", move |api| match api.mem_release {
            // SAFETY: this value's own, which nothing uses any more.
            Some(call) => unsafe { call(handle) },
            None => NOT_SUPPORTED,
        });
    }
}

/// The context's device may read and write.
pub(super) fn access_of(context: &Context) -> AccessDescription {
    let location = MemLocation { kind: ON_DEVICE, id: context.raw_device() };
    AccessDescription { location, flags: READ_AND_WRITE }
}

/// A descriptor as the driver takes it.
pub(super) fn number_of(descriptor: &OwnedFd) -> *mut c_void {
    ptr::without_provenance_mut(descriptor.as_raw_fd() as usize)
}

/// A descriptor that the driver gave. `None` if it gave none.
///
/// # Safety
///
/// If it is not negative, it is open, and nothing else closes it.
pub(super) unsafe fn owned(descriptor: i32) -> Option<OwnedFd> {
    if descriptor < 0 {
        return None;
    }
    // SAFETY: the caller vouches for it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // Not for started programs. If it cannot be set, they keep the memory for as long as they run.
    let _ = fcntl_setfd(&descriptor, FdFlags::CLOEXEC);
    Some(descriptor)
}

/// Memory of another process, of one or more physical allocations that follow each other here, mapped until dropped.
///
/// The memory stays allocated as long as this lives, also after its process has freed it or has ended.
#[derive(Debug)]
pub struct MappedMemory {
    context: Context,
    address: Address,
    len: usize,
    /// Of which so many bytes are mapped.
    mapped: usize,
}

impl MappedMemory {
    /// Maps `len` bytes for the context's device. `piece` gives the handle of the [allocation](PhysicalMemory::export) that begins at
    /// an offset, and its number of bytes. The memory may be of another device that this one has access to.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Empty`], [`MemoryError::TooLarge`]; [`MemoryError::PieceLength`] if a piece is empty or goes beyond `len`;
    /// [`MemoryError::Piece`] with the error of `piece`; [`MemoryError::OtherKind`] for memory of a pool; the driver's error, such
    /// as for a descriptor of something else.
    pub fn map(
        context: &Context,
        len: usize,
        mut piece: impl FnMut(u64) -> Result<(ShareableHandle, u64), SharedError>,
    ) -> Result<Self, MemoryError> {
        let mut memory = Self::reserve(context, checked_len(len)?)?;
        while memory.mapped < len {
            let offset = memory.mapped;
            let given = piece(offset as u64);
            let (handle, bytes) =
                given.map_err(|error| MemoryError::Piece { offset: offset as u64, error })?;
            let fits = |bytes: &usize| (1..=len - offset).contains(bytes);
            let Some(bytes) = usize::try_from(bytes).ok().filter(fits) else {
                return Err(MemoryError::PieceLength { offset: offset as u64, bytes });
            };
            let mut handle = handle;
            memory.append(&Retained::import(*context, &mut handle)?, bytes)?;
        }
        memory.open()?;
        Ok(memory)
    }

    fn reserve(context: &Context, len: usize) -> Result<Self, MemoryError> {
        let mut address = 0;
        let reserve = |api: &Api| match api.mem_address_reserve {
            // SAFETY: the address is written to a live variable, during the call only.
            Some(call) => unsafe { call(&raw mut address, len, 0, 0, 0) },
            None => NOT_SUPPORTED,
        };
        context.call("cuMemAddressReserve", reserve)?;
        Ok(Self { context: *context, address, len, mapped: 0 })
    }

    fn append(&mut self, handle: &Retained, bytes: usize) -> Result<(), MemoryError> {
        let address = self.address.wrapping_add(self.mapped as u64);
        let map = |api: &Api| match api.mem_map {
            // SAFETY: the range is reserved by this value, and nothing is mapped there yet. The driver checks that the allocation has as
            // many bytes.
            Some(call) => unsafe { call(address, bytes, 0, handle.handle, 0) },
            None => NOT_SUPPORTED,
        };
        self.context.call("cuMemMap", map)?;
        self.mapped += bytes;
        Ok(())
    }

    /// Gives the context's device access.
    fn open(&self) -> Result<(), CudaError> {
        let access = access_of(&self.context);
        self.context.call("cuMemSetAccess", |api| match api.mem_set_access {
            // SAFETY: the range is mapped; the description is a live variable, read during the call only.
            Some(call) => unsafe { call(self.address, self.len, &raw const access, 1) },
            None => NOT_SUPPORTED,
        })
    }

    /// Address of the first byte in this process, a `CUdeviceptr`. The host cannot dereference it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Number of bytes, at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for MappedMemory {
    fn drop(&mut self) {
        let Self { context, address, len, mapped } = *self;
        if mapped > 0 {
            context.release("cuMemUnmap", move |api| match api.mem_unmap {
                // SAFETY: mapped by this value, whose users kept it until the device had passed.
                Some(call) => unsafe { call(address, mapped) },
                None => NOT_SUPPORTED,
            });
        }
        context.release("cuMemAddressFree", move |api| match api.mem_address_free {
            // SAFETY: reserved by this value. If it is mapped after all, the driver refuses.
            Some(call) => unsafe { call(address, len) },
            None => NOT_SUPPORTED,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::DeviceMemory;
    use super::super::api::Api;
    use super::super::fake::{self, Fake};
    use super::*;

    const PIECE: usize = 2 << 20;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    /// The pieces of mapped memory, as its owner would give them away.
    fn pieces(
        context: Context,
        base: u64,
    ) -> impl FnMut(u64) -> Result<(ShareableHandle, u64), SharedError> {
        move |offset| {
            let found = PhysicalMemory::at(&context, base + offset)?;
            let piece = found.ok_or_else(|| SharedError::text("no piece"))?;
            Ok((piece.export()?, piece.len()))
        }
    }

    #[test]
    fn memory_of_several_allocations_is_mapped_piece_by_piece_and_given_back() {
        let fake = Fake::new();
        let (context, other) = (fake.context(0), fake.context(1));
        let base = fake.map(&[(PIECE, 1), (2 * PIECE, 3), (PIECE, 1)]);
        let inside = PhysicalMemory::at(&context, base + PIECE as u64 + 7).unwrap().unwrap();
        assert_eq!((inside.base(), inside.len()), (base + PIECE as u64, 2 * PIECE as u64));
        assert!(inside.is_shareable() && inside.is_there());
        let memory = MappedMemory::map(&other, 4 * PIECE, pieces(context, base)).unwrap();
        assert_eq!(memory.len(), 4 * PIECE);
        assert_ne!(memory.address(), base);
        // The handles are not needed any more.
        assert_eq!(fake.imported(), (0, 3, 1));
        drop(memory);
        assert_eq!(fake.imported(), (0, 0, 0));
        // A part that ends with a piece is memory, too.
        let memory = MappedMemory::map(&other, 3 * PIECE, pieces(context, base)).unwrap();
        assert_eq!(fake.imported(), (0, 2, 1));
        drop(memory);
        assert_eq!((fake.imported(), context.leaked(), other.leaked()), ((0, 0, 0), 0, 0));
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_mapped_is_a_specific_error_and_leaves_nothing() {
        let fake = Fake::new();
        let context = fake.context(0);
        let base = fake.map(&[(PIECE, 1), (PIECE, 0)]);
        let map =
            |len, piece: &mut dyn FnMut(u64) -> Result<(ShareableHandle, u64), SharedError>| {
                MappedMemory::map(&context, len, piece).unwrap_err()
            };
        let mut own = pieces(context, base);
        assert_eq!(map(0, &mut own), MemoryError::Empty);
        assert_eq!(map(usize::MAX, &mut own), MemoryError::TooLarge { len: usize::MAX });
        let beyond = MemoryError::PieceLength { offset: 0, bytes: PIECE as u64 };
        assert_eq!(map(PIECE - 1, &mut own), beyond);
        // The second piece was made without that handle type.
        let error = map(2 * PIECE, &mut own);
        let MemoryError::Piece { offset, error } = &error else { panic!("{error:?}") };
        assert_eq!(*offset, PIECE as u64);
        assert!(error.to_string().contains("CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR"), "{error}");
        // A descriptor of something else, and a length that the allocation does not have.
        let mut file = |_| Ok((ShareableHandle::Descriptor(null()), PIECE as u64));
        let error = map(PIECE, &mut file);
        let of_import = matches!(&error, MemoryError::Cuda(error) if error.call() == "cuMemImportFromShareableHandle");
        assert!(of_import, "{error:?}");
        let mut longer = |_| Ok((own(0)?.0, 2 * PIECE as u64));
        let error = map(2 * PIECE, &mut longer);
        assert!(
            matches!(&error, MemoryError::Cuda(error) if error.call() == "cuMemMap"),
            "{error:?}"
        );
        for call in ["cuMemAddressReserve", "cuMemSetAccess"] {
            fake.fail(call, 2, 1);
            let error = map(PIECE, &mut pieces(context, base));
            assert!(
                matches!(&error, MemoryError::Cuda(error) if error.call() == call),
                "{error:?}"
            );
        }
        assert_eq!((fake.imported(), context.leaked()), ((0, 0, 0), 0));
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn fabric_handles_open_what_has_no_descriptor_where_the_driver_grants_them() {
        let fake = Fake::new();
        let (context, other) = (fake.context(0), fake.context(1));
        let base = fake.map(&[(PIECE, FABRIC), (PIECE, FABRIC | DESCRIPTOR)]);
        let mut kinds = Vec::new();
        let mut own = pieces(context, base);
        let memory = MappedMemory::map(&other, 2 * PIECE, |offset| {
            let (handle, len) = own(offset)?;
            kinds.push(format!("{handle:?}"));
            Ok((handle, len))
        });
        assert_eq!(kinds, ["Fabric(..)", "Descriptor(..)"]);
        assert_eq!(fake.imported(), (0, 2, 1));
        drop(memory.unwrap());
        // As on machines without an NVSwitch fabric.
        fake.fail("cuMemExportToShareableHandle", 800, 1);
        let piece = PhysicalMemory::at(&context, base).unwrap().unwrap();
        let error = piece.export().unwrap_err();
        assert!(matches!(&error, MemoryError::Cuda(error) if error.code() == 800), "{error:?}");
        let mut forged = |_| Ok((ShareableHandle::Fabric([9; 64]), PIECE as u64));
        let error = MappedMemory::map(&other, PIECE, &mut forged).unwrap_err();
        assert!(matches!(&error, MemoryError::Cuda(_)), "{error:?}");
        let mut pooled = |_| Ok((ShareableHandle::OfPool(null(), [0; 64]), PIECE as u64));
        let error = MappedMemory::map(&other, PIECE, &mut pooled).unwrap_err();
        assert_eq!(error, MemoryError::OtherKind);
        assert_eq!((fake.imported(), other.leaked()), ((0, 0, 0), 0));
    }

    #[test]
    fn memory_with_descriptors_is_allocated_mapped_elsewhere_and_given_back() {
        let fake = Fake::new();
        let (context, other) = (fake.context(0), fake.context(1));
        let memory = VirtualMemory::new(&context, PIECE + 1).unwrap();
        assert_eq!((memory.len(), memory.context().ordinal()), (PIECE + 1, 0));
        // Its handle is released at once; the mapping keeps it.
        assert_eq!((fake.imported(), fake.count("cuMemCreate")), ((0, 1, 1), 1));
        assert_eq!(fake.created_for_rdma(), 1);
        let piece = PhysicalMemory::at(&context, memory.address()).unwrap().unwrap();
        assert_eq!((piece.base(), piece.len()), (memory.address(), 2 * PIECE as u64));
        assert!(piece.is_shareable());
        let own = pieces(context, memory.address());
        let elsewhere = MappedMemory::map(&other, 2 * PIECE, own).unwrap();
        assert_ne!(elsewhere.address(), memory.address());
        drop((memory, elsewhere));
        assert_eq!((fake.imported(), context.leaked(), other.leaked()), ((0, 0, 0), 0, 0));
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn memory_with_descriptors_that_cannot_be_had_is_a_specific_error_and_leaves_nothing() {
        let fake = Fake::new();
        let context = fake.context(0);
        let refused = |len| VirtualMemory::new(&context, len).unwrap_err();
        assert_eq!(refused(0), MemoryError::Empty);
        assert_eq!(refused(usize::MAX), MemoryError::TooLarge { len: usize::MAX });
        fake.fail("cuMemCreate", 2, 1);
        let error = refused(PIECE);
        assert!(matches!(error, MemoryError::OutOfDeviceMemory { len: PIECE, .. }), "{error:?}");
        let calls = [
            "cuMemGetAllocationGranularity",
            "cuMemCreate",
            "cuMemAddressReserve",
            "cuMemMap",
            "cuMemSetAccess",
        ];
        for call in calls {
            // As where the system has no descriptors of memory.
            fake.fail(call, 801, 1);
            let error = refused(PIECE);
            let MemoryError::Cuda(error) = &error else { panic!("{error:?}") };
            assert_eq!((error.call(), error.is_not_supported()), (call, true));
        }
        assert_eq!((fake.imported(), context.leaked()), ((0, 0, 0), 0));
        assert_eq!(fake.faults(), Vec::<String>::new());
        let fake = Fake::with(Api { mem_create: None, ..fake::api() });
        let error = VirtualMemory::new(&fake.context(0), PIECE).unwrap_err();
        assert!(matches!(&error, MemoryError::Cuda(e) if e.is_not_supported()), "{error:?}");
    }

    #[test]
    fn another_allocation_at_the_same_address_is_not_exported_in_its_place() {
        let fake = Fake::new();
        let context = fake.context(0);
        let base = fake.map(&[(PIECE, 1)]);
        let piece = PhysicalMemory::at(&context, base).unwrap().unwrap();
        drop(piece.export().unwrap());
        fake.remap(base);
        assert!(!piece.is_there());
        assert_eq!(piece.export().unwrap_err(), MemoryError::NotMapped { address: base });
        assert_eq!(fake.imported(), (0, 0, 0), "the handle was released");
    }

    #[test]
    fn other_memory_and_older_drivers_have_no_physical_allocations() {
        let fake = Fake::new();
        let context = fake.context(0);
        let legacy = DeviceMemory::new(&context, PIECE).unwrap();
        assert_eq!(PhysicalMemory::at(&context, legacy.address()), Ok(None));
        assert_eq!(PhysicalMemory::at(&context, 1), Ok(None));
        fake.fail("cuPointerGetAttributes", 1, 1);
        assert!(PhysicalMemory::at(&context, legacy.address()).is_err());
        drop(legacy);
        let api =
            Api { mem_retain_allocation_handle: None, mem_address_reserve: None, ..fake::api() };
        let fake = Fake::with(api);
        let context = fake.context(0);
        let base = fake.map(&[(PIECE, 1)]);
        let piece = PhysicalMemory::at(&context, base).unwrap().unwrap();
        let error = piece.export().unwrap_err();
        assert!(
            matches!(&error, MemoryError::Cuda(error) if error.is_not_supported()),
            "{error:?}"
        );
        let error = MappedMemory::map(&context, PIECE, pieces(context, base)).unwrap_err();
        assert!(
            matches!(&error, MemoryError::Cuda(error) if error.is_not_supported()),
            "{error:?}"
        );
    }
}

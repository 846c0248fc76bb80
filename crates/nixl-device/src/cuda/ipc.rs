//! CUDA IPC: device memory of another process of this machine.

use std::collections::hash_map::Entry;

use super::api::{Address, IpcBytes};
use super::context::{Context, Import};
use super::error::CudaError;
use super::memory_error::MemoryError;
use crate::locks::lock;

/// Names device memory to other processes of the same machine: 72 bytes to send over a channel that both trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpcMemoryHandle {
    bytes: [u8; 64],
    len: u64,
}

impl IpcMemoryHandle {
    pub(super) fn new(bytes: [u8; 64], len: u64) -> Self {
        Self { bytes, len }
    }

    /// Names the allocation around an address, also one of a framework. Returns how far into the
    /// allocation the address is as well.
    ///
    /// What holds for [`DeviceMemory::export`](super::DeviceMemory::export) holds here.
    ///
    /// # Errors
    ///
    /// The driver's error: the address is no device memory, or of an allocator whose memory cannot be named so
    /// (`cuMemCreate`, `cuMemAllocAsync`).
    pub fn around(context: &Context, address: Address) -> Result<(Self, u64), CudaError> {
        let (mut base, mut size) = (0, 0);
        // SAFETY: the pointers are to live variables, written during the call only; the driver checks the address.
        context.call("cuMemGetAddressRange", |api| unsafe {
            (api.mem_get_address_range)(&raw mut base, &raw mut size, address)
        })?;
        let mut bytes = IpcBytes([0; 64]);
        // SAFETY: the pointer is to a live variable, written during the call only; the driver checks the address.
        context.call("cuIpcGetMemHandle", |api| unsafe {
            (api.ipc_get_mem_handle)(&raw mut bytes, base)
        })?;
        Ok((Self::new(bytes.0, size as u64), address.saturating_sub(base)))
    }

    /// Number of bytes of the memory, as the exporter states it.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // a claim of a peer, checked when opened
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// The handle as bytes: CUDA's 64, then the length in little endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 72] {
        let mut bytes = [0; 72];
        bytes[..64].copy_from_slice(&self.bytes);
        bytes[64..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// The handle that these bytes are. Any bytes are one; whether it names anything shows when it is opened.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 72]) -> Self {
        let mut handle = Self { bytes: [0; 64], len: 0 };
        let mut len = [0; 8];
        handle.bytes.copy_from_slice(&bytes[..64]);
        len.copy_from_slice(&bytes[64..]);
        handle.len = u64::from_le_bytes(len);
        handle
    }
}

/// Device memory of another process, open until dropped.
///
/// The other process must keep the memory as long as this lives. If it does not, copies read and write the memory that is
/// there, or break the context; the host's memory is not in danger.
#[derive(Debug)]
pub struct ImportedMemory {
    context: Context,
    handle: IpcMemoryHandle,
    address: Address,
}

impl ImportedMemory {
    /// Opens memory that another process [exported](super::DeviceMemory::export). Opening the same memory again in the
    /// same context is cheap: the driver opens it once, and closes it when the last is dropped.
    ///
    /// The memory may be of another device than the context's; then peer access to it is enabled on the way.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Empty`], [`MemoryError::HandleTooLong`], or the driver's error, for example for a handle that
    /// this process made itself.
    pub fn open(context: &Context, handle: &IpcMemoryHandle) -> Result<Self, MemoryError> {
        if handle.len == 0 {
            return Err(MemoryError::Empty);
        }
        // Held over the calls, so that opening and closing do not cross.
        let mut imports = lock(&context.state().imports);
        let address = match imports.entry(handle.bytes) {
            Entry::Occupied(mut entry) => {
                context.health()?;
                entry.get_mut().users += 1;
                entry.get().address
            }
            Entry::Vacant(entry) => {
                let address = open(context, handle.bytes)?;
                entry.insert(Import { users: 1, address });
                address
            }
        };
        drop(imports);
        // From here on dropping it closes the memory.
        let memory = Self { context: *context, handle: *handle, address };
        let actual = memory.bytes_behind()?;
        if handle.len > actual {
            return Err(MemoryError::HandleTooLong { claimed: handle.len, actual });
        }
        Ok(memory)
    }

    /// How many bytes there are from the address on.
    fn bytes_behind(&self) -> Result<u64, CudaError> {
        let (mut base, mut size) = (0, 0);
        // SAFETY: the pointers are to live variables, written during the call only.
        self.context.call("cuMemGetAddressRange", |api| unsafe {
            (api.mem_get_address_range)(&raw mut base, &raw mut size, self.address)
        })?;
        Ok((size as u64).saturating_sub(self.address.saturating_sub(base)))
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
        // It is no more than a size that the driver gave as a `size_t`.
        usize::try_from(self.handle.len).unwrap_or(usize::MAX)
    }

    /// The context that it is open in.
    #[must_use]
    pub fn context(&self) -> Context {
        self.context
    }
}

fn open(context: &Context, bytes: [u8; 64]) -> Result<Address, CudaError> {
    const LAZY_ENABLE_PEER_ACCESS: u32 = 1;
    let mut address = 0;
    // SAFETY: the handle is plain bytes that the driver checks; the pointer is to a live variable, written during the
    // call only.
    context.call("cuIpcOpenMemHandle", |api| unsafe {
        (api.ipc_open_mem_handle)(&raw mut address, IpcBytes(bytes), LAZY_ENABLE_PEER_ACCESS)
    })?;
    Ok(address)
}

/// Gives up one use of an import, and closes it with the last.
fn close(context: Context, bytes: [u8; 64]) {
    if context.is_inherited() {
        return;
    }
    let mut imports = lock(&context.state().imports);
    let Some(import) = imports.get_mut(&bytes) else {
        return;
    };
    import.users -= 1;
    if import.users == 0 {
        let address = import.address;
        imports.remove(&bytes);
        // SAFETY: nothing else closes it, and callers that queued work on it kept it until the device had passed.
        let closed = context
            .call("cuIpcCloseMemHandle", |api| unsafe { (api.ipc_close_mem_handle)(address) });
        if closed.is_err() {
            context.count_leak();
        }
    }
}

impl Drop for ImportedMemory {
    fn drop(&mut self) {
        let (context, bytes) = (self.context, self.handle.bytes);
        // The lock must not be taken while another thread holds it over a call that waits for callbacks.
        if super::callback::on_callback_thread() {
            super::reaper::run(Box::new(move || close(context, bytes)));
        } else {
            close(context, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::DeviceMemory;
    use super::super::fake::Fake;
    use super::*;

    #[test]
    fn memory_is_opened_once_and_closed_once() {
        let fake = Fake::new();
        let (context, other) = (fake.context(0), fake.context(1));
        let memory = DeviceMemory::new(&context, 4096).unwrap();
        let handle = memory.export().unwrap();
        let first = ImportedMemory::open(&other, &handle).unwrap();
        let second = ImportedMemory::open(&other, &handle).unwrap();
        assert_eq!(first.address(), second.address());
        assert_eq!(fake.count("cuIpcOpenMemHandle"), 1);
        drop(first);
        assert_eq!(fake.count("cuIpcCloseMemHandle"), 0);
        drop(second);
        assert_eq!(fake.count("cuIpcCloseMemHandle"), 1);
        drop(ImportedMemory::open(&other, &handle).unwrap());
        assert_eq!(fake.count("cuIpcCloseMemHandle"), 2);
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn a_handle_that_claims_too_much_is_refused_and_closed() {
        let fake = Fake::new();
        let (context, other) = (fake.context(0), fake.context(1));
        let memory = DeviceMemory::new(&context, 4096).unwrap();
        let mut bytes = memory.export().unwrap().to_bytes();
        bytes[64..].copy_from_slice(&4097_u64.to_le_bytes());
        let error = ImportedMemory::open(&other, &IpcMemoryHandle::from_bytes(&bytes)).err();
        let expected = MemoryError::HandleTooLong { claimed: 4097, actual: 4096 };
        assert_eq!(error, Some(expected));
        assert_eq!(fake.count("cuIpcCloseMemHandle"), 1);
        bytes[64..].fill(0);
        let error = ImportedMemory::open(&other, &IpcMemoryHandle::from_bytes(&bytes)).err();
        assert_eq!(error, Some(MemoryError::Empty));
    }

    #[test]
    fn an_address_inside_leads_to_its_allocation() {
        let fake = Fake::new();
        let (context, other) = (fake.context(0), fake.context(1));
        let memory = DeviceMemory::new(&context, 4096).unwrap();
        let (handle, offset) = IpcMemoryHandle::around(&context, memory.address() + 100).unwrap();
        assert_eq!((handle.len(), offset), (4096, 100));
        assert_eq!(handle, memory.export().unwrap());
        assert_eq!(ImportedMemory::open(&other, &handle).unwrap().len(), 4096);
        assert!(IpcMemoryHandle::around(&context, 1).is_err());
    }

    #[test]
    fn bytes_that_name_nothing_are_the_drivers_error() {
        let fake = Fake::new();
        let context = fake.context(0);
        let error = ImportedMemory::open(&context, &IpcMemoryHandle::from_bytes(&[7; 72])).err();
        assert!(
            matches!(&error, Some(MemoryError::Cuda(error)) if error.call == "cuIpcOpenMemHandle"),
            "{error:?}"
        );
    }

    proptest! {
        #[test]
        fn handles_round_trip(bytes in proptest::array::uniform32(any::<u8>()), len in any::<u64>()) {
            let mut all = [0; 64];
            all[..32].copy_from_slice(&bytes);
            let handle = IpcMemoryHandle::new(all, len);
            prop_assert_eq!(IpcMemoryHandle::from_bytes(&handle.to_bytes()), handle);
        }
    }
}

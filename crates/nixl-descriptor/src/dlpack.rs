//! Tensors of other frameworks as regions, by DLPack. Their types and strides are kept by
//! [`Tensor::from_dlpack`](crate::tensor::Tensor::from_dlpack).
//!
//! The structs are those of `dlpack.h` 1.x, with its names.
#![allow(unsafe_code)]
#![expect(clippy::exhaustive_structs, reason = "the layout of each struct is fixed by DLPack")]

use std::ffi::c_void;
use std::ptr::NonNull;
use std::slice;

use nixl_device::Device;

use crate::access::Access;
use crate::region::{Region, RegionError};
use crate::tensor::TensorError;

/// [`DLDevice::device_type`]: host memory.
pub const DL_CPU: i32 = 1;
/// [`DLDevice::device_type`]: memory of an NVIDIA GPU.
pub const DL_CUDA: i32 = 2;
/// [`DLDevice::device_type`]: pinned host memory.
pub const DL_CUDA_HOST: i32 = 3;
/// [`DLManagedTensorVersioned::flags`]: the tensor must not be written.
pub const DL_FLAG_READ_ONLY: u64 = 1;
/// [`DLManagedTensorVersioned::flags`]: each element of less than a byte has a byte of its own.
pub const DL_FLAG_SUBBYTE_PADDED: u64 = 4;

/// The major version of DLPack that is understood.
pub(crate) const MAJOR: u32 = 1;

/// Where a tensor is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DLDevice {
    /// The kind of device, such as [`DL_CUDA`].
    pub device_type: i32,
    /// Which one of its kind.
    pub device_id: i32,
}

/// The type of a tensor's elements.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DLDataType {
    /// What the bits mean; a region has no use for it.
    pub code: u8,
    /// Bits of a lane.
    pub bits: u8,
    /// Lanes of an element.
    pub lanes: u16,
}

/// A tensor that another framework owns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DLTensor {
    /// The start of the allocation.
    pub data: *mut c_void,
    /// Where it is.
    pub device: DLDevice,
    /// Number of dimensions.
    pub ndim: i32,
    /// Type of the elements.
    pub dtype: DLDataType,
    /// `ndim` sizes.
    pub shape: *mut i64,
    /// `ndim` strides in elements; null if the tensor is compact and row-major.
    pub strides: *mut i64,
    /// Bytes from `data` to the first element.
    pub byte_offset: u64,
}

/// A tensor with its deleter; before version 1.0.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensor {
    /// The tensor.
    pub dl_tensor: DLTensor,
    /// For the producer.
    pub manager_ctx: *mut c_void,
    /// The deleter, unless there is nothing to do.
    pub deleter: Option<unsafe extern "C" fn(*mut Self)>,
}

/// The version of DLPack that a producer follows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DLPackVersion {
    /// Changes when the structs do.
    pub major: u32,
    /// Changes when constants are added.
    pub minor: u32,
}

/// A tensor with its deleter; from version 1.0 on.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensorVersioned {
    /// What the producer follows.
    pub version: DLPackVersion,
    /// For the producer.
    pub manager_ctx: *mut c_void,
    /// The deleter, unless there is nothing to do.
    pub deleter: Option<unsafe extern "C" fn(*mut Self)>,
    /// Bits such as [`DL_FLAG_READ_ONLY`].
    pub flags: u64,
    /// The tensor.
    pub dl_tensor: DLTensor,
}

/// Why a tensor cannot be a region.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DlpackError {
    /// The structs may mean something else in this version.
    #[error("the tensor follows DLPack {major}: only version 1 is understood")]
    Version {
        /// The producer's major version.
        major: u32,
    },
    /// The memory is not on the host, pinned or of an NVIDIA GPU.
    #[error("device {device_id} of DLPack type {device_type} is none of CPU, CUDA and pinned host")]
    Device {
        /// [`DLDevice::device_type`]
        device_type: i32,
        /// [`DLDevice::device_id`]
        device_id: i32,
    },
    /// The memory to export is on another kind of device.
    #[error("memory of {device} is not exported: only the host's and that of NVIDIA GPUs is")]
    NotExported {
        /// The device.
        device: Device,
    },
    /// A field contradicts DLPack.
    #[error("the tensor's {field} is invalid")]
    Invalid {
        /// Which one.
        field: &'static str,
    },
    /// Elements are not a whole number of bytes.
    #[error(
        "elements of {lanes} lanes of {bits} bits are not whole bytes: view the tensor as bytes"
    )]
    Element {
        /// [`DLDataType::bits`]
        bits: u8,
        /// [`DLDataType::lanes`]
        lanes: u16,
    },
    /// Elements of less than a byte have a byte each.
    #[error(
        "elements of {bits} bits are padded to bytes, and have no type here: view the tensor as bytes"
    )]
    Padded {
        /// [`DLDataType::bits`]
        bits: u8,
    },
    /// The elements do not follow each other in row-major order.
    #[error(
        "dimension {dimension} has stride {stride} where {expected} is contiguous: make the tensor contiguous"
    )]
    NotContiguous {
        /// The last dimension that is wrong.
        dimension: usize,
        /// Its stride in elements.
        stride: i64,
        /// What it would be.
        expected: i64,
    },
    /// The elements have no type of this crate's.
    #[error(
        "elements of DLPack code {code} and {bits} bits have no type here: view the tensor as bytes"
    )]
    ElementType {
        /// [`DLDataType::code`]
        code: u8,
        /// [`DLDataType::bits`]
        bits: u8,
    },
    /// The memory is empty or not addressable.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The shape, the strides or the alignment are not those of a tensor here, or the memory to export is in use.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl Region {
    /// A region over a tensor of another framework, which stays alive as long as the region's memory is needed.
    ///
    /// The tensor must be contiguous in row-major order, on the host, pinned or on an NVIDIA GPU. Its deleter is called
    /// once: here if this fails, else on the thread that drops the region's last handle or registration. Panics: never.
    ///
    /// # Errors
    /// [`DlpackError`]
    ///
    /// # Safety
    /// * `tensor` is valid as DLPack demands, and this call takes it over.
    /// * Its deleter may be called on any thread.
    /// * The GPU work that produced the tensor is done, or the region is used after the stream on which the consumer has asked for it
    ///   (`nixl_executor::StreamHandle::from_dlpack`).
    /// * Until the deleter is called, its memory is as [`from_raw_parts`](Self::from_raw_parts) demands, with
    ///   [`Access::ReadWrite`]: in particular, the framework neither reads nor writes it while a copy or an operation
    ///   does.
    pub unsafe fn from_dlpack(tensor: NonNull<DLManagedTensor>) -> Result<Self, DlpackError> {
        // SAFETY: the same contract.
        let (dl_tensor, owner) = unsafe { open(tensor) };
        // SAFETY: the same contract.
        unsafe { import(&dl_tensor, Access::ReadWrite, owner) }
    }

    /// As [`from_dlpack`](Self::from_dlpack), for producers that follow DLPack 1.0 or later. A tensor that is flagged
    /// as read-only becomes a read-only region.
    ///
    /// # Errors
    /// [`DlpackError`]
    ///
    /// # Safety
    /// As [`from_dlpack`](Self::from_dlpack), with [`Access::ReadOnly`] if [`DL_FLAG_READ_ONLY`] is set.
    pub unsafe fn from_dlpack_versioned(
        tensor: NonNull<DLManagedTensorVersioned>,
    ) -> Result<Self, DlpackError> {
        // SAFETY: the same contract.
        let (dl_tensor, access, owner) = unsafe { open_versioned(tensor) }?;
        // SAFETY: the same contract.
        unsafe { import(&dl_tensor, access, owner) }
    }
}

/// Takes over a tensor that follows DLPack 1.0 or later.
///
/// # Safety
/// As [`Region::from_dlpack_versioned`].
pub(crate) unsafe fn open_versioned(
    tensor: NonNull<DLManagedTensorVersioned>,
) -> Result<(DLTensor, Access, Owner<DLManagedTensorVersioned>), DlpackError> {
    let at = tensor.as_ptr();
    // SAFETY: valid; version and deleter are in the same place in all versions.
    let version = unsafe { (*at).version };
    // SAFETY: as for the version.
    let deleter = unsafe { (*at).deleter };
    let owner = Owner { tensor, deleter };
    if version.major != MAJOR {
        return Err(DlpackError::Version { major: version.major });
    }
    // SAFETY: the caller vouches for the tensor, and its fields are those of this version.
    let &DLManagedTensorVersioned { dl_tensor, flags, .. } = unsafe { tensor.as_ref() };
    let bits = dl_tensor.dtype.bits;
    if flags & DL_FLAG_SUBBYTE_PADDED != 0 && bits < 8 {
        return Err(DlpackError::Padded { bits });
    }
    let access = match flags & DL_FLAG_READ_ONLY {
        0 => Access::ReadWrite,
        _ => Access::ReadOnly,
    };
    Ok((dl_tensor, access, owner))
}

/// Takes over a tensor of the time before version 1.0.
///
/// # Safety
/// As [`Region::from_dlpack`].
pub(crate) unsafe fn open(tensor: NonNull<DLManagedTensor>) -> (DLTensor, Owner<DLManagedTensor>) {
    // SAFETY: the caller vouches for the tensor.
    let &DLManagedTensor { dl_tensor, deleter, .. } = unsafe { tensor.as_ref() };
    (dl_tensor, Owner { tensor, deleter })
}

/// Calls the deleter when it is dropped.
pub(crate) struct Owner<T> {
    tensor: NonNull<T>,
    deleter: Option<unsafe extern "C" fn(*mut T)>,
}

// SAFETY: only the deleter uses the pointer, and it may be called on any thread.
unsafe impl<T> Send for Owner<T> {}
// SAFETY: nothing can be done with a shared reference.
unsafe impl<T> Sync for Owner<T> {}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        if let Some(delete) = self.deleter {
            // SAFETY: the caller of the import gave the tensor away, and this is the only call.
            unsafe { delete(self.tensor.as_ptr()) }
        }
    }
}

/// # Safety
/// As [`Region::from_dlpack`], with `access`; `owner` keeps the tensor.
unsafe fn import<T: 'static>(
    tensor: &DLTensor,
    access: Access,
    owner: Owner<T>,
) -> Result<Region, DlpackError> {
    let device = device_of(tensor)?;
    // SAFETY: the owner keeps shape and strides.
    let len = unsafe { contiguous_len(tensor) }?;
    if len == 0 {
        return Err(RegionError::Empty.into());
    }
    let first = first_byte(tensor)?;
    // SAFETY: the tensor's elements are `len` bytes from there on; the rest is the caller's promise.
    Ok(unsafe { Region::from_raw_parts(first, len, device, access, owner) }?)
}

pub(crate) fn device_of(tensor: &DLTensor) -> Result<Device, DlpackError> {
    let DLDevice { device_type, device_id } = tensor.device;
    match (device_type, u32::try_from(device_id)) {
        (DL_CPU | DL_CUDA_HOST, _) => Ok(Device::HOST),
        (DL_CUDA, Ok(ordinal)) => Ok(Device::cuda(ordinal)),
        _ => Err(DlpackError::Device { device_type, device_id }),
    }
}

/// The first element.
pub(crate) fn first_byte(tensor: &DLTensor) -> Result<NonNull<u8>, DlpackError> {
    let data = NonNull::new(tensor.data).ok_or(DlpackError::Invalid { field: "data" })?;
    let offset = usize::try_from(tensor.byte_offset)
        .ok()
        .filter(|offset| data.addr().get().checked_add(*offset).is_some())
        .ok_or(DlpackError::Invalid { field: "byte_offset" })?;
    NonNull::new(data.as_ptr().cast::<u8>().wrapping_add(offset))
        .ok_or(DlpackError::Invalid { field: "byte_offset" })
}

/// Bytes of a tensor whose elements follow each other.
///
/// # Safety
/// Shape and strides are as DLPack demands.
unsafe fn contiguous_len(tensor: &DLTensor) -> Result<usize, DlpackError> {
    let DLDataType { bits, lanes, .. } = tensor.dtype;
    let element_bits = usize::from(bits) * usize::from(lanes);
    if element_bits == 0 || element_bits % 8 != 0 {
        return Err(DlpackError::Element { bits, lanes });
    }
    // SAFETY: the same contract.
    let (shape, strides) = unsafe { sizes(tensor) }?;

    // Sizes first, because strides mean nothing in a tensor without elements.
    let mut elements = 1i64;
    for &size in shape {
        let product = Some(size).filter(|size| *size >= 0).and_then(|n| elements.checked_mul(n));
        elements = product.ok_or(DlpackError::Invalid { field: "shape" })?;
    }
    if let Some(strides) = strides.filter(|_| elements > 0) {
        let mut expected = 1;
        for (dimension, (&size, &stride)) in shape.iter().zip(strides).enumerate().rev() {
            // The stride of a single step is never used.
            if size > 1 && stride != expected {
                return Err(DlpackError::NotContiguous { dimension, stride, expected });
            }
            expected *= size; // At most `elements`.
        }
    }
    let elements = usize::try_from(elements).ok();
    let len = elements.and_then(|elements| elements.checked_mul(element_bits / 8));
    len.ok_or(DlpackError::Invalid { field: "shape" })
}

/// The shape, and the strides if there are any.
///
/// # Safety
/// Shape and strides are as DLPack demands, for as long as the caller uses them.
pub(crate) unsafe fn sizes<'a>(
    tensor: &DLTensor,
) -> Result<(&'a [i64], Option<&'a [i64]>), DlpackError> {
    let dimensions =
        usize::try_from(tensor.ndim).map_err(|_| DlpackError::Invalid { field: "ndim" })?;
    // SAFETY: `ndim` sizes, if there are any.
    let shape = unsafe { numbers(tensor.shape, dimensions) };
    // SAFETY: `ndim` strides, or none.
    let strides = unsafe { numbers(tensor.strides, dimensions) };
    Ok((shape.ok_or(DlpackError::Invalid { field: "shape" })?, strides))
}

/// # Safety
/// `first` is null, or `count` numbers are there for as long as the caller uses them.
unsafe fn numbers<'a>(first: *const i64, count: usize) -> Option<&'a [i64]> {
    match count {
        0 => Some(&[]),
        // SAFETY: the caller's promise.
        _ => (!first.is_null()).then(|| unsafe { slice::from_raw_parts(first, count) }),
    }
}

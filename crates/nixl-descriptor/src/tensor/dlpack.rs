//! Tensors to and from other frameworks, by DLPack.
#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::c_void;
use std::ptr::{self, NonNull};

use nixl_device::DeviceKind;

use super::dtype::DType;
use super::error::TensorError;
use super::memory::Tensor;
use super::shape::TensorLayout;
use crate::access::Access;
use crate::dlpack::{
    DL_CPU, DL_CUDA, DL_FLAG_READ_ONLY, DLDataType, DLDevice, DLManagedTensor,
    DLManagedTensorVersioned, DLPackVersion, DLTensor, DlpackError, MAJOR, device_of, first_byte,
    open, open_versioned, sizes,
};
use crate::lease::{LeaseMode, LeaseSet, Leases};
use crate::region::Region;

impl Tensor {
    /// A tensor of another framework, with its strides. Elements of several lanes get a last dimension of so many.
    ///
    /// It need not be contiguous: its region extends from the first element to the end of the last one. Otherwise as
    /// [`Region::from_dlpack`].
    ///
    /// # Errors
    /// [`DlpackError`]
    ///
    /// # Safety
    /// As [`Region::from_dlpack`]; and its contract holds for the bytes between the elements, too.
    pub unsafe fn from_dlpack(tensor: NonNull<DLManagedTensor>) -> Result<Self, DlpackError> {
        // SAFETY: the same contract.
        let (dl_tensor, owner) = unsafe { open(tensor) };
        // SAFETY: the same contract.
        unsafe { import(&dl_tensor, Access::ReadWrite, owner) }
    }

    /// As [`from_dlpack`](Self::from_dlpack), for producers that follow DLPack 1.0 or later. A tensor that is flagged as read-only
    /// becomes a read-only one.
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

    /// This tensor for another framework, which calls the deleter when it needs it no longer.
    ///
    /// Until then, the memory from the first element to the end of the last one is leased: for writing, or for reading if the
    /// region is read-only. So no operation and no copy by the host conflicts with the framework's accesses. The lease does not
    /// hold back a peer that was offered the memory earlier. Operations that moved bytes here are over by then, so the stream on
    /// which a consumer takes the tensor has no work of theirs to wait for. Panics: never.
    ///
    /// # Errors
    /// [`DlpackError::Tensor`] if an operation uses the memory, [`DlpackError::NotExported`] for memory that is neither
    /// the host's nor an NVIDIA GPU's.
    pub fn into_dlpack(self) -> Result<NonNull<DLManagedTensorVersioned>, DlpackError> {
        let (at, device_id) = (self.device(), self.device().index());
        let device = match (at.kind(), i32::try_from(device_id)) {
            (DeviceKind::Host, _) => DLDevice { device_type: DL_CPU, device_id: 0 },
            (DeviceKind::Cuda, Ok(device_id)) => DLDevice { device_type: DL_CUDA, device_id },
            _ => return Err(DlpackError::NotExported { device: at }),
        };
        let (mode, flags) = match self.access() {
            Access::ReadOnly => (LeaseMode::Read, DL_FLAG_READ_ONLY),
            Access::ReadWrite => (LeaseMode::Write, 0),
        };
        let leases = Leases::acquire(std::slice::from_ref(self.memory()), mode);
        let leases = leases.map_err(TensorError::from)?;
        // Sizes and strides of memory that exists are at most `isize::MAX`, or belong to a dimension of one element.
        let numbers = |of: &[usize]| of.iter().map(|&number| number as i64).collect();
        let (shape, strides) = (numbers(self.shape()), numbers(self.strides()));
        let (code, bits) = self.dtype().to_dlpack();
        let address = self.memory().address();
        let exported = Exported { shape, strides, _leases: leases };
        let exported = NonNull::from(Box::leak(Box::new(exported)));
        // SAFETY: just leaked, and nothing else refers to it.
        let Exported { shape, strides, .. } = unsafe { &mut *exported.as_ptr() };
        let dl_tensor = DLTensor {
            data: ptr::with_exposed_provenance_mut::<c_void>(address as usize),
            device,
            ndim: shape.len() as i32, // At most 64.
            dtype: DLDataType { code, bits, lanes: 1 },
            shape: shape.as_mut_ptr(),
            strides: strides.as_mut_ptr(),
            byte_offset: 0,
        };
        let managed = DLManagedTensorVersioned {
            version: DLPackVersion { major: MAJOR, minor: 1 },
            manager_ctx: exported.as_ptr().cast(),
            deleter: Some(delete),
            flags,
            dl_tensor,
        };
        Ok(NonNull::from(Box::leak(Box::new(managed))))
    }
}

/// Everything that an exported tensor refers to. The leases hold the region.
struct Exported {
    shape: Box<[i64]>,
    strides: Box<[i64]>,
    _leases: LeaseSet,
}

/// The deleter of exported tensors.
///
/// # Safety
/// `tensor` is of [`Tensor::into_dlpack`], and this is the only call for it.
unsafe extern "C" fn delete(tensor: *mut DLManagedTensorVersioned) {
    // SAFETY: made by `into_dlpack` of a box, which is given back once.
    let tensor = unsafe { Box::from_raw(tensor) };
    // SAFETY: the same for its context.
    drop(unsafe { Box::from_raw(tensor.manager_ctx.cast::<Exported>()) });
}

/// # Safety
/// As [`Tensor::from_dlpack`], with `access`; `owner` keeps the tensor.
unsafe fn import(
    tensor: &DLTensor,
    access: Access,
    owner: impl Any + Send + Sync,
) -> Result<Tensor, DlpackError> {
    let device = device_of(tensor)?;
    let DLDataType { code, bits, lanes } = tensor.dtype;
    let dtype = DType::from_dlpack(code, bits).ok_or(DlpackError::ElementType { code, bits })?;
    // SAFETY: the owner keeps shape and strides.
    let (shape, strides) = unsafe { sizes(tensor) }?;
    let layout = layout(dtype, shape, strides, lanes)?;
    let first = first_byte(tensor)?;
    // SAFETY: the elements lie in `span` bytes from there on; the rest is the caller's promise.
    let region = unsafe { Region::from_raw_parts(first, layout.span(), device, access, owner) }?;
    Ok(Tensor::with_layout(region, layout)?)
}

fn layout(
    dtype: DType,
    shape: &[i64],
    strides: Option<&[i64]>,
    lanes: u16,
) -> Result<TensorLayout, DlpackError> {
    let size =
        |&size: &i64| usize::try_from(size).map_err(|_| DlpackError::Invalid { field: "shape" });
    let mut sizes = shape.iter().map(size).collect::<Result<Vec<_>, _>>()?;
    let lanes = match lanes {
        0 => return Err(DlpackError::Element { bits: dtype.bits() as u8, lanes }),
        lanes => i64::from(lanes),
    };
    if lanes > 1 {
        sizes.push(lanes as usize);
    }
    let Some(strides) = strides else {
        return Ok(TensorLayout::new(dtype, &sizes)?);
    };
    let in_lanes = strides.iter().enumerate().map(|(axis, &stride)| {
        stride.checked_mul(lanes).ok_or(TensorError::Overflow { dtype, axis })
    });
    let mut in_lanes = in_lanes.collect::<Result<Vec<_>, _>>()?;
    if lanes > 1 {
        in_lanes.push(1);
    }
    Ok(TensorLayout::strided(dtype, &sizes, &in_lanes)?)
}

//! Tensors come in once, whole, and are let go once.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use nixl_descriptor::dlpack::*;
use nixl_descriptor::tensor::{DType, Tensor};
use nixl_descriptor::{Access, Region, RegionError};
use nixl_device::Device;
use proptest::prelude::*;

/// What a producer keeps for a tensor.
struct Context {
    data: Vec<u8>,
    shape: Vec<i64>,
    strides: Option<Vec<i64>>,
    deleted: Arc<AtomicUsize>,
}

impl Context {
    fn tensor(&mut self, byte_offset: u64) -> DLTensor {
        DLTensor {
            data: self.data.as_mut_ptr().cast(),
            device: DLDevice { device_type: DL_CPU, device_id: 0 },
            ndim: self.shape.len() as i32,
            dtype: DLDataType { code: 1, bits: 16, lanes: 1 },
            shape: self.shape.as_mut_ptr(),
            strides: self.strides.as_mut().map_or(ptr::null_mut(), |strides| strides.as_mut_ptr()),
            byte_offset,
        }
    }
}

fn let_go(context: *mut c_void) {
    // SAFETY: made by `produce` or `produce_versioned`; a second call would be seen as a double free.
    let context = unsafe { Box::from_raw(context.cast::<Context>()) };
    context.deleted.fetch_add(1, SeqCst);
}

unsafe extern "C" fn delete(tensor: *mut DLManagedTensor) {
    // SAFETY: made by `produce`.
    let tensor = unsafe { Box::from_raw(tensor) };
    let_go(tensor.manager_ctx);
}

unsafe extern "C" fn delete_versioned(tensor: *mut DLManagedTensorVersioned) {
    // SAFETY: made by `produce_versioned`.
    let tensor = unsafe { Box::from_raw(tensor) };
    let_go(tensor.manager_ctx);
}

fn context(bytes: usize, shape: &[i64], strides: Option<&[i64]>) -> (Context, Arc<AtomicUsize>) {
    let deleted = Arc::new(AtomicUsize::new(0));
    let data = (0..bytes).map(|at| at as u8).collect();
    let strides = strides.map(<[i64]>::to_vec);
    let context = Context { data, shape: shape.to_vec(), strides, deleted: Arc::clone(&deleted) };
    (context, deleted)
}

/// Imports a tensor that was changed by `change`.
fn import(mut context: Context, change: impl FnOnce(&mut DLTensor)) -> Result<Region, DlpackError> {
    let mut dl_tensor = context.tensor(0);
    change(&mut dl_tensor);
    let manager_ctx = Box::into_raw(Box::new(context)).cast();
    let tensor = DLManagedTensor { dl_tensor, manager_ctx, deleter: Some(delete) };
    // SAFETY: as DLPack demands, other than what is to be refused.
    unsafe { Region::from_dlpack(NonNull::from(Box::leak(Box::new(tensor)))) }
}

fn import_versioned(
    context: Context,
    change: impl FnOnce(&mut DLManagedTensorVersioned),
) -> Result<Region, DlpackError> {
    // SAFETY: as DLPack demands, other than what is to be refused.
    unsafe { Region::from_dlpack_versioned(produce_versioned(context, change)) }
}

fn produce_versioned(
    mut context: Context,
    change: impl FnOnce(&mut DLManagedTensorVersioned),
) -> NonNull<DLManagedTensorVersioned> {
    let dl_tensor = context.tensor(0);
    let manager_ctx = Box::into_raw(Box::new(context)).cast();
    let version = DLPackVersion { major: 1, minor: 1 };
    let deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)> =
        Some(delete_versioned);
    let mut tensor =
        DLManagedTensorVersioned { version, manager_ctx, deleter, flags: 0, dl_tensor };
    change(&mut tensor);
    NonNull::from(Box::leak(Box::new(tensor)))
}

/// Row-major strides; `odd` where a dimension has one step.
fn strides(shape: &[i64], odd: i64) -> Vec<i64> {
    let stride = |at: usize| shape[at + 1..].iter().product();
    (0..shape.len()).map(|at| if shape[at] == 1 { odd } else { stride(at) }).collect()
}

proptest! {
    #[test]
    fn contiguous_tensors_become_regions(
        shape in proptest::collection::vec(1..5i64, 0..4), given: bool, offset in 0..5usize, odd: i64,
    ) {
        let bytes = 2 * shape.iter().product::<i64>() as usize;
        let strides = strides(&shape, odd);
        let (context, deleted) = context(bytes + offset, &shape, given.then_some(&strides[..]));
        let region = import(context, |tensor| tensor.byte_offset = offset as u64).unwrap();
        prop_assert_eq!((region.device(), region.access()), (Device::HOST, Access::ReadWrite));
        let expected: Vec<u8> = (offset..offset + bytes).map(|at| at as u8).collect();
        prop_assert_eq!(region.to_vec().unwrap(), expected);
        let descriptor = region.whole();
        drop(region);
        prop_assert_eq!(deleted.load(SeqCst), 0);
        drop(descriptor);
        prop_assert_eq!(deleted.load(SeqCst), 1);
    }

    #[test]
    fn other_strides_are_refused(
        shape in proptest::collection::vec(2..5i64, 1..4), which: usize, by in prop_oneof![-3..0i64, 1..3i64],
    ) {
        let dimension = which % shape.len();
        let mut strides = strides(&shape, 0);
        let expected = strides[dimension];
        strides[dimension] += by;
        let (context, deleted) = context(2, &shape, Some(&strides));
        let error = DlpackError::NotContiguous { dimension, stride: expected + by, expected };
        prop_assert_eq!(import(context, |_| ()).unwrap_err(), error);
        prop_assert_eq!(deleted.load(SeqCst), 1);
    }
}

#[test]
fn devices_are_recognised() {
    let device = |device_type, device_id| {
        let (context, deleted) = context(8, &[4], None);
        let result = import(context, |tensor| tensor.device = DLDevice { device_type, device_id });
        let device = result.as_ref().map(Region::device).map_err(Clone::clone);
        drop(result);
        assert_eq!(deleted.load(SeqCst), 1);
        device
    };
    assert_eq!(device(DL_CPU, 0), Ok(Device::HOST));
    assert_eq!(device(DL_CUDA_HOST, 1), Ok(Device::HOST));
    assert_eq!(device(DL_CUDA, 3), Ok(Device::cuda(3)));
    for (device_type, device_id) in [(DL_CUDA, -1), (10, 0), (13, 0), (0, 0)] {
        let error = DlpackError::Device { device_type, device_id };
        assert_eq!(device(device_type, device_id), Err(error));
    }
}

#[test]
fn malformed_tensors_are_refused_and_let_go() {
    let refused = |shape: &[i64], change: fn(&mut DLTensor)| {
        let (context, deleted) = context(64, shape, None);
        let error = import(context, change).unwrap_err();
        assert_eq!(deleted.load(SeqCst), 1);
        error
    };
    let invalid = |field| DlpackError::Invalid { field };
    assert_eq!(refused(&[4], |t| t.ndim = -1), invalid("ndim"));
    assert_eq!(refused(&[4], |t| t.shape = ptr::null_mut()), invalid("shape"));
    assert_eq!(refused(&[4], |t| t.data = ptr::null_mut()), invalid("data"));
    assert_eq!(refused(&[4], |t| t.byte_offset = u64::MAX), invalid("byte_offset"));
    assert_eq!(refused(&[4, -1], |_| ()), invalid("shape"));
    assert_eq!(refused(&[i64::MAX, 2], |_| ()), invalid("shape"));
    assert_eq!(refused(&[i64::MAX / 2, 2], |t| t.dtype.lanes = 4), invalid("shape"));
    assert_eq!(refused(&[4, 0], |_| ()), RegionError::Empty.into());
    let odd = DlpackError::Element { bits: 4, lanes: 1 };
    assert_eq!(refused(&[4], |t| t.dtype.bits = 4), odd);
    let overflow = refused(&[i64::MAX / 2], |t| t.dtype.bits = 32);
    assert!(matches!(overflow, DlpackError::Region(RegionError::AddressOverflow { .. })));
}

#[test]
fn versions_and_flags_are_heeded() {
    let (writable, deleted) = context(8, &[4], None);
    let region = import_versioned(writable, |_| ()).unwrap();
    assert_eq!(region.access(), Access::ReadWrite);
    drop(region);
    assert_eq!(deleted.load(SeqCst), 1);

    let (read_only, deleted) = context(8, &[4], None);
    let region = import_versioned(read_only, |tensor| tensor.flags = 7).unwrap();
    assert_eq!(region.access(), Access::ReadOnly);
    drop(region);
    assert_eq!(deleted.load(SeqCst), 1);

    let (future, deleted) = context(8, &[4], None);
    let error = import_versioned(future, |tensor| tensor.version.major = 2).unwrap_err();
    assert_eq!(error, DlpackError::Version { major: 2 });
    assert_eq!(deleted.load(SeqCst), 1);
}

#[test]
fn padded_elements_of_less_than_a_byte_are_refused_and_let_go() {
    let (code, bits) = DType::F4.to_dlpack();
    assert_eq!(bits, 4);
    let with = |(code, bits): (u8, u8), flags: u64| {
        let (context, deleted) = context(8, &[4], None);
        let produced = produce_versioned(context, |tensor| {
            tensor.dl_tensor.dtype = DLDataType { code, bits, lanes: 1 };
            tensor.flags = flags;
        });
        // SAFETY: as DLPack demands.
        let result = unsafe { Tensor::from_dlpack_versioned(produced) };
        let len = result.as_ref().map(|tensor| tensor.layout().byte_len()).map_err(Clone::clone);
        drop(result);
        assert_eq!(deleted.load(SeqCst), 1);
        len
    };
    assert_eq!(with((code, bits), 0), Ok(2), "packed");
    for flags in [DL_FLAG_SUBBYTE_PADDED, DL_FLAG_SUBBYTE_PADDED | DL_FLAG_READ_ONLY] {
        assert_eq!(with((code, bits), flags), Err(DlpackError::Padded { bits: 4 }));
        // Elements of whole bytes have nothing to pad.
        assert_eq!(with(DType::U8.to_dlpack(), flags), Ok(4));
    }
}

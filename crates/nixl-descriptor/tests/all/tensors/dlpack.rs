//! Tensors cross DLPack with their types and strides, and are freed once.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use nixl_descriptor::dlpack::*;
use nixl_descriptor::tensor::{DType, Tensor, TensorError};
use nixl_descriptor::{AccessError, LeaseMode, Region};

struct Producer {
    data: Vec<u16>,
    shape: Vec<i64>,
    strides: Vec<i64>,
    deleted: Arc<AtomicUsize>,
}

unsafe extern "C" fn delete(tensor: *mut DLManagedTensor) {
    // SAFETY: made by `import`.
    let tensor = unsafe { Box::from_raw(tensor) };
    // SAFETY: the same; a second call would be seen as a double free.
    let producer = unsafe { Box::from_raw(tensor.manager_ctx.cast::<Producer>()) };
    producer.deleted.fetch_add(1, SeqCst);
}

fn import(
    (shape, strides): (&[i64], Option<&[i64]>),
    dtype: DLDataType,
) -> (Result<Tensor, DlpackError>, Arc<AtomicUsize>) {
    let deleted = Arc::new(AtomicUsize::new(0));
    let producer = Box::leak(Box::new(Producer {
        data: (0..64).collect(),
        shape: shape.to_vec(),
        strides: strides.unwrap_or_default().to_vec(),
        deleted: Arc::clone(&deleted),
    }));
    let strides = strides.map_or(ptr::null_mut(), |_| producer.strides.as_mut_ptr());
    let dl_tensor = DLTensor {
        data: producer.data.as_mut_ptr().cast(),
        device: DLDevice { device_type: DL_CPU, device_id: 0 },
        ndim: shape.len() as i32,
        dtype,
        shape: producer.shape.as_mut_ptr(),
        strides,
        byte_offset: 4,
    };
    let manager_ctx: *mut c_void = ptr::from_mut(producer).cast();
    let tensor = DLManagedTensor { dl_tensor, manager_ctx, deleter: Some(delete) };
    // SAFETY: as DLPack demands, other than what is to be refused.
    let imported = unsafe { Tensor::from_dlpack(NonNull::from(Box::leak(Box::new(tensor)))) };
    (imported, deleted)
}

const U16: DLDataType = DLDataType { code: 1, bits: 16, lanes: 1 };

#[test]
fn strides_and_lanes_are_kept() {
    let (tensor, deleted) = import((&[2, 3], Some(&[1, 8])), U16);
    let tensor = tensor.unwrap();
    assert_eq!((tensor.dtype(), tensor.strides()), (DType::U16, &[1, 8][..]));
    assert_eq!(tensor.to_vec::<u16>().unwrap(), [2, 10, 18, 3, 11, 19]);
    assert_eq!(deleted.load(SeqCst), 0);
    drop(tensor);
    assert_eq!(deleted.load(SeqCst), 1);

    let (tensor, _) = import((&[3], Some(&[2])), DLDataType { lanes: 2, ..U16 });
    let tensor = tensor.unwrap();
    assert_eq!((tensor.shape(), tensor.strides()), (&[3, 2][..], &[4, 1][..]));
    assert_eq!(tensor.to_vec::<u16>().unwrap(), [2, 3, 6, 7, 10, 11]);
    let (tensor, _) = import((&[2, 2], None), U16);
    assert_eq!(tensor.unwrap().to_vec::<u16>().unwrap(), [2, 3, 4, 5]);
}

#[test]
fn what_is_refused_is_freed_once() {
    let refused = |sizes: (&[i64], Option<&[i64]>), dtype| {
        let (tensor, deleted) = import(sizes, dtype);
        assert_eq!(deleted.load(SeqCst), 1);
        tensor.unwrap_err()
    };
    let error = refused((&[2], None), DLDataType { code: 200, bits: 16, lanes: 1 });
    assert_eq!(error, DlpackError::ElementType { code: 200, bits: 16 });
    let error = refused((&[2], None), DLDataType { lanes: 0, ..U16 });
    assert_eq!(error, DlpackError::Element { bits: 16, lanes: 0 });
    let error = refused((&[2], Some(&[-1])), U16);
    assert_eq!(error, DlpackError::Tensor(TensorError::NegativeStride { axis: 0, stride: -1 }));
    let error = refused((&[2, 2], Some(&[0, 1])), U16);
    let overlap = TensorError::Overlap { axis: 0, stride: 0, extent: 1 };
    assert_eq!(error, DlpackError::Tensor(overlap));
    assert_eq!(refused((&[-1], None), U16), DlpackError::Invalid { field: "shape" });
    let error = refused((&[0], None), U16);
    assert_eq!(error, DlpackError::Tensor(TensorError::Empty { axis: 0 }));
}

#[test]
fn an_exported_tensor_is_leased_until_its_deleter_is_called() {
    let tensor = Tensor::from_vec((0..12u16).collect(), &[3, 4]).unwrap();
    let view = tensor.slice(1, 1..3).unwrap();
    let exported = view.clone().into_dlpack().unwrap();
    let leased = TensorError::Access(AccessError::Leased { mode: LeaseMode::Write });
    assert_eq!(view.to_vec::<u16>().unwrap_err(), leased);
    assert!(matches!(view.clone().into_dlpack(), Err(DlpackError::Tensor(TensorError::Lease(_)))));
    // SAFETY: valid until the deleter is called.
    let dl_tensor = unsafe { exported.as_ref() }.dl_tensor;
    assert_eq!((dl_tensor.ndim, dl_tensor.dtype.code, dl_tensor.dtype.bits), (2, 1, 16));
    assert_eq!(dl_tensor.data.addr() as u64, view.memory().address());

    // This crate takes it as any other framework does, and has the same elements.
    // SAFETY: the tensor is this crate's own, and is given away here.
    let again = unsafe { Tensor::from_dlpack_versioned(exported) }.unwrap();
    assert_eq!((again.shape(), again.strides()), (view.shape(), view.strides()));
    assert_eq!(again.to_vec::<u16>().unwrap(), [1, 2, 5, 6, 9, 10]);
    drop(again);
    assert_eq!(view.to_vec::<u16>().unwrap(), [1, 2, 5, 6, 9, 10]);
}

#[test]
fn a_read_only_tensor_is_exported_as_one() {
    let region = Region::try_from(bytes::Bytes::from_static(&[1, 2, 3])).unwrap();
    let tensor = Tensor::new(region, DType::U8, &[3]).unwrap();
    let exported = tensor.clone().into_dlpack().unwrap();
    // SAFETY: valid until the deleter is called.
    assert_eq!(unsafe { exported.as_ref() }.flags, DL_FLAG_READ_ONLY);
    assert_eq!(tensor.to_vec::<u8>().unwrap(), [1, 2, 3], "it may be read meanwhile");
    // SAFETY: the same.
    let delete = unsafe { exported.as_ref() }.deleter.unwrap();
    // SAFETY: called once.
    unsafe { delete(exported.as_ptr()) };
}

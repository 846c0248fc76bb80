//! Copies of elements respect leases, strides and devices.

use nixl_descriptor::tensor::{DType, Tensor, TensorError};
use nixl_descriptor::{AccessError, DescriptorList, LeaseMode, Leases, Region};

#[test]
fn elements_go_in_and_out_in_row_major_order() {
    let tensor = Tensor::from_vec(vec![0i32; 12], &[3, 4]).unwrap();
    let column = tensor.slice(1, 1..3).unwrap().permute(&[1, 0]).unwrap();
    column.copy_from_slice(&[1, 2, 3, 4, 5, 6]).unwrap();
    assert_eq!(tensor.to_vec::<i32>().unwrap(), [0, 1, 4, 0, 0, 2, 5, 0, 0, 3, 6, 0]);
    assert_eq!(column.to_vec::<i32>().unwrap(), [1, 2, 3, 4, 5, 6]);
    let bytes: Vec<u8> = [1i32, 2, 3, 4, 5, 6].iter().flat_map(|n| n.to_le_bytes()).collect();
    assert_eq!(column.to_bytes().unwrap(), bytes);
    let flags = Tensor::new(Region::try_from(vec![1u8, 0]).unwrap(), DType::Bool, &[2]).unwrap();
    assert_eq!(flags.to_bytes().unwrap(), [1, 0]);
}

#[cfg(feature = "half")]
#[test]
fn half_precision_is_an_element() {
    let values = [1.5f32, -2.0].map(half::bf16::from_f32);
    let tensor = Tensor::from_vec(values.to_vec(), &[2]).unwrap();
    assert_eq!(tensor.dtype(), DType::BF16);
    assert_eq!(tensor.to_vec::<half::bf16>().unwrap(), values);
    assert!(tensor.to_vec::<half::f16>().is_err());
}

#[test]
fn an_operation_leases_the_elements_and_none_between_them() {
    let tensor = Tensor::from_vec(vec![0u8; 16], &[4, 4]).unwrap();
    let (left, right) = (tensor.slice(1, ..2).unwrap(), tensor.slice(1, 2..).unwrap());
    let list = DescriptorList::try_from(&left).unwrap();
    let held = Leases::acquire_list(list, LeaseMode::Write).unwrap();
    right.copy_from_slice(&[7u8; 8]).unwrap();
    assert_eq!(right.to_vec::<u8>().unwrap(), [7; 8]);
    let leased = TensorError::Access(AccessError::Leased { mode: LeaseMode::Write });
    assert_eq!(left.to_vec::<u8>().unwrap_err(), leased);
    assert_eq!(tensor.copy_from_slice(&[0u8; 16]).unwrap_err(), leased);
    drop(held);
    assert_eq!(left.to_vec::<u8>().unwrap(), [0; 8]);
}

#[test]
fn a_view_keeps_the_memory() {
    let tensor = Tensor::from_vec(vec![1u64, 2, 3], &[3]).unwrap();
    let last = tensor.select(0, 2).unwrap();
    drop(tensor);
    assert_eq!((last.shape(), last.to_vec::<u64>().unwrap()), (&[][..], vec![3]));
}

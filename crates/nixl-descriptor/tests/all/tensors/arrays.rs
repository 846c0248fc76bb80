//! Arrays of `ndarray` keep their memory and strides.

use ndarray::{Array2, ArrayD, ShapeBuilder, arr2};
use nixl_descriptor::tensor::{Tensor, TensorError};

#[test]
fn arrays_are_taken_over_in_any_order_of_dimensions() {
    let array = arr2(&[[1u16, 2, 3], [4, 5, 6]]);
    let dynamic: ArrayD<u16> = array.clone().into_dyn();
    let address = array.as_ptr() as u64;
    let tensor = Tensor::from_ndarray(array).unwrap();
    assert_eq!(tensor.memory().address(), address, "not copied");
    assert_eq!(tensor.to_ndarray::<u16>().unwrap(), dynamic);

    let columns = Array2::from_shape_vec((2, 3).f(), vec![1u16, 4, 2, 5, 3, 6]).unwrap();
    let tensor = Tensor::from_ndarray(columns).unwrap();
    assert_eq!((tensor.strides(), tensor.is_contiguous()), (&[1, 2][..], false));
    assert_eq!(tensor.to_ndarray::<u16>().unwrap(), dynamic);
}

#[test]
fn parts_of_arrays_are_taken_over_and_reversed_ones_refused() {
    let mut array = Array2::from_shape_fn((4, 4), |(row, column)| (4 * row + column) as f32);
    array.slice_collapse(ndarray::s![1..3, 2..]);
    let expected = array.clone().into_dyn();
    let tensor = Tensor::from_ndarray(array).unwrap();
    assert_eq!(tensor.to_ndarray::<f32>().unwrap(), expected);

    let mut reversed = arr2(&[[1u8, 2], [3, 4]]);
    reversed.invert_axis(ndarray::Axis(0));
    let error = Tensor::from_ndarray(reversed).unwrap_err();
    assert_eq!(error, TensorError::NegativeStride { axis: 0, stride: -2 });
    // The stride of a dimension with one element has no effect.
    let mut row = arr2(&[[1u8, 2]]);
    row.invert_axis(ndarray::Axis(0));
    let row = Tensor::from_ndarray(row).unwrap();
    assert_eq!((row.shape(), row.to_vec::<u8>()), (&[1, 2][..], Ok(vec![1, 2])));
    let empty = Tensor::from_ndarray(Array2::<u8>::zeros((0, 3))).unwrap_err();
    assert_eq!(empty, TensorError::Empty { axis: 0 });
}

//! Arrays of the crate `ndarray`.

use ndarray::{Array, ArrayD, Dimension, IxDyn};

use super::element::Element;
use super::error::TensorError;
use super::memory::Tensor;
use super::shape::TensorLayout;
use crate::region::{Region, RegionError};

impl Tensor {
    /// A tensor of an array's memory, with its strides, without a copy. Panics: never.
    ///
    /// # Errors
    /// [`TensorError::NegativeStride`] for an array that runs backwards, and [`TensorError::Region`] or [`TensorError::Empty`]
    /// without elements. To copy such an array to row-major order first is up to the caller: `array.as_standard_layout()`.
    pub fn from_ndarray<T: Element, D: Dimension>(array: Array<T, D>) -> Result<Self, TensorError> {
        let shape = array.shape().to_vec();
        let strides: Vec<i64> = array.strides().iter().map(|&stride| stride as i64).collect();
        let layout = TensorLayout::strided(T::DTYPE, &shape, &strides)?;
        let (values, first) = array.into_raw_vec_and_offset();
        let region = Region::from_pod(values)?;
        let first = first.ok_or(RegionError::Empty)? * size_of::<T>();
        Self::with_layout(region.descriptor(first..)?, layout)
    }

    /// A copy of the elements, in row-major order. Panics: never.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    pub fn to_ndarray<T: Element>(&self) -> Result<ArrayD<T>, TensorError> {
        let (values, shape) = (self.to_vec::<T>()?, self.shape());
        let (elements, given) = (self.layout().elements(), values.len());
        ArrayD::from_shape_vec(IxDyn(shape), values)
            .map_err(|_| TensorError::Reshape { elements: given, wanted: elements })
    }
}

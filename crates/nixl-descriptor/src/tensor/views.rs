//! Views: other shapes of the same memory.

use std::ops::RangeBounds;

use super::error::TensorError;
use super::memory::Tensor;
use super::shape::TensorLayout;
use crate::bounds::bounds;

impl Tensor {
    /// The elements in another shape, in the same row-major order. Panics: never.
    ///
    /// # Errors
    /// [`TensorError::NotContiguous`], [`TensorError::Reshape`] for another number of elements, and those of
    /// [`TensorLayout::new`].
    pub fn reshape(&self, shape: &[usize]) -> Result<Self, TensorError> {
        if let Some(gap) = self.layout().first_gap() {
            return Err(gap);
        }
        let layout = TensorLayout::new(self.dtype(), shape)?;
        let (elements, wanted) = (self.layout().elements(), layout.elements());
        match elements == wanted {
            true => Ok(self.view(layout, 0)),
            false => Err(TensorError::Reshape { elements, wanted }),
        }
    }

    /// The dimensions in another order: dimension `i` of the view is `axes[i]` of this one. Panics: never.
    ///
    /// # Errors
    /// [`TensorError::NoSuchAxis`] or [`TensorError::NotAPermutation`], and [`TensorError::SubByte`] if elements of less than a
    /// byte would no longer be adjacent.
    pub fn permute(&self, axes: &[usize]) -> Result<Self, TensorError> {
        let rank = self.layout().shape().len();
        if let Some(&axis) = axes.iter().find(|&&axis| axis >= rank) {
            return Err(TensorError::NoSuchAxis { axis, rank });
        }
        if let Some(axis) = (0..rank).find(|axis| !axes.contains(axis)) {
            return Err(TensorError::NotAPermutation { axis, rank });
        }
        if axes.len() != rank {
            return Err(TensorError::NoSuchAxis { axis: rank, rank });
        }
        let pick = |of: &[usize]| axes.iter().map(|&axis| of[axis]).collect();
        let (shape, strides) = (pick(self.layout().shape()), pick(self.layout().strides()));
        Ok(self.view(TensorLayout::checked(self.dtype(), shape, strides)?, 0))
    }

    /// The elements whose index in one dimension is in a range. Panics: never.
    ///
    /// # Errors
    /// [`TensorError::NoSuchAxis`], [`TensorError::BadRange`], or [`TensorError::SubByte`] if the view would start or end inside
    /// a byte.
    pub fn slice(&self, axis: usize, range: impl RangeBounds<usize>) -> Result<Self, TensorError> {
        let (size, stride) = self.dimension(axis)?;
        let (start, end) = bounds(&range, size);
        if start >= end || end > size {
            return Err(TensorError::BadRange { axis, start, end, size });
        }
        let (mut shape, strides): (Box<[usize]>, Box<[usize]>) =
            (self.layout().shape().into(), self.layout().strides().into());
        shape[axis] = end - start;
        let layout = TensorLayout::checked(self.dtype(), shape, strides)?;
        Ok(self.view(layout, self.bytes_before(start, stride)?))
    }

    /// The elements at one index of a dimension, without that dimension. Panics: never.
    ///
    /// # Errors
    /// [`TensorError::NoSuchAxis`], [`TensorError::BadIndex`], or [`TensorError::SubByte`] if the view would start or end inside
    /// a byte.
    pub fn select(&self, axis: usize, index: usize) -> Result<Self, TensorError> {
        let (size, stride) = self.dimension(axis)?;
        if index >= size {
            return Err(TensorError::BadIndex { axis, index, size });
        }
        let without = |of: &[usize]| -> Box<[usize]> {
            let others = of.iter().enumerate().filter(|(at, _)| *at != axis);
            others.map(|(_, &number)| number).collect()
        };
        let (shape, strides) = (without(self.layout().shape()), without(self.layout().strides()));
        let layout = TensorLayout::checked(self.dtype(), shape, strides)?;
        Ok(self.view(layout, self.bytes_before(index, stride)?))
    }

    fn dimension(&self, axis: usize) -> Result<(usize, usize), TensorError> {
        let rank = self.layout().shape().len();
        let size = self.layout().shape().get(axis);
        let sizes = size.copied().zip(self.layout().strides().get(axis).copied());
        sizes.ok_or(TensorError::NoSuchAxis { axis, rank })
    }

    /// The bytes before an index of a dimension, which are inside the memory.
    fn bytes_before(&self, index: usize, stride: usize) -> Result<usize, TensorError> {
        if index == 0 {
            return Ok(0);
        }
        let (dtype, elements) = (self.dtype(), index * stride);
        match elements * dtype.bits() {
            bits if bits.is_multiple_of(8) => Ok(bits / 8),
            _ => Err(TensorError::SubByte { dtype, elements, stride: 0 }),
        }
    }
}

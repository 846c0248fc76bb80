//! Layouts of tensors: checked sizes and strides, without memory.

use super::dtype::DType;
use super::error::TensorError;
use super::runs::Runs;

/// The type of a tensor's elements, its shape and its strides: all of it but the memory.
///
/// The [rules](super#rules) hold for each of them.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct TensorLayout {
    dtype: DType,
    shape: Box<[usize]>,
    strides: Box<[usize]>,
    elements: usize,
    /// Bytes from the first element to the end of the last one.
    span: usize,
}

/// Dimensions of a layout with more than one element, those that continue each other as one, the innermost first.
#[derive(Debug)]
pub(super) struct Collapsed {
    /// Adjacent elements.
    pub(super) run: usize,
    /// Number of runs, and the elements between their starts, of each dimension.
    pub(super) outer: Vec<(usize, usize)>,
}

impl TensorLayout {
    /// The most dimensions, as in NumPy and PyTorch.
    pub const MAX_RANK: usize = 64;

    /// Elements in row-major order, without gaps. Panics: never.
    ///
    /// # Errors
    /// [`TensorError::Empty`], [`TensorError::TooManyDimensions`], [`TensorError::Overflow`] or [`TensorError::SubByte`].
    pub fn new(dtype: DType, shape: &[usize]) -> Result<Self, TensorError> {
        check_sizes(shape)?;
        let mut strides = vec![1usize; shape.len()];
        for axis in (1..shape.len()).rev() {
            let stride = strides[axis].checked_mul(shape[axis]);
            strides[axis - 1] = stride.ok_or(TensorError::Overflow { dtype, axis })?;
        }
        Self::checked(dtype, shape.into(), strides.into())
    }

    /// Elements at strides, counted in elements, one for each dimension. Panics: never.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`TensorError::StrideCount`], [`TensorError::NegativeStride`] or [`TensorError::Overlap`].
    pub fn strided(dtype: DType, shape: &[usize], strides: &[i64]) -> Result<Self, TensorError> {
        check_sizes(shape)?;
        if strides.len() != shape.len() {
            return Err(TensorError::StrideCount { strides: strides.len(), rank: shape.len() });
        }
        let strides = strides.iter().enumerate().map(|(axis, &stride)| match stride {
            // It leads nowhere, and frameworks leave any number there.
            ..0 if shape[axis] == 1 => Ok(0),
            ..0 => Err(TensorError::NegativeStride { axis, stride }),
            _ => usize::try_from(stride).map_err(|_| TensorError::Overflow { dtype, axis }),
        });
        let strides = strides.collect::<Result<_, _>>()?;
        Self::checked(dtype, shape.into(), strides)
    }

    /// Checks the strides of sizes that were checked.
    pub(super) fn checked(
        dtype: DType,
        shape: Box<[usize]>,
        strides: Box<[usize]>,
    ) -> Result<Self, TensorError> {
        let mut by_stride: Vec<usize> = (0..shape.len()).filter(|&axis| shape[axis] > 1).collect();
        by_stride.sort_by_key(|&axis| strides[axis]);
        let mut extent = 1usize;
        for axis in by_stride {
            let stride = strides[axis];
            if stride < extent {
                return Err(TensorError::Overlap { axis, stride, extent });
            }
            let more = stride.checked_mul(shape[axis] - 1);
            let sum = more.and_then(|more| extent.checked_add(more));
            let bits = sum.filter(|sum| sum.checked_mul(dtype.bits()).is_some());
            extent = bits.ok_or(TensorError::Overflow { dtype, axis })?;
        }
        let span = (extent * dtype.bits()).div_ceil(8);
        // No two elements share a place, so there are at most as many as places.
        let elements = shape.iter().product();
        let layout = Self { dtype, shape, strides, elements, span };
        layout.check_bytes()?;
        Ok(layout)
    }

    /// Runs of elements start and end at bytes.
    fn check_bytes(&self) -> Result<(), TensorError> {
        let dtype = self.dtype;
        let is_whole = |elements: usize| (elements * dtype.bits()).is_multiple_of(8);
        if dtype.bytes().is_some() {
            return Ok(());
        }
        let Collapsed { run: elements, outer } = self.collapsed();
        let broken = outer.iter().map(|&(_, stride)| stride).find(|stride| !is_whole(*stride));
        match broken {
            None if is_whole(elements) => Ok(()),
            _ => Err(TensorError::SubByte { dtype, elements, stride: broken.unwrap_or(0) }),
        }
    }

    /// The type of the elements.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The number of elements in each dimension.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements from one index to the next in each dimension.
    #[must_use]
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// The number of elements, at least one.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// The bytes of the elements, without those between them.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.elements * self.dtype.bits() / 8
    }

    /// The bytes from the first element to the end of the last one.
    #[must_use]
    pub fn span(&self) -> usize {
        self.span
    }

    /// Whether the elements follow each other in row-major order without gaps.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.first_gap().is_none()
    }

    /// The same elements in row-major order without gaps.
    #[must_use]
    pub fn to_contiguous(&self) -> Self {
        let mut strides = vec![1; self.shape.len()].into_boxed_slice();
        for axis in (1..strides.len()).rev() {
            // At most the number of elements.
            strides[axis - 1] = strides[axis] * self.shape[axis];
        }
        Self { strides, span: self.byte_len(), ..self.clone() }
    }

    /// The last dimension that is not contiguous, as an error.
    pub(super) fn first_gap(&self) -> Option<TensorError> {
        let mut expected = 1;
        for (axis, (&size, &stride)) in self.shape.iter().zip(&self.strides).enumerate().rev() {
            if size > 1 && stride != expected {
                return Some(TensorError::NotContiguous { axis, stride, expected });
            }
            expected *= size; // At most the number of elements.
        }
        None
    }

    pub(super) fn collapsed(&self) -> Collapsed {
        let mut outer: Vec<(usize, usize)> = Vec::new();
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            match outer.last_mut() {
                _ if size == 1 => {}
                // Such a product is at most the extent of all elements.
                Some((inner, step)) if stride == *inner * *step => *inner *= size,
                _ => outer.push((size, stride)),
            }
        }
        let run = match outer.first() {
            Some(&(size, 1)) => {
                outer.remove(0);
                size
            }
            _ => 1,
        };
        Collapsed { run, outer }
    }

    /// The runs of adjacent bytes in row-major order of the elements, counted from the first element.
    pub(super) fn runs(&self) -> Runs {
        Runs::new(&self.collapsed(), self.dtype)
    }
}

fn check_sizes(shape: &[usize]) -> Result<(), TensorError> {
    if shape.len() > TensorLayout::MAX_RANK {
        return Err(TensorError::TooManyDimensions { rank: shape.len() });
    }
    match shape.iter().position(|&size| size == 0) {
        Some(axis) => Err(TensorError::Empty { axis }),
        None => Ok(()),
    }
}

//! Copies of elements by the host, to and from slices and vectors.

use bytemuck::Zeroable;

use super::element::Element;
use super::error::TensorError;
use super::memory::Tensor;
use crate::access::AccessError;
use crate::region::Region;

impl Tensor {
    /// A tensor of a vector's elements, in row-major order, without a copy. Panics: never.
    ///
    /// # Errors
    /// [`TensorError::WrongSize`] if the shape has another number of elements, [`TensorError::Region`] without elements, and
    /// those of [`TensorLayout::new`](super::TensorLayout::new).
    pub fn from_vec<T: Element>(values: Vec<T>, shape: &[usize]) -> Result<Self, TensorError> {
        const { check_size::<T>() };
        Self::new(Region::from_pod(values)?, T::DTYPE, shape)
    }

    /// The elements in row-major order. Panics: never.
    ///
    /// # Errors
    /// [`TensorError::WrongType`], or [`TensorError::Access`] if the host cannot read the memory, an operation in flight writes
    /// it, or there is no memory for the copy.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        const { check_size::<T>() };
        self.check_type::<T>()?;
        let mut values = zeroed::<T>(self.layout().elements())?;
        self.copy_to_bytes(bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// The bytes of the elements in row-major order. Panics: never.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    pub fn to_bytes(&self) -> Result<Vec<u8>, TensorError> {
        let mut bytes = zeroed::<u8>(self.layout().byte_len())?;
        self.copy_to_bytes(&mut bytes)?;
        Ok(bytes)
    }

    /// Copies the elements in row-major order into all of a slice of bytes. Runs of elements are copied one after the other, and
    /// an error may come after some of them. Panics: never.
    ///
    /// # Errors
    /// [`TensorError::WrongSize`] or [`TensorError::Access`].
    pub fn copy_to_bytes(&self, mut target: &mut [u8]) -> Result<(), TensorError> {
        self.check_len(target.len())?;
        for run in self.layout().runs() {
            let (part, rest) = target.split_at_mut(run.len());
            self.region().copy_to_slice(self.offset() + run.start, part)?;
            target = rest;
        }
        Ok(())
    }

    /// Overwrites all elements, in row-major order. Runs of elements are copied one after the other, and an error may come after
    /// some of them. Panics: never.
    ///
    /// # Errors
    /// [`TensorError::WrongType`], [`TensorError::WrongSize`] for another number of elements, or [`TensorError::Access`].
    pub fn copy_from_slice<T: Element>(&self, values: &[T]) -> Result<(), TensorError> {
        const { check_size::<T>() };
        self.check_type::<T>()?;
        self.copy_from_bytes(bytemuck::cast_slice(values))
    }

    /// As [`copy_from_slice`](Self::copy_from_slice), of the bytes of the elements. Panics: never.
    ///
    /// # Errors
    /// [`TensorError::WrongSize`] or [`TensorError::Access`].
    pub fn copy_from_bytes(&self, mut source: &[u8]) -> Result<(), TensorError> {
        self.check_len(source.len())?;
        for run in self.layout().runs() {
            let (part, rest) = source.split_at(run.len());
            self.region().copy_from_slice(self.offset() + run.start, part)?;
            source = rest;
        }
        Ok(())
    }

    fn check_type<T: Element>(&self) -> Result<(), TensorError> {
        let (dtype, wanted) = (self.dtype(), T::DTYPE);
        match dtype == wanted {
            true => Ok(()),
            false => Err(TensorError::WrongType { dtype, wanted }),
        }
    }

    fn check_len(&self, given: usize) -> Result<(), TensorError> {
        let (dtype, layout) = (self.dtype(), self.layout());
        let (elements, needed) = (layout.elements(), layout.byte_len());
        match needed == given {
            true => Ok(()),
            false => Err(TensorError::WrongSize { dtype, elements, needed, given }),
        }
    }
}

const fn check_size<T: Element>() {
    assert!(
        size_of::<T>() * 8 == T::DTYPE.bits(),
        "the Rust type has as many bits as its elements"
    );
}

/// Zeroes, or an error without memory for them.
fn zeroed<T: Zeroable + Clone>(count: usize) -> Result<Vec<T>, AccessError> {
    let mut values = Vec::new();
    let refused = |_| AccessError::OutOfMemory { len: count.saturating_mul(size_of::<T>()) };
    values.try_reserve_exact(count).map_err(refused)?;
    values.resize(count, T::zeroed());
    Ok(values)
}

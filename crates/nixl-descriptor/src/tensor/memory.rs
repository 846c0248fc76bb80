//! Tensors over memory of regions.

use std::fmt;
use std::sync::Arc;

use nixl_device::Device;

use super::dtype::DType;
use super::error::TensorError;
use super::shape::TensorLayout;
use crate::access::Access;
use crate::descriptor::Descriptor;
use crate::list::DescriptorList;
use crate::region::Region;

/// Elements of one type in memory of a [`Region`], which it keeps alive. Cheap to clone. See the [rules](super#rules).
#[derive(Clone)]
pub struct Tensor {
    layout: Arc<TensorLayout>,
    /// From the first element to the end of the last one.
    memory: Descriptor,
}

impl Tensor {
    /// The most runs in a list made by `DescriptorList::try_from`: what peers with the default limits take.
    pub const MAX_RUNS: usize = 1 << 16;

    /// A tensor of all the memory, in row-major order. Panics: never.
    ///
    /// # Errors
    /// [`TensorError::WrongSize`] if the memory has more or fewer bytes, [`TensorError::Misaligned`], and those of
    /// [`TensorLayout::new`].
    pub fn new(
        memory: impl Into<Descriptor>,
        dtype: DType,
        shape: &[usize],
    ) -> Result<Self, TensorError> {
        let (memory, layout) = (memory.into(), TensorLayout::new(dtype, shape)?);
        let (elements, needed, given) = (layout.elements(), layout.byte_len(), memory.len());
        if needed != given {
            return Err(TensorError::WrongSize { dtype, elements, needed, given });
        }
        Self::with_layout(memory, layout)
    }

    /// A tensor whose first element is at the start of the memory. The memory may be longer. Panics: never.
    ///
    /// # Errors
    /// [`TensorError::OutOfBounds`] or [`TensorError::Misaligned`].
    pub fn with_layout(
        memory: impl Into<Descriptor>,
        layout: TensorLayout,
    ) -> Result<Self, TensorError> {
        let (memory, dtype) = (memory.into(), layout.dtype());
        let (needed, given) = (layout.span(), memory.len());
        if needed > given {
            return Err(TensorError::OutOfBounds { dtype, needed, given });
        }
        let alignment = dtype.alignment();
        // Less than the alignment.
        let past = (memory.address() % alignment as u64) as usize;
        if past != 0 {
            return Err(TensorError::Misaligned { dtype, alignment, past });
        }
        Ok(Self { memory: memory.part(0, needed), layout: Arc::new(layout) })
    }

    /// A view whose first element is `offset` bytes past this one's, of which the caller knows that it is inside.
    pub(super) fn view(&self, layout: TensorLayout, offset: usize) -> Self {
        Self { memory: self.memory.part(offset, layout.span()), layout: Arc::new(layout) }
    }

    /// The type of the elements, the shape and the strides.
    #[must_use]
    pub fn layout(&self) -> &TensorLayout {
        &self.layout
    }

    /// The type of the elements.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.layout.dtype()
    }

    /// The number of elements in each dimension.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    /// The elements from one index to the next in each dimension.
    #[must_use]
    pub fn strides(&self) -> &[usize] {
        self.layout.strides()
    }

    /// Whether the elements follow each other in row-major order without gaps.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.layout.is_contiguous()
    }

    /// The region that the elements are in.
    #[must_use]
    pub fn region(&self) -> &Region {
        self.memory.region()
    }

    /// The first element, in bytes from the start of the region.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.memory.offset()
    }

    /// The memory from the first element to the end of the last one, with what is between them.
    #[must_use]
    pub fn memory(&self) -> &Descriptor {
        &self.memory
    }

    /// The device of the memory.
    #[must_use]
    pub fn device(&self) -> Device {
        self.memory.device()
    }

    /// The access of transfers and copies to the memory.
    #[must_use]
    pub fn access(&self) -> Access {
        self.memory.access()
    }

    /// The elements in row-major order: a descriptor for each run of adjacent bytes, at most `limit`. The list knows the
    /// [layout](DescriptorList::tensor). Panics: never.
    ///
    /// # Errors
    /// [`TensorError::TooManyRuns`], or [`TensorError::Descriptor`] for a limit of 0.
    pub fn descriptors(&self, limit: usize) -> Result<DescriptorList, TensorError> {
        let mut list = Vec::new();
        for run in self.layout.runs() {
            if list.len() == limit {
                return Err(TensorError::TooManyRuns { limit });
            }
            list.push(self.memory.part(run.start, run.len()));
        }
        Ok(DescriptorList::try_from(list)?.of_tensor(Arc::clone(&self.layout)))
    }
}

/// At most [`Tensor::MAX_RUNS`] descriptors.
impl TryFrom<&Tensor> for DescriptorList {
    type Error = TensorError;

    fn try_from(tensor: &Tensor) -> Result<Self, TensorError> {
        tensor.descriptors(Tensor::MAX_RUNS)
    }
}

/// At most [`Tensor::MAX_RUNS`] descriptors.
impl TryFrom<Tensor> for DescriptorList {
    type Error = TensorError;

    fn try_from(tensor: Tensor) -> Result<Self, TensorError> {
        Self::try_from(&tensor)
    }
}

/// Shows the memory's place, never its content.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor")
            .field("dtype", &self.dtype())
            .field("shape", &self.shape())
            .field("strides", &self.strides())
            .field("memory", &self.memory)
            .finish()
    }
}

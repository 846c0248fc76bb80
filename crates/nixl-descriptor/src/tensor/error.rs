//! Errors of tensors.

use super::dtype::DType;
use super::shape::TensorLayout;
use crate::access::AccessError;
use crate::descriptor::DescriptorError;
use crate::lease::LeaseError;
use crate::region::RegionError;

/// A tensor or a view of one could not be made, or its elements could not be copied.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// A dimension has no elements.
    #[error("dimension {axis} has no elements: a tensor has at least one in each dimension")]
    Empty {
        /// The dimension.
        axis: usize,
    },
    /// There are too many dimensions.
    #[error("{rank} dimensions are more than {}: reshape the tensor", TensorLayout::MAX_RANK)]
    TooManyDimensions {
        /// How many there are.
        rank: usize,
    },
    /// The tensor has more bytes than can be addressed.
    #[error(
        "the sizes and strides up to dimension {axis} come to more bytes of {dtype} than can be addressed"
    )]
    Overflow {
        /// The type of the elements.
        dtype: DType,
        /// The dimension at which the sum no longer fits.
        axis: usize,
    },
    /// The memory is not as long as the tensor.
    #[error(
        "{elements} elements of {dtype} have {needed} bytes, and the memory has {given}: pass exactly the tensor's bytes"
    )]
    WrongSize {
        /// The type of the elements.
        dtype: DType,
        /// How many elements there are.
        elements: usize,
        /// The bytes that they have.
        needed: usize,
        /// The bytes that there are.
        given: usize,
    },
    /// The last element is not inside the memory.
    #[error("the last element of {dtype} ends at byte {needed} of memory that has {given}")]
    OutOfBounds {
        /// The type of the elements.
        dtype: DType,
        /// Bytes from the first element to the end of the last one.
        needed: usize,
        /// The bytes that there are.
        given: usize,
    },
    /// The first element is not at an address for its type.
    #[error(
        "the first element of {dtype} is {past} bytes past a multiple of {alignment}: copy the bytes to aligned memory first"
    )]
    Misaligned {
        /// The type of the elements.
        dtype: DType,
        /// The alignment of the type in bytes.
        alignment: usize,
        /// Bytes from the last aligned address.
        past: usize,
    },
    /// Elements of less than a byte do not come in runs of whole bytes.
    #[error(
        "a run of {elements} elements of {dtype} starts or ends inside a byte, or the distance of runs, {stride} elements, is no whole number of bytes"
    )]
    SubByte {
        /// The type of the elements.
        dtype: DType,
        /// Adjacent elements, or elements before a view.
        elements: usize,
        /// The stride between runs; 0 if there is one run.
        stride: usize,
    },
    /// There is not one stride for each dimension.
    #[error("{strides} strides for {rank} dimensions: give one for each")]
    StrideCount {
        /// The strides that were given.
        strides: usize,
        /// The dimensions.
        rank: usize,
    },
    /// A dimension runs backwards.
    #[error(
        "dimension {axis} has the negative stride {stride}: copy the tensor to row-major order first"
    )]
    NegativeStride {
        /// The dimension.
        axis: usize,
        /// Its stride in elements.
        stride: i64,
    },
    /// Strides do not nest, so elements may share bytes.
    #[error(
        "dimension {axis} has stride {stride}, less than the {extent} elements over which the dimensions of smaller strides extend: elements may share bytes"
    )]
    Overlap {
        /// The dimension.
        axis: usize,
        /// Its stride in elements.
        stride: usize,
        /// The extent of the dimensions with smaller strides.
        extent: usize,
    },
    /// The elements do not follow each other in row-major order.
    #[error(
        "dimension {axis} has stride {stride} where {expected} is contiguous: copy the tensor to row-major order first"
    )]
    NotContiguous {
        /// The last dimension that is wrong.
        axis: usize,
        /// Its stride in elements.
        stride: usize,
        /// The contiguous one.
        expected: usize,
    },
    /// The shapes of both sides differ in their number of elements.
    #[error("a shape of {wanted} elements is not one of the tensor's {elements}")]
    Reshape {
        /// The tensor's elements.
        elements: usize,
        /// The elements of the new shape.
        wanted: usize,
    },
    /// There is no such dimension.
    #[error("there is no dimension {axis} in a tensor of {rank}")]
    NoSuchAxis {
        /// The dimension that was named.
        axis: usize,
        /// The number of dimensions.
        rank: usize,
    },
    /// An order of dimensions does not name each of them once.
    #[error("an order of {rank} dimensions names each of them once: {axis} is missing")]
    NotAPermutation {
        /// The first dimension that is not named.
        axis: usize,
        /// The number of dimensions.
        rank: usize,
    },
    /// A range is empty or outside its dimension.
    #[error(
        "the range {start}..{end} is empty or not inside the {size} elements of dimension {axis}"
    )]
    BadRange {
        /// The dimension.
        axis: usize,
        /// The first index.
        start: usize,
        /// One past the last index; `usize::MAX` also where that would not fit.
        end: usize,
        /// The elements of the dimension.
        size: usize,
    },
    /// There is no such index.
    #[error("there is no index {index} in the {size} elements of dimension {axis}")]
    BadIndex {
        /// The dimension.
        axis: usize,
        /// The index.
        index: usize,
        /// The elements of the dimension.
        size: usize,
    },
    /// The elements are of another type.
    #[error("the elements are {dtype}, and {wanted} is requested")]
    WrongType {
        /// The type of the elements.
        dtype: DType,
        /// The type of the call.
        wanted: DType,
    },
    /// The elements are in more pieces than an operation takes.
    #[error(
        "the elements are in more than {limit} runs of adjacent bytes: copy the tensor to row-major order first, or move parts of it"
    )]
    TooManyRuns {
        /// The most that the call takes.
        limit: usize,
    },
    /// There is no memory, or it cannot be a region.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The descriptors cannot be made.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// The elements cannot be copied by the host now.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The memory is in use.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

//! Tensors: an element type, a shape and strides over memory of a [`Region`](crate::Region).
//!
//! A [`Tensor`] owns a handle to its memory, as a [`Descriptor`](crate::Descriptor) does, and lends no reference to it. Its views
//! ([`reshape`](Tensor::reshape), [`permute`](Tensor::permute), [`slice`](Tensor::slice), [`select`](Tensor::select)) share the
//! memory. It becomes a [`DescriptorList`](crate::DescriptorList) of its elements in row-major order, one descriptor for each run
//! of adjacent bytes, so an operation leases the bytes of the elements and none between them.
//!
//! ```
//! use nixl_descriptor::DescriptorList;
//! use nixl_descriptor::tensor::{DType, Tensor};
//!
//! let image = Tensor::from_vec((0..24u8).collect(), &[2, 4, 3])?;
//! assert_eq!(image.dtype(), DType::U8);
//!
//! // The second and third column of each row: two runs of six bytes.
//! let columns = image.slice(1, 1..3)?;
//! let list = DescriptorList::try_from(&columns)?;
//! assert_eq!((list.len(), list.total_bytes()), (2, 12));
//! assert_eq!(columns.to_vec::<u8>()?[..6], [3, 4, 5, 6, 7, 8]);
//! # Ok::<(), nixl_descriptor::tensor::TensorError>(())
//! ```
//!
//! # Rules
//!
//! * Each dimension has at least one element, and there are at most [`TensorLayout::MAX_RANK`].
//! * Strides count elements. They are not negative, and *nest*: by ascending stride, each is at least the extent of those before
//!   it. So no two elements share a byte. The stride of a dimension with one element has no effect.
//! * The first element is aligned to its type, and with it all others are.
//! * Elements of less than a byte (`F4`, `F6`) come in runs of whole bytes: each run of adjacent elements starts and ends at a byte.

#[cfg(feature = "ndarray")]
mod arrays;
mod copies;
#[cfg(feature = "dlpack")]
mod dlpack;
mod dtype;
mod element;
mod error;
mod memory;
mod names;
mod runs;
#[cfg(feature = "safetensors")]
pub mod safetensors;
mod shape;
mod views;

pub use self::dtype::DType;
pub use self::element::Element;
pub use self::error::TensorError;
pub use self::memory::Tensor;
pub use self::names::ParseDTypeError;
pub use self::shape::TensorLayout;

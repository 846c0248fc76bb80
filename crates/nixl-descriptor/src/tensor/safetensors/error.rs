//! Errors of safetensors files.

use super::header::SafetensorsHeader;
use nixl_device::SharedError;

use crate::access::AccessError;
use crate::region::RegionError;
use crate::tensor::{DType, TensorError};

/// A file is not one of safetensors, has no such tensor, or cannot be read.
///
/// Names of tensors are cut short.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SafetensorsError {
    /// The file ends before its header does.
    #[error(
        "the file has {given} bytes, and its header ends at byte {needed}: the file is cut short, or not of safetensors"
    )]
    Truncated {
        /// The end of the header.
        needed: u64,
        /// The bytes of the file.
        given: u64,
    },
    /// The file claims a header that is longer than the format allows.
    #[error(
        "the header claims {len} bytes, more than the {} that the format allows: the file is damaged, or not of safetensors",
        SafetensorsHeader::MAX_BYTES
    )]
    HeaderTooLarge {
        /// The bytes that the file claims.
        len: u64,
    },
    /// The header is not a JSON object.
    #[error("the header is not JSON of safetensors at line {line}, column {column}: {reason}")]
    BadHeader {
        /// The line of the first fault, from 1.
        line: usize,
        /// The column of the first fault in bytes.
        column: usize,
        /// The fault.
        reason: String,
    },
    /// Two tensors have one name.
    #[error("the tensor {name:?} is in the header twice")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A tensor cannot have this name.
    #[error("a tensor cannot be named {name:?}: the format has other uses for it")]
    ReservedName {
        /// The name.
        name: String,
    },
    /// A tensor has elements of an unknown type.
    #[error("the tensor {name:?} has elements of the unknown type {dtype:?}")]
    UnknownType {
        /// The name of the tensor.
        name: String,
        /// The type in the header.
        dtype: String,
    },
    /// A tensor has a shape that is none.
    #[error("the shape of the tensor {name:?} is invalid: {error}")]
    BadShape {
        /// The name of the tensor.
        name: String,
        /// The fault.
        #[source]
        error: TensorError,
    },
    /// A tensor's bytes are not as many as its elements have.
    #[error("the tensor {name:?} of {dtype} needs {needed} bytes, and its offsets have {given}")]
    WrongSize {
        /// The name of the tensor.
        name: String,
        /// The type of its elements.
        dtype: DType,
        /// The bytes of its elements.
        needed: u64,
        /// The bytes between its offsets.
        given: u64,
    },
    /// A tensor ends before it begins.
    #[error("the tensor {name:?} begins at byte {start} of the data and ends at byte {end}")]
    BadOffsets {
        /// The name of the tensor.
        name: String,
        /// Its first byte, from the end of the header.
        start: u64,
        /// One past its last byte.
        end: u64,
    },
    /// A tensor begins before the end of the one before it.
    #[error(
        "the tensor {name:?} begins at byte {start} of the data, before the end of another at byte {end}"
    )]
    Overlap {
        /// The name of the tensor.
        name: String,
        /// Its first byte, from the end of the header.
        start: u64,
        /// The end of the other tensor.
        end: u64,
    },
    /// Bytes belong to no tensor.
    #[error("bytes {start}..{end} of the data belong to no tensor")]
    Gap {
        /// The first byte, from the end of the header.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// The tensors end after the file.
    #[error(
        "the tensors have {needed} bytes, and {given} bytes of the file follow the header: the file is cut short"
    )]
    DataTruncated {
        /// The bytes of all tensors.
        needed: u64,
        /// The bytes after the header.
        given: u64,
    },
    /// The file has no such tensor.
    #[error("the file has no tensor {name:?}")]
    NoSuchTensor {
        /// The name.
        name: String,
    },
    /// A tensor cannot be used where it is.
    #[error("the tensor {name:?}: {error}")]
    Tensor {
        /// The name of the tensor.
        name: String,
        /// The fault.
        #[source]
        error: TensorError,
    },
    /// The memory is not as long as the file.
    #[error("the memory has {given} bytes, and the file {needed}")]
    MemorySize {
        /// The bytes of the file.
        needed: u64,
        /// The bytes of the memory.
        given: u64,
    },
    /// There is no memory.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The memory cannot be accessed by the host now.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The system cannot read the file.
    #[error("cannot read the file: {error}")]
    Io {
        /// The kind of error.
        kind: std::io::ErrorKind,
        /// The error of the operating system.
        #[source]
        error: SharedError,
    },
}

impl From<std::io::Error> for SafetensorsError {
    fn from(error: std::io::Error) -> Self {
        Self::Io { kind: error.kind(), error: error.into() }
    }
}

/// The start of a name.
pub(super) fn excerpt(name: &str) -> String {
    const MAX_CHARS: usize = 100;
    name.chars().take(MAX_CHARS).collect()
}

//! Files of safetensors: tensors by name in memory that holds the bytes of a file.
//!
//! The memory is a region of any kind: a buffer that the file was [read](SafetensorsFile::read) into, pinned or GPU memory, a mapping
//! of the file (`Region::try_from` a `memmap2::Mmap`; engines without read-only memory do not register it), or the destination of
//! a transfer of the whole file. Only the header is parsed, on the host.
//!
//! The header comes from strangers. It is at most [`SafetensorsHeader::MAX_BYTES`] long, as in the format, and parsed in memory
//! proportional to its length. The format's own crate flattens the header through serde's buffer, which takes 16 times its
//! length, and parses it from the bytes of the whole file in one slice, which a region does not lend; so the parser is this
//! crate's own. Refused are duplicate names, which the format forbids, and tensors that overlap, leave gaps, or do not end with
//! the file.
//!
//! ```
//! use nixl_descriptor::Region;
//! use nixl_descriptor::tensor::DType;
//! use nixl_descriptor::tensor::safetensors::SafetensorsFile;
//!
//! let header = br#"{"bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}       "#;
//! let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
//! bytes.extend(header);
//! bytes.extend([1.0f32, 2.0].iter().flat_map(|value| value.to_le_bytes()));
//!
//! let file = SafetensorsFile::from_memory(Region::try_from(bytes)?)?;
//! let bias = file.tensor("bias")?;
//! assert_eq!((bias.dtype(), bias.shape()), (DType::F32, &[2][..]));
//! assert_eq!(bias.to_vec::<f32>()?, [1.0, 2.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod file;
mod header;
mod json;
mod write;

pub use self::error::SafetensorsError;
pub use self::file::SafetensorsFile;
pub use self::header::{SafetensorsHeader, TensorEntry};

//! Headers: names, types, shapes and places of the tensors of a file.

use std::collections::HashMap;
use std::ops::Range;

use super::error::{SafetensorsError, excerpt};
use super::json::{Entry, Json};
use crate::tensor::{DType, TensorError, TensorLayout};

/// The checked header of a file: its tensors cover the rest of the file without overlaps or gaps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SafetensorsHeader {
    file_len: u64,
    /// In the order of their bytes.
    tensors: Vec<TensorEntry>,
    by_name: HashMap<String, usize>,
    metadata: Vec<(String, String)>,
}

/// A tensor in a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TensorEntry {
    name: String,
    dtype: DType,
    shape: Box<[usize]>,
    bytes: Range<u64>,
}

impl TensorEntry {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of the elements.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The number of elements in each dimension. Files may have tensors without elements, which are no [`Tensor`](crate::tensor::Tensor).
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The bytes of the elements, counted from the start of the file.
    #[must_use]
    pub fn bytes(&self) -> Range<u64> {
        self.bytes.clone()
    }

    fn new(name: &str, entry: &Entry<'_>, data: u64) -> Result<Self, SafetensorsError> {
        let dtype = DType::from_safetensors(&entry.dtype).ok_or_else(|| {
            let dtype = excerpt(&entry.dtype);
            SafetensorsError::UnknownType { name: excerpt(name), dtype }
        })?;
        let bad = |error| SafetensorsError::BadShape { name: excerpt(name), error };
        let sizes = entry.shape.0.iter().enumerate().map(|(axis, &size)| {
            usize::try_from(size).map_err(|_| bad(TensorError::Overflow { dtype, axis }))
        });
        let shape = sizes.collect::<Result<Box<[usize]>, _>>()?;
        let needed = match shape.contains(&0) {
            true if shape.len() > TensorLayout::MAX_RANK => {
                return Err(bad(TensorError::TooManyDimensions { rank: shape.len() }));
            }
            true => 0,
            false => TensorLayout::new(dtype, &shape).map_err(bad)?.byte_len() as u64,
        };
        let (start, end) = entry.data_offsets;
        let Some(given) = end.checked_sub(start) else {
            return Err(SafetensorsError::BadOffsets { name: excerpt(name), start, end });
        };
        if given != needed {
            return Err(SafetensorsError::WrongSize { name: excerpt(name), dtype, needed, given });
        }
        let place = data.checked_add(start).zip(data.checked_add(end));
        let bad = || SafetensorsError::BadOffsets { name: excerpt(name), start, end };
        let (first, last) = place.ok_or_else(bad)?;
        Ok(Self { name: name.to_owned(), dtype, shape, bytes: first..last })
    }
}

impl SafetensorsHeader {
    /// The longest header, in bytes, by the format.
    pub const MAX_BYTES: u64 = 100_000_000;

    /// The length of the number before the header.
    pub const PREFIX_BYTES: usize = 8;

    /// The end of the header, in bytes from the start of a file that starts with these bytes. Panics: never.
    ///
    /// # Errors
    /// [`SafetensorsError::HeaderTooLarge`] beyond [`MAX_BYTES`](Self::MAX_BYTES), for any number that a file may have there.
    pub fn end(prefix: [u8; Self::PREFIX_BYTES]) -> Result<u64, SafetensorsError> {
        let len = u64::from_le_bytes(prefix);
        match len > Self::MAX_BYTES {
            true => Err(SafetensorsError::HeaderTooLarge { len }),
            false => Ok(Self::PREFIX_BYTES as u64 + len),
        }
    }

    /// Parses the header of a file of `file_len` bytes, which starts with `start`. What follows the header in `start` is not
    /// looked at. Panics: never.
    ///
    /// # Errors
    /// [`SafetensorsError`] with the first fault.
    pub fn parse(start: &[u8], file_len: u64) -> Result<Self, SafetensorsError> {
        let truncated = |needed, given| SafetensorsError::Truncated { needed, given };
        let Some((prefix, rest)) = start.split_first_chunk() else {
            return Err(truncated(Self::PREFIX_BYTES as u64, start.len() as u64));
        };
        let data = Self::end(*prefix)?;
        let given = file_len.min(start.len() as u64);
        if data > given {
            return Err(truncated(data, given));
        }
        // At most what is there.
        let header = &rest[..data as usize - Self::PREFIX_BYTES];
        let Json { tensors, metadata } = Json::parse(header)?;
        let tensors = tensors.iter().map(|(name, entry)| TensorEntry::new(name, entry, data));
        let mut tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        tensors.sort_by_key(|tensor| (tensor.bytes.start, tensor.bytes.end));
        check_cover(&tensors, data, file_len)?;
        let mut by_name = HashMap::with_capacity(tensors.len());
        for (index, tensor) in tensors.iter().enumerate() {
            if by_name.insert(tensor.name.clone(), index).is_some() {
                return Err(SafetensorsError::DuplicateName { name: excerpt(&tensor.name) });
            }
        }
        Ok(Self { file_len, tensors, by_name, metadata })
    }

    /// The bytes of the whole file.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The tensors, in the order of their bytes.
    #[must_use]
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }

    /// The tensor with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    /// The pairs of `__metadata__`, in the order of the file.
    #[must_use]
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }
}

/// Tensors in ascending order cover the data without overlaps or gaps.
fn check_cover(tensors: &[TensorEntry], data: u64, file_len: u64) -> Result<(), SafetensorsError> {
    let mut end = 0;
    for tensor in tensors {
        let (start, next) = (tensor.bytes.start - data, tensor.bytes.end - data);
        if start < end {
            let name = excerpt(&tensor.name);
            return Err(SafetensorsError::Overlap { name, start, end });
        }
        if start > end {
            return Err(SafetensorsError::Gap { start: end, end: start });
        }
        end = next;
    }
    let given = file_len - data;
    match end {
        _ if end > given => Err(SafetensorsError::DataTruncated { needed: end, given }),
        _ if end < given => Err(SafetensorsError::Gap { start: end, end: given }),
        _ => Ok(()),
    }
}

//! Descriptions of tensors that offers are of.

use std::fmt;

use crate::MetadataError;

/// The type of a tensor's elements, its shape and its strides: the meaning of an offer's bytes.
///
/// The offer's descriptors are the elements in row-major order, at any strides. So a reader that puts the descriptors one behind the
/// other has a tensor without gaps; the strides are those of the owner's memory.
///
/// The type is DLPack's code and number of bits (`DLDataType`, one lane). A code of a later DLPack travels too: the bits are enough
/// to compare the description with the offer's bytes.
///
/// Travels in the native profile only, from version 4.
///
/// ```
/// use nixl_metadata::TensorDescription;
///
/// // bfloat16 has the code 4.
/// let description = TensorDescription::new(4, 16, vec![(2, 3), (3, 1)])?;
/// assert_eq!(description.byte_len(), 12);
/// # Ok::<(), nixl_metadata::MetadataError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TensorDescription {
    code: u8,
    bits: u8,
    dimensions: Box<[(u64, u64)]>,
    byte_len: u64,
}

impl TensorDescription {
    /// The most dimensions, as in NumPy and PyTorch.
    pub const MAX_RANK: usize = 64;

    /// Describes elements of a code and a number of bits of DLPack, with a size and a stride in elements for each dimension.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TensorRank`], [`MetadataError::TensorSize`] or [`MetadataError::TensorBits`].
    pub fn new(
        code: u8,
        bits: u8,
        dimensions: impl Into<Box<[(u64, u64)]>>,
    ) -> Result<Self, MetadataError> {
        let dimensions = dimensions.into();
        if dimensions.len() > Self::MAX_RANK {
            return Err(MetadataError::TensorRank { limit: Self::MAX_RANK });
        }
        if bits == 0 {
            return Err(MetadataError::TensorBits { bits, total: 0 });
        }
        let mut total = u64::from(bits);
        for (axis, &(size, _)) in dimensions.iter().enumerate() {
            let product = Some(size).filter(|size| *size > 0).and_then(|n| total.checked_mul(n));
            total = product.ok_or(MetadataError::TensorSize { axis, size })?;
        }
        if !total.is_multiple_of(8) {
            return Err(MetadataError::TensorBits { bits, total });
        }
        Ok(Self { code, bits, dimensions, byte_len: total / 8 })
    }

    /// DLPack's code for the kind of the elements.
    #[must_use]
    pub const fn code(&self) -> u8 {
        self.code
    }

    /// The bits of an element.
    #[must_use]
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// The size and the stride of each dimension. Sizes are at least one. Strides count elements of the owner's memory, and are not
    /// compared with anything.
    #[must_use]
    pub const fn dimensions(&self) -> &[(u64, u64)] {
        &self.dimensions
    }

    /// The bytes of all elements.
    #[must_use]
    pub const fn byte_len(&self) -> u64 {
        self.byte_len
    }

    /// Refuses a description of more or fewer bytes than are offered.
    pub(crate) const fn check(&self, offered: u64) -> Result<(), MetadataError> {
        match self.byte_len == offered {
            true => Ok(()),
            false => Err(MetadataError::TensorBytes { described: self.byte_len, offered }),
        }
    }
}

impl fmt::Debug for TensorDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorDescription")
            .field("code", &self.code)
            .field("bits", &self.bits)
            .field("dimensions", &self.dimensions)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_multiply_to_bytes_or_are_refused() {
        let description = |bits, sizes: &[u64]| {
            let dimensions: Vec<_> = sizes.iter().map(|&size| (size, 1)).collect();
            TensorDescription::new(2, bits, dimensions).map(|description| description.byte_len())
        };
        assert_eq!(description(32, &[]), Ok(4));
        assert_eq!(description(16, &[3, 5]), Ok(30));
        assert_eq!(description(4, &[2, 3]), Ok(3));
        assert_eq!(description(8, &[u64::MAX / 8]), Ok(u64::MAX / 8));
        let (axis, size) = (1, u64::MAX / 8);
        let refused = Err(MetadataError::TensorSize { axis, size });
        assert_eq!(description(8, &[2, size]), refused);
        assert_eq!(description(8, &[4, 0]), Err(MetadataError::TensorSize { axis, size: 0 }));
        assert_eq!(description(4, &[3]), Err(MetadataError::TensorBits { bits: 4, total: 12 }));
        assert_eq!(description(0, &[3]), Err(MetadataError::TensorBits { bits: 0, total: 0 }));
        assert_eq!(description(8, &[1; 64]), Ok(1));
        assert_eq!(description(8, &[1; 65]), Err(MetadataError::TensorRank { limit: 64 }));
    }
}

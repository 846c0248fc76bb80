//! A checked range of a region.

use std::fmt;
use std::ops::RangeBounds;

use nixl_device::Device;

use crate::access::Access;
use crate::bounds::bounds;
use crate::extent::Extent;
use crate::region::Region;

/// Why a descriptor or a list of them could not be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// The range has no bytes.
    #[error("the range {start}..{end} is empty: a descriptor has at least one byte")]
    ZeroLength {
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
    },
    /// The range is not inside the memory it is taken from.
    #[error("the range {start}..{end} is not inside the {len} bytes there are")]
    OutOfBounds {
        /// First byte.
        start: usize,
        /// One past the last byte; `usize::MAX` also where that would not fit.
        end: usize,
        /// Number of bytes there are.
        len: usize,
    },
    /// The list has no descriptors.
    #[error("a descriptor list has at least one descriptor")]
    EmptyList,
    /// The list's number of bytes does not fit into 64 bits.
    #[error("the descriptors of the list add up to more than 2^64 - 1 bytes")]
    TotalOverflow,
}

/// A non-empty range of a [`Region`], which it keeps alive. Cheap to clone.
#[derive(Clone)]
pub struct Descriptor {
    region: Region,
    extent: Extent,
}

impl Descriptor {
    /// `range` of `region`'s bytes `within`.
    pub(crate) fn new(
        region: &Region,
        within: Extent,
        range: impl RangeBounds<usize>,
    ) -> Result<Self, DescriptorError> {
        let len = within.len();
        let (start, end) = bounds(&range, len);
        if start > len || end > len {
            return Err(DescriptorError::OutOfBounds { start, end, len });
        }
        if start >= end {
            return Err(DescriptorError::ZeroLength { start, end });
        }
        // `end <= within.len()`, so neither sum passes `within.end`.
        let extent = Extent { start: within.start + start, end: within.start + end };
        Ok(Self { region: region.clone(), extent })
    }

    /// `len` bytes at `offset`, of which the caller knows that they are inside.
    pub(crate) fn part(&self, offset: usize, len: usize) -> Self {
        let start = self.extent.start + offset;
        let extent = Extent { start, end: start + len };
        debug_assert!(len > 0 && extent.end <= self.extent.end, "{extent:?} is not in {self:?}");
        Self { region: self.region.clone(), extent }
    }

    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }

    /// The region it is a range of.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// First byte, counted from the start of the region.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.extent.start
    }

    /// Number of bytes, at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a descriptor is never empty")]
    pub fn len(&self) -> usize {
        self.extent.len()
    }

    /// Address of the first byte in its device's address space. `address() + len()` does not wrap.
    #[must_use]
    pub fn address(&self) -> u64 {
        // The region's construction checked that its end is representable.
        self.region.address() + self.extent.start as u64
    }

    /// Where the memory is.
    #[must_use]
    pub fn device(&self) -> Device {
        self.region.device()
    }

    /// What transfers may do with the memory.
    #[must_use]
    pub fn access(&self) -> Access {
        self.region.access()
    }

    /// A range of this range. Panics: never.
    ///
    /// # Errors
    /// [`DescriptorError::OutOfBounds`] or [`DescriptorError::ZeroLength`].
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<Self, DescriptorError> {
        Self::new(&self.region, self.extent, range)
    }
}

/// The whole region.
impl From<Region> for Descriptor {
    fn from(region: Region) -> Self {
        let extent = region.extent();
        Self { region, extent }
    }
}

/// Shows where the memory is, never what is in it.
impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Descriptor")
            .field("region", &self.region.id())
            .field("offset", &self.offset())
            .field("len", &self.len())
            .field("device", &self.device())
            .field("access", &self.access())
            .finish()
    }
}

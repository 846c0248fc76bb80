//! Copies of bytes into and out of descriptors and lists.

use crate::access::AccessError;
use crate::descriptor::Descriptor;
use crate::list::DescriptorList;
use crate::region::copy_range_to_slice;

impl Descriptor {
    /// Copies bytes from `offset` bytes into the descriptor on into `target`, all of it.
    ///
    /// Waits for another thread's copy into the same bytes, if one is under way. Panics: never.
    ///
    /// # Errors
    /// [`AccessError::NotHost`], [`AccessError::OutOfBounds`] (of the descriptor), or [`AccessError::Leased`] if an
    /// operation in flight writes some of the bytes.
    pub fn copy_to_slice(&self, offset: usize, target: &mut [u8]) -> Result<(), AccessError> {
        copy_range_to_slice(self, offset, target, &[])
    }

    /// Copies all of `source` into the descriptor's memory, from `offset` bytes into it on.
    ///
    /// Waits for another thread's copy of the same bytes, if one is under way. Panics: never.
    ///
    /// # Errors
    /// [`AccessError::NotHost`], [`AccessError::OutOfBounds`] (of the descriptor), [`AccessError::ReadOnly`], or
    /// [`AccessError::Leased`] if an operation in flight reads or writes some of the bytes.
    pub fn copy_from_slice(&self, offset: usize, source: &[u8]) -> Result<(), AccessError> {
        let (len, size) = (source.len(), self.len());
        match offset.checked_add(len) {
            Some(end) if end <= size => {
                self.region().copy_from_slice(self.offset() + offset, source)
            }
            _ => Err(AccessError::OutOfBounds { offset, len, size }),
        }
    }

    /// A copy of the descriptor's bytes. Panics: never.
    ///
    /// # Errors
    /// As [`copy_to_slice`](Self::copy_to_slice), and [`AccessError::OutOfMemory`].
    pub fn to_vec(&self) -> Result<Vec<u8>, AccessError> {
        let mut bytes = zeros(self.len())?;
        self.copy_to_slice(0, &mut bytes)?;
        Ok(bytes)
    }
}

impl DescriptorList {
    /// A copy of the bytes of all descriptors, one after the other. Panics: never.
    ///
    /// Each descriptor is copied at one moment, the list is not: another thread may write a later one meanwhile.
    ///
    /// # Errors
    /// [`AccessError::NotHost`], [`AccessError::OutOfMemory`], or [`AccessError::Leased`] if an operation in flight writes
    /// some of the bytes.
    pub fn to_vec(&self) -> Result<Vec<u8>, AccessError> {
        let len = usize::try_from(self.total_bytes()).unwrap_or(usize::MAX);
        let mut bytes = zeros(len)?;
        let mut left = &mut *bytes;
        for descriptor in self {
            let (target, rest) = left.split_at_mut(descriptor.len());
            descriptor.copy_to_slice(0, target)?;
            left = rest;
        }
        Ok(bytes)
    }

    /// Copies `source` into the memory of all descriptors, one after the other. Where descriptors overlap, the bytes of
    /// the last one are what stays. Panics: never.
    ///
    /// # Errors
    /// [`AccessError::LengthMismatch`] if `source` has another length than the list; nothing was copied then. Else
    /// [`AccessError::NotHost`], [`AccessError::ReadOnly`], or [`AccessError::Leased`] if an operation in flight uses some
    /// of the bytes; the descriptors before the one that was refused have been written.
    pub fn copy_from_slice(&self, source: &[u8]) -> Result<(), AccessError> {
        let len = usize::try_from(self.total_bytes()).unwrap_or(usize::MAX);
        if source.len() != len {
            return Err(AccessError::LengthMismatch { src: source.len(), dst: len });
        }
        let mut left = source;
        for descriptor in self {
            let (bytes, rest) = left.split_at(descriptor.len());
            descriptor.copy_from_slice(0, bytes)?;
            left = rest;
        }
        Ok(())
    }
}

fn zeros(len: usize) -> Result<Vec<u8>, AccessError> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| AccessError::OutOfMemory { len })?;
    bytes.resize(len, 0);
    Ok(bytes)
}

//! Reclaiming the memory of a region from its owner's type.

use std::any::{Any, type_name};
use std::sync::Arc;

use bytemuck::Pod;
use bytes::BytesMut;

use super::Region;
use crate::registration::RegisterError;

/// The memory could not be taken back; here is the region again.
#[derive(Debug, thiserror::Error)]
#[error("cannot take the memory back: {reason}")]
pub struct Reclaim {
    pub(crate) region: Region,
    #[source]
    pub(crate) reason: ReclaimError,
}

impl Reclaim {
    /// The region, as usable as before; its cached registrations may be gone.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The region, for another try.
    #[must_use]
    pub fn into_region(self) -> Region {
        self.region
    }

    /// Why not.
    #[must_use]
    pub fn reason(&self) -> &ReclaimError {
        &self.reason
    }
}

/// Why memory could not be taken back.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReclaimError {
    /// The region was made from something else.
    #[error(
        "the memory was not made from a {wanted}: take it back as the type that it was made from"
    )]
    WrongType {
        /// The requested type.
        wanted: &'static str,
    },
    /// Another handle exists: a clone, a descriptor, a lease or an operation.
    #[error(
        "other handles to the region exist: drop its clones and descriptors and wait for its operations"
    )]
    Shared,
    /// A caller holds a [`Registration`](crate::Registration) of the region, or an engine is still busy deregistering
    /// one that was evicted or dropped.
    #[error(
        "the memory is still registered: wait for the operations that use it, or for the engine to finish deregistering"
    )]
    Registered,
    /// An engine failed to deregister the memory earlier and may write to it at any time; it will be leaked, not freed.
    #[error(
        "an engine failed to deregister the memory earlier: the memory stays with this library"
    )]
    Withheld,
    /// An engine just failed to deregister the memory. From now on it is [`Withheld`](Self::Withheld).
    #[error("deregistering failed: {0}")]
    Deregister(#[source] RegisterError),
}

impl Region {
    /// Takes back what the region was made from, if this is the only handle to it.
    ///
    /// Cached registrations are deregistered first, which **blocks** as long as the engines take (milliseconds, or
    /// more): do not call it on an async thread if the region was registered. Panics: never.
    ///
    /// # Errors
    /// [`Reclaim`], with the region and the reason.
    pub fn try_into_inner<T: Any>(mut self) -> Result<T, Reclaim> {
        match self.take_owner() {
            Ok(owner) => Ok(owner),
            Err(reason) => Err(Reclaim { region: self, reason }),
        }
    }

    /// Takes back the memory of a region made from a `Vec<u8>` or a `Box<[u8]>`; see
    /// [`try_into_inner`](Self::try_into_inner).
    ///
    /// # Errors
    /// [`Reclaim`], with the region and the reason.
    pub fn try_into_vec(self) -> Result<Vec<u8>, Reclaim> {
        self.try_into_inner()
    }

    /// Takes back the memory of a region made by [`from_pod`](Self::from_pod); see
    /// [`try_into_inner`](Self::try_into_inner). The values are the bytes that were written last.
    ///
    /// # Errors
    /// [`Reclaim`], with the region and the reason.
    pub fn try_into_pod<T: Pod>(self) -> Result<Vec<T>, Reclaim> {
        self.try_into_inner()
    }

    /// Takes back the memory of a region made from a `BytesMut`; see [`try_into_inner`](Self::try_into_inner).
    ///
    /// # Errors
    /// [`Reclaim`], with the region and the reason.
    pub fn try_into_bytes_mut(self) -> Result<BytesMut, Reclaim> {
        self.try_into_inner()
    }

    fn take_owner<T: Any>(&mut self) -> Result<T, ReclaimError> {
        if self.memory().owner::<T>().is_none() {
            return Err(ReclaimError::WrongType { wanted: type_name::<T>() });
        }
        let id = self.id();
        // There are no weak handles, so this fails only if there is another handle.
        let inner = Arc::get_mut(&mut self.0).ok_or(ReclaimError::Shared)?;
        inner.engine_caches.deregister_all(id)?;
        let memory = Arc::get_mut(&mut inner.memory).ok_or(ReclaimError::Registered)?;
        // The type was checked above, so only a failed deregistration is left as a reason.
        memory.take_owner().ok_or(ReclaimError::Withheld)
    }
}

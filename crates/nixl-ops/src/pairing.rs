//! The check that the two sides of an operation match.

use nixl_descriptor::{Access, DescriptorList};
use nixl_metadata::{OperationKind, RdmaMetadata};
use thiserror::Error;

/// The two sides of an operation do not match.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum PairingError {
    /// The metadata offers the other operation.
    #[error(
        "the peer offers a {offered}, which cannot serve a {wanted}; use the call that matches"
    )]
    WrongKind {
        /// The kind that the metadata allows.
        offered: OperationKind,
        /// The requested kind.
        wanted: OperationKind,
    },
    /// Both lists must have the same length.
    #[error(
        "{local} local descriptors do not pair with {remote} remote ones: describe the local memory in as many pieces"
    )]
    Count {
        /// Local descriptors.
        local: usize,
        /// Remote descriptors.
        remote: usize,
    },
    /// Descriptors at the same place must have the same size.
    #[error(
        "descriptor {index} has {local} bytes here and {remote} at the peer: the lengths must be equal"
    )]
    Size {
        /// The index in both lists.
        index: usize,
        /// Bytes of the local descriptor.
        local: u64,
        /// Bytes of the remote descriptor.
        remote: u64,
    },
    /// A read would write into read-only memory.
    #[error(
        "local descriptor {index} is read-only and cannot be the destination of a read: read into writable memory"
    )]
    ReadOnly {
        /// Its index in the list.
        index: usize,
    },
}

/// Checks that `wanted` can run between `local` and the offer `remote`, before any engine is called.
///
/// # Errors
///
/// The first mismatch.
pub fn pair(
    wanted: OperationKind,
    local: &DescriptorList,
    remote: &RdmaMetadata,
) -> Result<(), PairingError> {
    let offered = remote.operation_kind();
    if offered != wanted {
        return Err(PairingError::WrongKind { offered, wanted });
    }
    if local.len() != remote.descriptors().len() {
        return Err(PairingError::Count { local: local.len(), remote: remote.descriptors().len() });
    }
    for (index, (ours, theirs)) in local.iter().zip(remote.descriptors()).enumerate() {
        let ours_len = ours.len() as u64;
        if ours_len != theirs.size() {
            return Err(PairingError::Size { index, local: ours_len, remote: theirs.size() });
        }
        if wanted == OperationKind::Read && ours.access() != Access::ReadWrite {
            return Err(PairingError::ReadOnly { index });
        }
    }
    Ok(())
}

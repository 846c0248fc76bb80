//! The kind of an operation.

use std::fmt;

use crate::MetadataError;

/// The initiator's use of the target's memory.
///
/// The discriminants are the numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(
    clippy::exhaustive_enums,
    reason = "one-sided transfers read or write; callers match both"
)]
pub enum OperationKind {
    /// The initiator reads from the target's memory.
    Read = 1,
    /// The initiator writes to the target's memory.
    Write = 2,
}

impl OperationKind {
    /// The number on the wire: 1 to read, 2 to write.
    #[must_use]
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// Reads the number on the wire.
    ///
    /// # Errors
    ///
    /// [`MetadataError::WrongKind`] for any other than 1 and 2.
    pub const fn from_wire(value: u64) -> Result<Self, MetadataError> {
        match value {
            1 => Ok(Self::Read),
            2 => Ok(Self::Write),
            _ => Err(MetadataError::WrongKind { value }),
        }
    }
}

/// `READ` or `WRITE`, as Dynamo prints them.
impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "READ",
            Self::Write => "WRITE",
        })
    }
}

//! The choice of an engine for a file, and its reason.

use std::fmt;

use super::engine::EngineKind;
use super::io_kind::IoKind;
use super::operation::Operation;

/// How a small read is tried before an engine has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CachedReads {
    /// It is not.
    Never,
    /// By a read that does not wait for a device.
    Tried,
    /// The file system is memory: a read is a copy.
    AreCopies,
}

impl CachedReads {
    pub(super) fn may_be_tried(self, operation: &Operation) -> bool {
        self != Self::Never && operation.kind() == IoKind::Read && !operation.is_direct()
    }
}

/// The engine of a file, and why it is that one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EngineChoice {
    pub(crate) kind: EngineKind,
    pub(crate) reason: String,
    pub(crate) is_verified: bool,
    pub(crate) cached: CachedReads,
}

impl EngineChoice {
    /// The engine.
    #[must_use]
    pub fn kind(&self) -> EngineKind {
        self.kind
    }

    /// Why it is that one.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether bytes that it wrote or read were compared with those of the other engine.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.is_verified
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.reason)
    }
}

//! The execution of one path.

use std::ops::{Deref, DerefMut};

use nixl_ops::{DirectTransfer, Execution};

/// The execution of a path. That of the engine's own transfer lies in the operation's memory: it costs no allocation.
#[expect(clippy::large_enum_variant, reason = "its operation is allocated once, in one piece")]
pub(super) enum Attempt {
    Direct(DirectTransfer),
    Other(Box<dyn Execution>),
}

impl Deref for Attempt {
    type Target = dyn Execution;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Direct(transfer) => transfer,
            Self::Other(execution) => &**execution,
        }
    }
}

impl DerefMut for Attempt {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::Direct(transfer) => transfer,
            Self::Other(execution) => &mut **execution,
        }
    }
}

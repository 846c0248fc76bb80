//! Kinds of path as the planner compares them.

use std::mem::discriminant;

use nixl_ops::PathKind;

/// Whether two kinds are the same, without regard to the strategy inside the process.
pub(crate) fn same(a: PathKind, b: PathKind) -> bool {
    discriminant(&a) == discriminant(&b)
}

/// The position of a kind in the order of preference.
pub(super) fn order(kind: PathKind) -> usize {
    PathKind::ALL.iter().position(|known| same(*known, kind)).unwrap_or(PathKind::ALL.len())
}

//! The sorts of reason against a path.

/// The sort of reason against a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub(crate) enum Refusal {
    /// It is no path between these kinds of memory, on any machine.
    Inapplicable,
    /// Something is missing that other machines, peers or settings have.
    Missing,
    /// The policy does not allow it.
    Forbidden,
}

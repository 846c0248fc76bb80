//! The failure of a conformance case.

use std::error::Error;
use std::fmt;

/// The failure of a case.
#[derive(Clone, Eq, PartialEq)]
pub struct Failure(String);

impl Failure {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// An unexpected error.
impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(format!("unexpected error: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Fails with `promise` if it does not hold.
pub(super) fn ensure(kept: bool, promise: &str) -> Result<(), Failure> {
    if kept { Ok(()) } else { Err(Failure::new(format!("broken promise: {promise}"))) }
}

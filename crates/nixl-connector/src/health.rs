//! Liveness and readiness, for the probes of a server.

use nixl_ops::TransportError;

/// Health of a connector. For a readiness probe: [`is_ready`](Self::is_ready); for a liveness probe:
/// [`is_live`](Self::is_live).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Health {
    pub(crate) is_draining: bool,
    pub(crate) problems: Vec<TransportError>,
    pub(crate) is_blocked: bool,
}

impl Health {
    /// Whether new operations can be expected to succeed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.is_draining && !self.is_blocked && self.problems.is_empty()
    }

    /// Whether the connector works at all. A connector that does not never recovers: build another.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let is_fatal = |problem: &TransportError| {
            matches!(
                problem,
                TransportError::NotListening { .. }
                    | TransportError::ThreadEnded { .. }
                    | TransportError::Closed
            )
        };
        !self.problems.iter().any(is_fatal)
    }

    /// [`Connector::drain`](crate::Connector::drain) was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// The current problems, each with its remedy.
    #[must_use]
    pub fn problems(&self) -> &[TransportError] {
        &self.problems
    }

    /// The control thread has not answered for a second: it is inside a blocking call of the engine, or has others queued.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }
}

/// The result of a drain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drained {
    revoked: usize,
    pub(crate) active: usize,
}

impl Drained {
    /// Whether everything had ended by the deadline.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.revoked == 0 && self.active == 0
    }

    pub(crate) fn new(revoked: usize, active: usize) -> Self {
        Self { revoked, active }
    }

    /// Offers that had not ended by the deadline, and were revoked.
    #[must_use]
    pub fn revoked(&self) -> usize {
        self.revoked
    }

    /// Active operations that had not ended by then. They end by their own deadlines.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active
    }
}

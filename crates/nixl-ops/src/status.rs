//! The states of an operation and their transitions.

use std::fmt;

use thiserror::Error;

/// Status of an operation. Names and order are those of Dynamo's nixl_connect.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "the six states are the documented interface")]
pub enum OperationStatus {
    /// Not yet valid: memory is being leased or registered.
    Uninitialized = 0,
    /// Ready; this side has seen no byte move.
    Initialized = 1,
    /// Posted to an engine.
    InProgress = 2,
    /// The bytes are in the destination.
    Complete = 3,
    /// Cancelled by its owner before it completed.
    Cancelled = 4,
    /// Ended by an error.
    Errored = 5,
}

impl OperationStatus {
    /// All states, in order.
    pub const ALL: [Self; 6] = [
        Self::Uninitialized,
        Self::Initialized,
        Self::InProgress,
        Self::Complete,
        Self::Cancelled,
        Self::Errored,
    ];

    /// Whether the operation has ended; a terminal state never changes again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Cancelled | Self::Errored)
    }

    /// Dynamo's short name: `INIT`, `PROC`, `DONE`, `STOP`, `ERR`; `UNINIT` where Dynamo has none.
    pub fn short_name(self) -> &'static str {
        match self {
            Self::Uninitialized => "UNINIT",
            Self::Initialized => "INIT",
            Self::InProgress => "PROC",
            Self::Complete => "DONE",
            Self::Cancelled => "STOP",
            Self::Errored => "ERR",
        }
    }

    /// Moves to `next`.
    ///
    /// # Errors
    ///
    /// [`StatusError`] for a transition that does not exist. Progress is forward only; any state that is not terminal may end
    /// as `Cancelled` or `Errored`; `Complete` needs `Initialized` (a passive operation completes without visible progress) or
    /// `InProgress`.
    pub fn advance(self, next: Self) -> Result<Self, StatusError> {
        use OperationStatus::{
            Cancelled, Complete, Errored, InProgress, Initialized, Uninitialized,
        };
        match (self, next) {
            (Uninitialized, Initialized | Cancelled | Errored)
            | (Initialized, InProgress | Complete | Cancelled | Errored)
            | (InProgress, Complete | Cancelled | Errored) => Ok(next),
            (from, to) => Err(StatusError { from, to }),
        }
    }
}

impl fmt::Display for OperationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short_name())
    }
}

/// A transition that does not exist.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("an operation that is {from} cannot become {to}")]
pub struct StatusError {
    pub(crate) from: OperationStatus,
    to: OperationStatus,
}

impl StatusError {
    /// The current state.
    #[must_use]
    pub fn from(&self) -> OperationStatus {
        self.from
    }

    /// The requested state.
    #[must_use]
    pub fn to(&self) -> OperationStatus {
        self.to
    }
}

#[cfg(test)]
mod tests {
    use super::OperationStatus as S;

    /// The whole table, written out: a change of any move must be made here too.
    #[test]
    fn every_move_is_decided() {
        let legal = [
            (S::Uninitialized, S::Initialized),
            (S::Uninitialized, S::Cancelled),
            (S::Uninitialized, S::Errored),
            (S::Initialized, S::InProgress),
            (S::Initialized, S::Complete),
            (S::Initialized, S::Cancelled),
            (S::Initialized, S::Errored),
            (S::InProgress, S::Complete),
            (S::InProgress, S::Cancelled),
            (S::InProgress, S::Errored),
        ];
        for from in S::ALL {
            for to in S::ALL {
                assert_eq!(from.advance(to).is_ok(), legal.contains(&(from, to)), "{from} -> {to}");
            }
        }
    }

    /// Every sequence of moves up to length six: once terminal, nothing is accepted.
    #[test]
    fn terminal_states_are_final() {
        fn walk(state: S, depth: usize) {
            for next in S::ALL {
                match state.advance(next) {
                    Ok(reached) => {
                        assert!(!state.is_terminal());
                        assert_eq!(reached, next);
                        assert!(next as u8 > state as u8, "progress is forward only");
                        if depth > 0 {
                            walk(reached, depth - 1);
                        }
                    }
                    Err(e) => assert_eq!((e.from, e.to), (state, next)),
                }
            }
        }
        walk(S::Uninitialized, 6);
    }

    #[test]
    fn short_names_are_dynamos() {
        let names: Vec<_> = S::ALL.iter().map(|s| s.to_string()).collect();
        assert_eq!(names, ["UNINIT", "INIT", "PROC", "DONE", "STOP", "ERR"]);
    }
}

//! The strategies that a caller allows.

use crate::local::Strategy;

/// The allowed strategies. A policy that leaves none is an error before any byte moves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum StrategyPolicy {
    /// The fastest available strategy.
    #[default]
    Auto,
    /// This strategy or an error.
    Require(Strategy),
    /// Any except these.
    Forbid(Vec<Strategy>),
}

impl StrategyPolicy {
    pub(crate) fn forbids(&self, strategy: Strategy) -> Option<&'static str> {
        match self {
            Self::Require(required) if *required != strategy => {
                Some("the policy requires another strategy")
            }
            Self::Forbid(forbidden) if forbidden.contains(&strategy) => {
                Some("the policy forbids it")
            }
            _ => None,
        }
    }
}

//! The path planner: the choice of a path for each operation, between processes or inside this one.
//!
//! Data and pure functions of facts: no locks, no environment, no driver, no metrics.
//!
//! - [`PathPlan`] has, for every kind of path and a [`PathQuery`], its [cost](PathCosts) or the missing condition, by the
//!   [checks](check). It depends neither on the size nor on earlier operations.
//! - [`PathPlan::choose`] picks the fastest for a size and one operation's [`PathHistory`], [`PathPlan::rank`] shows the order.
//! - [`may_retry`] decides whether another path may be tried.

mod check;
mod costs;
mod history;
mod kinds;
mod plan;
mod query;
mod ranking;
mod refusal;
mod retry;

#[cfg(test)]
mod tests;

pub use costs::PathCosts;
pub use history::PathHistory;
pub(crate) use kinds::same;
pub(crate) use plan::AvailablePath;
pub use plan::PathPlan;
pub(crate) use query::Export;
pub use query::{MemoryPair, PathQuery};
pub(crate) use ranking::Ranking;
pub(crate) use refusal::Refusal;
pub(crate) use retry::{MAX_ATTEMPTS, may_retry};

//! Which way the bytes of one operation go, between processes or inside this one.
//!
//! Everything here is data and pure functions: nothing is copied, registered or asked of an engine.
//!
//! - [`LocalFacts`] and [`PeerFacts`] are what is known of the two sides; static facts propose paths.
//! - [`PathPlan`] says of every kind of path whether it is there for a [`Question`], and at what [cost](PathCosts), or
//!   what is missing. It depends neither on the size nor on what happened before, so [`Plans`] keeps it for a peer.
//! - [`PathPlan::choose`] picks the fastest for a size, [`PathPlan::rank`] shows the order.
//! - [`Health`] remembers how real use went with a peer: a path that failed stands behind the others for a while. One operation's
//!   [`Standing`] is drawn from it, and takes up the paths that the operation has tried itself.
//! - [`Estimate`] keeps what the engine itself expects of the way to a peer, which corrects what is inferred of it.
//! - [`may_retry`] says whether another path may be tried.
//! - [`note_attempt`] and [`note_end`] count, and tell `tracing`.
//!
//! ```
//! use nixl_device::Device;
//! use nixl_executor::MemoryKind;
//! use nixl_executor::paths::{Engine, LocalFacts, Offered, PathCosts, PathPlan, PeerFacts, Question, Standing};
//! use nixl_ops::{OperationKind, PathKind, PathPolicy};
//!
//! // A peer of which only its address is known, as Dynamo's profile has it.
//! let peer = PeerFacts::unknown();
//! let question = Question {
//!     operation: OperationKind::Read,
//!     local: MemoryKind::Pageable,
//!     remote: Device::cuda(0),
//!     engine: Engine::Ucx,
//!     offered: Offered::default(),
//!     policy: PathPolicy::auto(),
//! };
//! let plan = PathPlan::new(question, &LocalFacts::default(), &peer, &PathCosts::default());
//! let chosen = plan.choose(1 << 20, &Standing::new())?;
//! assert_eq!(chosen.path.kind, PathKind::Emulated);
//! println!("{}", plan.rank(1 << 20, &Standing::new()));
//! # Ok::<(), nixl_ops::TransportError>(())
//! ```

mod check;
mod costs;
mod describe;
mod discover;
mod estimate;
mod facts;
mod health;
mod plan;
mod plans;
mod ranking;
mod retry;
mod standing;
mod telemetry;
mod ucx;

#[cfg(test)]
mod tests;

pub use costs::PathCosts;
pub use estimate::Estimate;
pub use facts::{
    Engine, Fact, LocalFacts, LocalGpu, Nearness, Offered, PeerCarriers, PeerFacts, PeerGpu,
    Question, ShareForm,
};
pub use health::{Health, HealthState, Subject};
pub use plan::{AblePath, Chosen, PathPlan, Refusal, RefusedPath};
pub use plans::Plans;
pub use ranking::Ranking;
pub use retry::{MAX_ATTEMPTS, may_retry};
pub use standing::Standing;
pub(crate) use telemetry::{Successes, tell_end};
pub use telemetry::{note_attempt, note_end};
pub use ucx::UcxTransports;

//! The path planner: which way the bytes of one operation go, between processes or inside this one.
//!
//! Nothing is copied, registered or asked of an engine here.
//!
//! - [`LocalFacts`] and [`PeerFacts`] are what is known of the two sides; static facts propose paths.
//! - [`PathPlan`] says of every kind of path whether it is there for a [`PathQuery`], and at what [cost](PathCosts), or
//!   what is missing. It depends neither on the size nor on what happened before, so [`PlanCache`] keeps it for a peer.
//! - [`PathPlan::choose`] picks the fastest for a size, [`PathPlan::rank`] shows the order.
//! - [`Health`] remembers how real use went with a peer: a path that failed stands behind the others for a while. One operation's
//!   [`PathHistory`] is drawn from it, and takes up the paths that the operation has tried itself.
//! - [`EngineEstimate`] keeps what the engine itself expects of the way to a peer, which corrects what is inferred of it.
//! - [`may_retry`] says whether another path may be tried.
//! - [`note_attempt`] counts the paths that are tried.
//!
//! ```
//! use nixl_device::Device;
//! use nixl_executor::MemoryKind;
//! use nixl_executor::paths::{Engine, LocalFacts, OfferFacts, PathCosts, PathPlan, PeerFacts, PathQuery, PathHistory};
//! use nixl_ops::{OperationKind, PathKind, PathPolicy};
//!
//! // A peer of which only its address is known, as Dynamo's profile has it.
//! let peer = PeerFacts::unknown();
//! let memories = (MemoryKind::Pageable, Device::cuda(0));
//! let (offered, policy) = (OfferFacts::default(), PathPolicy::auto());
//! let query = PathQuery::new(OperationKind::Read, memories, Engine::Ucx, offered, policy);
//! let plan = PathPlan::new(query, &LocalFacts::default(), &peer, &PathCosts::default());
//! let chosen = plan.choose(1 << 20, &PathHistory::new())?;
//! assert_eq!(chosen.kind(), PathKind::EngineStaged);
//! println!("{}", plan.rank(1 << 20, &PathHistory::new()));
//! # Ok::<(), nixl_ops::TransportError>(())
//! ```

pub use crate::facts::LocalFacts;

// The planner's own, for its benches.
#[doc(hidden)]
pub use crate::connection::note_attempt;
#[doc(hidden)]
pub use crate::facts::{
    Engine, Fact, LocalGpu, Locality, OfferFacts, PeerFacts, PeerGpu, PeerMedia, ShareForm,
    UcxTransports,
};
#[doc(hidden)]
pub use crate::peers::{EngineEstimate, Health, HealthState, MeasuredPaths, PathKey, PlanCache};
#[doc(hidden)]
pub use crate::planner::{
    AvailablePath, Chosen, MAX_ATTEMPTS, PathCosts, PathHistory, PathPlan, PathQuery, Ranking,
    Refusal, UnavailablePath, may_retry,
};

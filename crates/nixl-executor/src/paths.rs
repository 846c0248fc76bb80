//! The path planner: the choice of a path for each operation, between processes or inside this one.
//!
//! The planner copies and registers nothing, and calls no engine.
//!
//! - [`LocalFacts`] and [`PeerFacts`] describe the two sides; static facts propose paths.
//! - [`PathPlan`] has, for every kind of path and a [`PathQuery`], its [cost](PathCosts) or the missing condition. It depends
//!   neither on the size nor on earlier operations, so [`PlanCache`] keeps it for a peer.
//! - [`PathPlan::choose`] picks the fastest for a size, [`PathPlan::rank`] shows the order.
//! - [`PathHealth`] keeps the results of past operations with a peer: a failed path ranks behind the others for a while. One
//!   operation's [`PathHistory`] derives from it, and adds the paths that the operation has tried itself.
//!
//! ```
//! use nixl_device::Device;
//! use nixl_executor::MemoryKind;
//! use nixl_executor::paths::{Engine, LocalFacts, OfferFacts, PathCosts, PathPlan, PeerFacts, PathQuery, PathHistory};
//! use nixl_ops::{OperationKind, PathKind, PathPolicy};
//!
//! // A peer known by its address alone, as in Dynamo's profile.
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
pub use crate::facts::{Engine, OfferFacts, PeerFacts};
#[doc(hidden)]
pub use crate::peers::{PathHealth, PathKey, PlanCache};
#[doc(hidden)]
pub use crate::planner::{MemoryPair, PathCosts, PathHistory, PathPlan, PathQuery};

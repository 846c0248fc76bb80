//! Which way the bytes go.
//!
//! A connector hands every operation to an executor. Its built-in one passes everything to the transport. This crate
//! has three that do more:
//!
//! * [`PathExecutor`] takes the best path that both sides have: a copy inside the process, memory that a process of the
//!   same machine shares, the engine, or chunks through pinned memory. [`paths`] is what it knows and how it chooses.
//! * [`DirectExecutor`] only looks whether both sides are host memory of this very process, and copies there.
//! * [`BlockExecutor`] needs no connector: it copies KV-cache blocks between all memories of one process.
//!
//! Each completed operation can say [which path](PathReport) it took and why not a better one.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use nixl_connector::{Connector, simulated::Fabric};
//! use nixl_descriptor::Region;
//! use nixl_executor::{DirectExecutor, PathKind};
//! use nixl_ops::SystemClock;
//!
//! let fabric = Fabric::new(Arc::new(SystemClock::new()));
//! let connector = |name: &str| {
//!     Connector::builder().transport(fabric.transport(name)).executor(Arc::new(DirectExecutor::new())).build()
//! };
//! let (source, sink) = (connector("source").await?, connector("sink").await?);
//!
//! let mut offered = source.create_readable(Region::try_from(vec![7u8; 4096])?).await?;
//! let remote = offered.metadata().clone();
//! let local = Region::zeroed(4096)?;
//! let completion = sink.begin_read(&remote, local.clone()).await?.wait_for_completion().await?;
//!
//! assert_eq!(completion.path().map(|p| p.kind), Some(PathKind::SameProcessCopy));
//! assert_eq!(local.to_vec()?, [7u8; 4096]);
//! offered.wait_for_completion().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

mod direct;
mod ipc;
mod local;
mod memcpy;
mod offers;
pub mod paths;
mod peers;
mod routed;
mod staged;

pub use direct::DirectExecutor;
pub use local::{
    Abilities, BlockCopy, BlockError, BlockExecutor, BlockOptions, BlockPlan, BlockSide, Buffer,
    CopyOp, Cost, Costs, CostsError, CudaGpus, GpuError, Gpus, Lane, Mark, MemoryKind, Piece, Plan,
    Progress, Route, SharedHandle, SimulatedGpus, Strategy, StrategyPolicy, StreamHandle,
    StreamPoint,
};
pub use nixl_ops::{Carrier, Hop, PathKind, PathPolicy, PathReport, Rejected};
pub use routed::{PathExecutor, PeerStats};
pub use staged::{SlotStats, StagingConfig, StagingStats};

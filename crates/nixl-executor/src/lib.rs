//! The crate to depend on: connectors that move bytes by the best available path.
//!
//! An application depends on this crate alone. [`connector`] starts to configure a [`Connector`], which offers memory to peers
//! and reads or writes the offers of peers. The [`prelude`] has the names that most programs use; further names of the other
//! crates are re-exported at the top level:
//!
//! | for | names |
//! |---|---|
//! | operations | [`Connector`], [`ConnectorBuilder`], [`OperationOptions`], [`PathPolicy`], [`Completion`] |
//! | memory | [`Region`], [`Descriptor`], [`DescriptorList`], [`BufferPool`], [`layout`], [`cuda`] |
//! | tensors | [`Tensor`], [`DType`], [`tensor`] |
//! | images and videos of Dynamo | [`media`] |
//! | KV caches | [`Export`], [`Grant`], [`RemoteExport`], [`layout`] |
//! | metadata for peers | [`RdmaMetadata`], [`ExportMetadata`], [`Ticket`] |
//! | errors | [`ConnectorError`], [`OperationError`], [`TransportError`], [`MetadataError`], [`BlockError`] |
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use nixl_executor::prelude::*;
//! use nixl_executor::{PathKind, SystemClock, simulated::Fabric};
//!
//! // Two connectors, as two processes would have them; leave out `transport` to use NIXL.
//! let fabric = Fabric::new(Arc::new(SystemClock::new()));
//! let transport = |name| fabric.transport(name);
//! let source = nixl_executor::connector().await?.transport(transport("source")).build().await?;
//! let sink = nixl_executor::connector().await?.transport(transport("sink")).build().await?;
//!
//! let bytes = source.buffer(4096)?;
//! bytes.copy_from_slice(0, &[7; 4096])?;
//! let mut offered = source.create_readable(bytes).await?;
//! let message = offered.metadata().to_native_bytes()?;
//!
//! let remote = RdmaMetadata::decode(&message)?;
//! let local = sink.buffer(4096)?;
//! let completion = sink.begin_read(&remote, local.clone()).await?.wait_for_completion().await?;
//! assert_eq!(completion.path().map(|path| path.kind()), Some(PathKind::SameProcessCopy));
//! assert_eq!(local.to_vec()?, [7u8; 4096]);
//! offered.wait_for_completion().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # Executors
//!
//! A connector passes every operation to an executor. `TransportExecutor`, that of a connector without a configured one, uses
//! the transport for everything. This crate adds two:
//!
//! * [`PathExecutor`], which [`connector`] uses, takes the fastest path that both sides have: a copy inside the process,
//!   shared memory of another process on the host, CUDA IPC, the engine, or chunks through pinned memory. [`paths`] has its
//!   facts and its choice.
//! * [`DirectExecutor`] copies if both sides are host memory of this process, and uses the transport otherwise.
//!
//! [`BlockExecutor`] is none of a connector, and needs none: it copies KV-cache blocks between all memories of one process.
//!
//! The [report](PathReport) of each completed operation names its path, and the reason against each better one.
//!
//! # Features
//!
//! | feature | by default | needs | adds |
//! |---|---|---|---|
//! | `nixl` | on | g++ and libclang to build, NIXL 1.5 to run | the transport between processes |
//! | `cudarc` | off | nothing to build, CUDA's driver to have slices | regions over slices of cudarc, order after its streams |
//! | `files` | off | Linux | the module `files`: blocks between files and memory, a store of blocks |
//! | `dlpack` | off | nothing | regions and tensors over tensors of other frameworks |
//! | `half` | off | nothing | tensors of the 16-bit numbers of the crate `half` |
//! | `ndarray` | off | nothing | tensors to and from arrays of the crate `ndarray` |
//! | `safetensors` | off | nothing | tensors by name in files of safetensors |
//! | `channel` | off | nothing | the module `channel`: metadata by the names of workers, requests to them |
//! | `channel-http`, `channel-tcp`, `channel-etcd` | off | nothing | channels over HTTP, TCP and Unix sockets, etcd |
//! | `channel-nats`, `channel-tls` | off | a C compiler | channels over NATS; TLS of channels |
//! | `seal` | off | nothing | the module `seal`: seals of what channels carry |
//! | `example-images` | off | nothing | the decoder of the example `media_frontend` |
//!
//! Without `nixl`, [`ConnectorBuilder::build`] needs a [transport](ConnectorBuilder::transport), and fails with
//! [`ConnectorError::NoTransport`] if it is given none.
//!
//! A build that stops in `nixl-sys` at `Unable to find libclang` lacks that library, one that stops at
//! `'stdbool.h' file not found` its headers: `cargo xtask env` in this project's repository fetches both, and prints or writes
//! the variables that name them.
//!
//! # Runtimes
//!
//! Channels need tokio's runtime. All else runs on any: futures are woken by threads of the connection. Connectors, regions and
//! operations are `Send` and `Sync`, futures of their methods are `Send`.

mod begin;
mod connection;
#[cfg(feature = "cudarc")]
pub mod cudarc;
mod facts;
#[cfg(feature = "files")]
pub mod files;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod local;
mod messages;
pub mod paths;
mod peers;
mod pinned_slots;
mod planner;
pub mod prelude;
mod remote_memory;
mod sessions;
mod transfers;

pub use begin::connector;
pub use connection::{PathExecutor, PeerStats};
pub use local::{
    BlockCopy, BlockError, BlockExecutor, BlockOptions, BlockPlan, BlockSide, CopyOp, CopyRoute,
    Cost, Costs, CostsError, CudaGpus, DirectExecutor, GpuBackend, GpuCapabilities, GpuError,
    GpuEvent, GpuMemoryLimits, GpuStream, MemoryKind, Piece, Plan, Progress, SharedHandle,
    SimulatedGpus, Strategy, StrategyPolicy, StreamHandle, StreamPoint, StreamQueue,
    TransferBuffer, shared_pinned,
};
pub use pinned_slots::{BudgetStats, SlotStats, StagingBudget, StagingConfig};
pub use planner::PathCosts;
pub use remote_memory::ImportLimits;
pub use sessions::StagingStats;

// Re-exports for applications, which depend on this crate alone.
#[cfg(feature = "nixl")]
pub use nixl_connector::nixl::{
    NixlBackend, NixlLibrary, NixlOptions, NixlUnavailable, UcxLogLevel,
};
pub use nixl_connector::{
    BlockReadError, BlockTransferOptions, BlockWriteError, ConnectionStats, Connector,
    ConnectorBuilder, ConnectorError, Drained, Export, ExportNotifications, ExportOptions,
    ExportProgress, ExportedLayoutError, Grant, GrantOptions, Health, ImportOptions, RemoteExport,
    TicketError, TransferClass, TransferLimits, WriteGrant, WriteGrantOptions, media,
    offered_tensor, simulated,
};
#[cfg(feature = "dlpack")]
pub use nixl_descriptor::dlpack;
pub use nixl_descriptor::tensor::{self, DType, Tensor, TensorError, TensorLayout};
pub use nixl_descriptor::{
    Access, AccessError, AllocationKind, BufferPool, Dependency, DependencyError, Descriptor,
    DescriptorError, DescriptorList, GpuAllocation, LeaseError, LeaseMode, QueuedFunction, Reclaim,
    ReclaimError, Region, RegionError, RegisterError, RendezvousError, WorkQueue, layout,
};
pub use nixl_device::{Device, DeviceKind, SharedError, cuda};
#[cfg(feature = "channel")]
pub use nixl_metadata::channel;
#[cfg(feature = "seal")]
pub use nixl_metadata::seal;
pub use nixl_metadata::{
    ExportId, ExportMetadata, Limits, MetadataError, NativeVersion, ParseTraceContextError,
    RdmaMetadata, TensorDescription, Ticket, TraceContext,
};
pub use nixl_ops::{
    Advice, CancelHandle, CancelOutcome, ClaimDemand, Clock, Completion, CopyOperation,
    DriverConfig, EndedOffer, EngineSetting, ExportNotification, FreeBlocks, GrantError,
    GrantStats, Hop, Medium, MemoryFate, NotificationSender, OperationError, OperationFuture,
    OperationKind, OperationOptions, OperationStatus, PairingError, PathKind, PathPolicy,
    PathReport, ReadOperation, ReadableOperation, Reclaimed, Rejected, RevokeOutcome,
    SettingSource, Settled, SystemClock, TransportError, WritableOperation, WriteOperation,
};

/// The example in this crate's README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

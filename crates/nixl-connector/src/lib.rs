//! Connectors, and the transports that carry their operations.
//!
//! A [`Connector`] offers memory to peers and reads or writes the offers of peers. Over NIXL (feature `nixl`, on by default)
//! the peer is another process, here or on another machine; over the [`simulated`] transport it is another connector of this
//! process, with faults on demand. NIXL itself is found at run time: without it, building a connector is an error that lists
//! the searched places.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use nixl_connector::{Connector, simulated::Fabric};
//! use nixl_metadata::RdmaMetadata;
//! use nixl_ops::SystemClock;
//!
//! // Two connectors, as two processes would have them; leave out `transport` to use NIXL.
//! let fabric = Fabric::new(Arc::new(SystemClock::new()));
//! let source = Connector::builder().transport(fabric.transport("source")).build().await?;
//! let sink = Connector::builder().transport(fabric.transport("sink")).build().await?;
//!
//! // The owner offers memory; its metadata travels over a channel that both sides trust.
//! let memory = source.buffer(4096)?;
//! memory.copy_from_slice(0, &[7; 4096])?;
//! let mut offered = source.create_readable(memory).await?;
//! let message = offered.metadata().to_dynamo_json();
//!
//! // The peer reads it.
//! let local = sink.buffer(4096)?;
//! let remote = RdmaMetadata::decode(message.as_bytes())?;
//! let completion = sink.read(&remote, local.clone()).await?;
//! assert_eq!(completion.bytes(), 4096);
//! assert_eq!(local.to_vec()?, [7u8; 4096]);
//!
//! // The owner is notified.
//! offered.wait_for_completion().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # Powers of a peer
//!
//! Metadata is a capability. NIXL's covers the whole regions of the offered ranges, or their slab, and with a NIC all memory
//! that the connector has registered so far. Give it only to peers with a right to that memory, over a trusted channel. Data
//! from a peer is validated before NIXL parses it, except the content of NIXL's own connection details and keys. Read-only
//! memory (such as `bytes::Bytes`) is offered for reading only, but NIXL registers all memory for both: a peer outside the
//! protocol can write to it.
//!
//! # Logs
//!
//! With a subscriber of `tracing`, UCX (NIXL's transport layer) logs to the target `ucx`. Its errors are warnings there, since
//! the connector reports their effects as errors of its own. Without a subscriber UCX prints on standard output. A program that
//! uses standard output for a protocol installs a subscriber, or sets `UCX_LOG_FILE` to a file for UCX alone: UCX truncates it.
//! NIXL's own messages go to standard error and cannot be redirected: its library reads `NIXL_LOG_LEVEL` when it is loaded, and
//! with `FATAL` writes none.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admission;
mod advice;
mod agent_file;
mod at_once;
mod builder;
mod checksum;
#[cfg(feature = "conformance")]
pub mod conformance;
mod connection;
mod connection_stats;
mod connector;
mod control;
mod ended;
mod error;
#[cfg(any(feature = "nixl", all(test, loom)))]
mod exit_guard;
mod exports;
mod grants;
mod health;
mod loaded_part;
pub mod media;
mod moved;
mod named_file;
#[cfg(feature = "nixl")]
pub mod nixl;
mod occupancy;
mod offer_words;
mod offload;
mod peers;
mod quiet;
pub mod simulated;
mod tensors;
mod work_thread;

pub use admission::{TransferClass, TransferLimits};
pub use builder::ConnectorBuilder;
pub use connection_stats::ConnectionStats;
pub use connector::Connector;
pub use control::ControlThread;
pub use error::ConnectorError;
pub use grants::{
    BlockReadError, BlockTransferOptions, BlockWriteError, Export, ExportNotifications,
    ExportOptions, ExportProgress, ExportedLayoutError, Grant, GrantOptions, ImportOptions,
    RemoteExport, TicketError, WriteGrant, WriteGrantOptions,
};
pub use health::{Drained, Health};
pub use nixl_ops::{
    Advice, CancelHandle, CancelOutcome, ClaimDemand, Completion, DriverConfig, EndedOffer,
    EngineSetting, ExportNotification, FreeBlocks, GrantError, GrantStats, Held, Medium,
    NotificationSender, OperationError, OperationFuture, OperationKind, OperationOptions,
    OperationStatus, Overdue, PathKind, PathPolicy, PathReport, ReadOperation, ReadableOperation,
    Reclaimed, RevokeOutcome, SettingSource, SpentStats, TransportError, WritableOperation,
    WriteOperation,
};
pub use tensors::offered_tensor;

//! Connectors, and the transports that carry their operations.
//!
//! A [`Connector`] offers memory to peers and reads or writes what peers offer. Over NIXL (feature `nixl`, on by
//! default) the peer is another process, here or on another machine; over the [`simulated`] transport it is
//! another connector of this process, with faults to order. NIXL itself is found at run time: without it,
//! building a connector is an error that says what was looked for.
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
//! // One side offers memory; its metadata travels over a channel that both trust.
//! let memory = source.buffer(4096)?;
//! memory.copy_from_slice(0, &[7; 4096])?;
//! let mut offered = source.create_readable(memory).await?;
//! let message = offered.metadata().to_dynamo_json();
//!
//! // The other side reads it.
//! let local = sink.buffer(4096)?;
//! let remote = RdmaMetadata::decode(message.as_bytes())?;
//! let completion = sink.read(&remote, local.clone()).await?;
//! assert_eq!(completion.bytes(), 4096);
//! assert_eq!(local.to_vec()?, [7u8; 4096]);
//!
//! // And the first learns of it.
//! offered.wait_for_completion().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # What a peer can do
//!
//! Metadata is a capability: NIXL's covers the whole regions that the operation offers parts of, or the slab that they lie in,
//! and with a NIC all memory that the connector has registered when it is made. Give it to peers that you trust with that, over a channel
//! that you trust. What a peer sends is validated before NIXL sees it, apart from the inside of NIXL's own connection details and keys,
//! which only NIXL can read. Read-only memory (`bytes::Bytes`, say) is offered for reading only, but NIXL registers all
//! memory for both: a peer that breaks the rules could still write to it.
//!
//! # What is logged
//!
//! NIXL's transport layer, UCX, writes its messages to `tracing` with the target `ucx`, where a subscriber is installed: what it
//! calls an error is a warning there, since the connector tells what comes of it as an error of its own. Without a subscriber it
//! prints them on the standard output. If yours is a protocol, install one, or set `UCX_LOG_FILE` to a file of its own: UCX
//! empties the file that it names. NIXL's own messages go to the standard error and cannot be taken from there: its library reads
//! `NIXL_LOG_LEVEL` when it is loaded, and with `FATAL` writes none.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admission;
mod advice;
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
mod exports;
mod grants;
mod health;
mod loaded_part;
mod moved;
#[cfg(feature = "nixl")]
pub mod nixl;
mod occupancy;
mod offload;
mod peers;
mod quiet;
pub mod simulated;

pub use admission::{TransferClass, TransferLimits};
pub use builder::ConnectorBuilder;
pub use connection_stats::ConnectionStats;
pub use connector::Connector;
pub use control::ControlThread;
pub use error::ConnectorError;
pub use grants::{
    BlockReadError, BlockTransferOptions, Export, ExportNotifications, ExportOptions,
    ExportProgress, ExportedLayoutError, Grant, GrantOptions, ImportOptions, RemoteExport,
    TicketError, WriteGrant,
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

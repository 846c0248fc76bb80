//! The simulated transport: a network inside this process, with faults on request.
//!
//! A [`Fabric`] is the network; each [`transport`](Fabric::transport) is one agent on it. Transfers move the bytes between any
//! registered memories of the agents, and follow the rules of a real engine: peers must be connected, ranges must be
//! registered, re-registered memory needs fresh metadata. Time comes from the fabric's clock, so results on a
//! [`ManualClock`](nixl_ops::ManualClock) do not depend on the machine.
//!
//! [`Faults`] injects faults for the whole fabric or for one agent, at a given transfer and a given byte. A test of an
//! application with a lost notification:
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use std::time::Duration;
//! use nixl_connector::simulated::{Fabric, Fault};
//! use nixl_connector::{Connector, OperationError, OperationOptions};
//! use nixl_descriptor::Region;
//! use nixl_metadata::RdmaMetadata;
//! use nixl_ops::SystemClock;
//!
//! let fabric = Fabric::new(Arc::new(SystemClock::new()));
//! let source = Connector::builder().transport(fabric.transport("source")).build().await?;
//! let sink = Connector::builder().transport(fabric.transport("sink")).build().await?;
//! fabric.faults().next([Fault::NotificationLost]);
//!
//! let after = Duration::from_secs(1);
//! let offered = Region::try_from(vec![7u8; 64])?;
//! let mut offer =
//!     source.create_readable_with(offered, OperationOptions::new().timeout(after)).await?;
//! // Dynamo's profile has no slot, which would carry the completion without the network.
//! let remote = RdmaMetadata::decode(offer.metadata().to_dynamo_json().as_bytes())?;
//! let local = Region::zeroed(64)?;
//! sink.begin_read(&remote, local.clone()).await?.wait_for_completion().await?;
//!
//! // The bytes are there, but the source is never notified.
//! assert_eq!(local.to_vec()?, [7; 64]);
//! assert_eq!(offer.wait_for_completion().await, Err(OperationError::TimedOut { after }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! On a [stepped](Fabric::stepped) network only [`Fabric::step`] moves bytes, chunk by chunk in any order, so a test controls
//! the events between two chunks of one request.
//!
//! The transfers of an agent are polled, like NIXL's, or [wake](Fabric::waking_transport), like those of an engine with
//! completion events.
//!
//! Host memory only.

mod agent;
mod blob;
mod engine;
mod fabric;
mod faults;
mod imports;
mod job;
mod lists;
mod peer;
mod registrar;
mod stepped;
mod transfer;
mod transport;

pub use fabric::Fabric;
pub use faults::{Fault, Faults, MessageFault};
pub use imports::import_from_peer;

//! The simulated transport: a network inside this process, with faults on request.
//!
//! A [`Fabric`] is the network; each [`transport`](Fabric::transport) is one agent on it. Transfers really
//! move the bytes, between any memory that the agents registered, and follow the rules that a real engine
//! imposes: peers must be connected, ranges must be registered, re-registered memory needs fresh metadata.
//! Time comes from the fabric's clock, so that on a [`ManualClock`](nixl_ops::ManualClock) nothing depends
//! on the machine.
//!
//! Faults are ordered through [`Faults`], for the whole fabric or for one agent, and strike at a given
//! transfer and a given byte. A test of an application whose peer's notification gets lost:
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
//! // Dynamo's profile names no slot, by which processes of one host tell each other without the network.
//! let remote = RdmaMetadata::decode(offer.metadata().to_dynamo_json().as_bytes())?;
//! let local = Region::zeroed(64)?;
//! sink.begin_read(&remote, local.clone()).await?.wait_for_completion().await?;
//!
//! // The bytes are there, but the source never hears of it.
//! assert_eq!(local.to_vec()?, [7; 64]);
//! assert_eq!(offer.wait_for_completion().await, Err(OperationError::TimedOut { after }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! On a [stepped](Fabric::stepped) network nothing moves but by [`Fabric::step`], chunk by chunk in any order, so that a test decides
//! what happens between two chunks of one request.
//!
//! The transfers of an agent are polled, as those of NIXL are, or [wake](Fabric::waking_transport), as those of an engine with
//! completion events do.
//!
//! Host memory only.

mod agent;
mod blob;
mod engine;
mod fabric;
mod faults;
mod job;
mod lists;
mod peer;
mod registrar;
mod stepped;
mod transfer;
mod transport;

pub use fabric::Fabric;
pub use faults::{Fault, Faults, MessageFault};

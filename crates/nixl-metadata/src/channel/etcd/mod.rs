//! Channels over etcd, by its gateway for JSON (`/v3/…`), which every server from 3.4 on has beside gRPC.
//!
//! | key, below the prefix | value | ends by |
//! |---|---|---|
//! | `entry/{worker}` | an entry | its owner's lease |
//! | `inbox/{worker}` | the incarnation of the one that takes requests | its lease |
//! | `request/{worker}/{id}` | a request | its lease, or the worker |
//! | `reply/{id}` | a reply | its lease, or the one that asked |
//!
//! A name of a worker is written in hexadecimal digits, so that none begins another. etcd's own limit of a request is 1.5 MiB, of
//! which base64 leaves about 1 MiB.

mod client;
mod gateway;
mod messages;
mod requests;

pub use client::{EtcdOptions, connect};

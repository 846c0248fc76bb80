//! Channels over NATS: entries in a key-value bucket of JetStream, requests by request and reply.
//!
//! The bucket is in the servers' memory; its first user sets the life time of its entries. Requests need no JetStream. Names of
//! workers are hexadecimal digits in keys and subjects. NATS's own limit of a message, 1 MiB unless the server's is another,
//! includes the names.

mod bucket;
mod client;
mod options;

pub use client::connect;
pub use options::NatsOptions;

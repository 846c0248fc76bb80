//! Channels over etcd, by its gateway for JSON (`/v3/…`), which every server from 3.4 on has beside gRPC.
//!
//! | key, below the prefix | value | ends by |
//! |---|---|---|
//! | `entry/{worker}` | an entry | its owner's lease |
//! | `inbox/{worker}` | the incarnation of the one that takes requests | its lease |
//! | `request/{worker}/{id}` | a request | its lease, or the worker |
//! | `reply/{id}` | a reply | its lease, or the requester |
//!
//! A name of a worker is written in hexadecimal digits, so that none begins another. etcd's own limit of a request is 1.5 MiB, of
//! which base64 leaves about 1 MiB.

mod client;
mod gateway;
mod messages;
mod requests;

pub use client::{EtcdOptions, connect};

/// Reads bytes as each answer of etcd.
#[cfg(any(test, fuzzing))]
pub(super) fn decodes(input: &[u8]) {
    use crate::channel::hex::unhex;
    use messages::{Authenticated, Failed, Lease, Line, Range, Txn, Watched, read};

    if let Ok(range) = read::<Range>(input) {
        for found in &range.kvs {
            let _decoded = (found.key(), found.value(), found.revision(), found.lease());
        }
    }
    if let Ok(Line { result: Some(watched) }) = read::<Line<Watched>>(input) {
        watched.events.iter().for_each(|event| drop((event.is_delete(), event.kv.value())));
    }
    let _leases = (read::<Lease>(input).map(|lease| (lease.id(), lease.ttl())), read::<Txn>(input));
    let _others = (read::<Failed>(input), read::<Authenticated>(input).is_ok(), unhex(input));
}

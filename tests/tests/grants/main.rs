//! Exports between real processes: a model of reads and reuse, initiators that are killed, cycles that leave nothing behind,
//! notifications, waits for layers, writes by altered tickets, and owners that close with readers at work.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so, by failing too")]

mod closing;
mod flat;
mod killed;
mod model;
mod notifications;
mod waits;
mod writes;

use nixl_tests::{By, Peer, local};

const PEER: &str = env!("CARGO_BIN_EXE_peer");

/// A process whose caches have pages of so many tokens.
fn start(by: By, page: usize) -> Peer {
    let mut peer = by.start(PEER);
    peer.ask(&format!("pages {page}")).unwrap();
    peer
}

//! Discovery on made-up machines.
#![allow(clippy::unwrap_used)] // In helpers too: a tree that cannot be made fails the test.

mod distances;
mod facts;
mod fake_tree;
mod nics;
mod nodes;
mod robustness;

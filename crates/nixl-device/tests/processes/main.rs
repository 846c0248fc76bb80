//! Facts about other processes and about sockets of this one, with real ones. Tests that need root say that they are skipped
//! without.

#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stdout)] // Children's answers.

mod children;
mod holders;
mod numbers;
mod sockets;
mod support;

//! What this process finds out about others and about its sockets, with real ones. What needs root says that it is skipped
//! without.

#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stdout)] // Children's answers.

mod children;
mod holders;
mod numbers;
mod sockets;
mod support;

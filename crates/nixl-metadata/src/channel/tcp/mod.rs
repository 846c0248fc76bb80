//! Channels over TCP and Unix sockets: one connection for each call, frames of bounded length.

mod address;
mod client;
mod server;
mod stream;

pub use address::TcpAddress;
pub use client::{TcpOptions, connect};
pub use server::{Server, ServerOptions};

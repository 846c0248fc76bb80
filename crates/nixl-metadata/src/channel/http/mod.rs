//! Channels over HTTP: a router to mount into an axum server, and a client.
//!
//! The body of `POST {base}/call` is a message, and so is that of its answer; the answer of `POST {base}/stream` is a stream of
//! frames. They are the messages of channels over TCP.

mod client;
mod server;

pub use super::request::HttpOptions;
pub use client::connect;
pub use server::{RouterOptions, router};

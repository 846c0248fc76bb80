//! Both sides of staged transfers on a simulated network, moved step by step.
#![allow(clippy::unwrap_used, reason = "tests")]

mod executor;
mod gpus;
mod hostile;
mod lost;
mod on_gpu;
mod proofs;
mod remote_copy;
mod runs;
mod stalled;
mod tickets;
mod world;

use std::fmt::Debug;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The output of a future that is ready at its first poll.
fn now<F: Future<Output: Debug>>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("still pending"),
    }
}

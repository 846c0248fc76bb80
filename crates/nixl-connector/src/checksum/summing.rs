//! A checksum computed on a thread of the connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use nixl_metadata::Checksum;
use nixl_ops::{TransportError, contained};
use tokio::sync::oneshot;

use super::sum::Sum;
use crate::control::ControlThread;

/// The result of a sum. Other jobs of the thread run between its turns. A sum that is dropped or [given up](Self::give_up) ends
/// after its turn.
pub(super) struct Summing {
    summed: oneshot::Receiver<Result<Checksum, TransportError>>,
    given_up: Arc<AtomicBool>,
    thread: ControlThread,
}

impl Summing {
    pub(super) fn start(sum: Sum, thread: &ControlThread) -> Self {
        let (reply, summed) = oneshot::channel();
        let given_up = Arc::new(AtomicBool::new(false));
        let turns = Turns { sum, thread: thread.clone(), reply, given_up: Arc::clone(&given_up) };
        turns.post();
        Self { summed, given_up, thread: thread.clone() }
    }

    /// Discards the result. The memory is leased until this is ready.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

impl Future for Summing {
    type Output = Result<Checksum, TransportError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = self.thread.ended();
        Pin::new(&mut self.summed).poll(cx).map(|summed| summed.unwrap_or(Err(ended)))
    }
}

impl Drop for Summing {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// The remaining work on the thread. Field order: the memory is returned before the result is sent.
struct Turns {
    sum: Sum,
    thread: ControlThread,
    reply: oneshot::Sender<Result<Checksum, TransportError>>,
    given_up: Arc<AtomicBool>,
}

impl Turns {
    fn post(self) {
        self.thread.clone().post(move || self.next());
    }

    fn next(self) {
        if self.given_up.load(Ordering::Relaxed) {
            return;
        }
        let Self { mut sum, thread, reply, given_up } = self;
        let turn = contained("a checksum", move || {
            let turn = sum.turn();
            (sum, turn)
        });
        let summed = match turn {
            Ok((sum, Ok(None))) => return Self { sum, thread, reply, given_up }.post(),
            Ok((sum, Ok(Some(checksum)))) => {
                drop(sum);
                Ok(checksum)
            }
            Ok((sum, Err(error))) => {
                drop(sum);
                Err(error)
            }
            Err(panicked) => Err(panicked),
        };
        // A missing receiver means that the sum was given up.
        let _ = reply.send(summed);
    }
}

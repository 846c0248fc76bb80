//! Threads that block until a peer's message arrives.

use std::future::Future;
use std::pin::{Pin, pin};

use super::{Driver, Shared};
use crate::blocking::block_on;

impl Driver {
    /// Blocks this thread for the output of a future that a peer's message makes ready. A peer on this host wakes the thread
    /// directly, without the driver's thread in between; the thread receives the messages of the mailbox.
    ///
    /// One thread at a time waits so. The driver's thread wakes further ones, and one with repeated wake-ups without a message.
    pub fn block_on_messages<F: Future>(&self, future: F) -> F::Output {
        self.shared().block_on_doorbell(pin!(future), &mut || self.shared().poll_mailbox())
    }
}

impl Shared {
    /// The output of a future, which `look` may make ready: it receives messages of a peer, and returns whether there were any.
    pub(crate) fn block_on_doorbell<F: Future>(
        &self,
        mut future: Pin<&mut F>,
        look: &mut dyn FnMut() -> bool,
    ) -> F::Output {
        let waits = self.generation.is_current().then(|| self.parking.take_doorbell()).flatten();
        let Some(bell) = waits else { return block_on(future) };
        let output = bell.run(&*self.clock, future.as_mut(), look);
        drop(bell);
        // Waiters for other messages rely on the driver's thread again.
        if self.in_hand() > 0 || self.awaits_message() {
            self.wake(true);
        }
        match output {
            Some(output) => output,
            None => block_on(future),
        }
    }
}

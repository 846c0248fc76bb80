//! Threads that block until a peer's word comes.

use std::future::Future;
use std::pin::{Pin, pin};

use super::{Driver, Shared};
use crate::blocking::block_on;

impl Driver {
    /// The output of a future that a message of a peer makes ready, blocking this thread: a peer of this host wakes the thread itself,
    /// which takes the messages of the mailbox, where the driver's thread would wake it in turn.
    ///
    /// One thread at a time waits so. A further one, and one that peers wake again and again for nothing, is woken by the driver's.
    pub fn block_on_messages<F: Future>(&self, future: F) -> F::Output {
        self.shared().block_on_bell(pin!(future), &mut || self.shared().look_at_mail())
    }
}

impl Shared {
    /// The output of a future, which `look` may make ready: it takes in a word of a peer, and returns whether there was one.
    pub(crate) fn block_on_bell<F: Future>(
        &self,
        mut future: Pin<&mut F>,
        look: &mut dyn FnMut() -> bool,
    ) -> F::Output {
        let waits = self.generation.is_current().then(|| self.parking.take_bell()).flatten();
        let Some(bell) = waits else { return block_on(future) };
        let output = bell.run(&*self.clock, future.as_mut(), look);
        drop(bell);
        // Those who wait for other words rely on the driver's thread again.
        if self.in_hand() > 0 || self.awaits_message() {
            self.wake(true);
        }
        match output {
            Some(output) => output,
            None => block_on(future),
        }
    }
}

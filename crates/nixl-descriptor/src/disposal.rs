//! The drop of the owner of a region's memory: user code, which may block or panic.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use nixl_device::locks::lock;
use nixl_device::{PerProcess, named_thread};

pub(crate) type Owner = Box<dyn Any + Send + Sync>;

thread_local! {
    static DEFERS: Cell<bool> = const { Cell::new(false) };
}

/// From now on, memory whose last handle this thread drops is freed by a thread for that purpose, one owner after the other:
/// an owner whose destructor blocks does not hold this thread up. For threads that serve many operations.
pub fn defer_disposal_on_this_thread() {
    DEFERS.set(true);
}

/// Drops an owner.
pub(crate) fn dispose(owner: Owner) {
    // A thread that is ending has no state any more.
    let queue = if DEFERS.try_with(Cell::get).unwrap_or(false) { queue() } else { None };
    match queue {
        None => free(owner),
        Some(queue) => queue.send(owner).unwrap_or_else(|refused| free(refused.0)),
    }
}

fn free(owner: Owner) {
    contained(|| drop(owner));
}

/// Calls code of users. A panic ends here; the panic hook has reported it.
pub(crate) fn contained<R>(work: impl FnOnce() -> R) -> Option<R> {
    let panic = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => return Some(result),
        Err(panic) => panic,
    };
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // A payload whose destructor panics too.
        mem::forget(again);
    }
    None
}

/// To the thread that frees.
type Queue = Mutex<Option<Sender<Owner>>>;

/// To this process's thread that frees, which is started when it is first needed. `None` while the system refuses the thread.
fn queue() -> Option<Sender<Owner>> {
    // A fork's child has not the thread.
    static QUEUE: PerProcess<Queue> = PerProcess::new(Queue::default);
    queue_of(QUEUE.get(), |free| named_thread("nixl-free").spawn(free).map(drop))
}

fn queue_of(
    queue: &Queue,
    spawn: impl FnOnce(Box<dyn FnOnce() + Send>) -> io::Result<()>,
) -> Option<Sender<Owner>> {
    let mut queue = lock(queue);
    if queue.is_none() {
        let (sender, owners) = channel::<Owner>();
        spawn(Box::new(move || owners.into_iter().for_each(free))).ok()?;
        *queue = Some(sender);
    }
    queue.clone()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
    use std::thread;
    use std::thread::ThreadId;
    use std::time::Duration;

    use super::*;

    /// Says on which thread it is dropped, and panics.
    struct Bomb(Sender<ThreadId>);

    impl Drop for Bomb {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().id());
            panic!("a destructor's panic");
        }
    }

    #[test]
    fn a_panic_of_a_destructor_ends_here() {
        let (said, dropped) = channel();
        dispose(Box::new(Bomb(said)));
        assert_eq!(dropped.recv(), Ok(thread::current().id()));
    }

    #[test]
    fn a_thread_that_was_refused_is_asked_for_again() {
        let queue = Queue::default();
        let refused = |_: Box<dyn FnOnce() + Send>| Err(io::ErrorKind::WouldBlock.into());
        assert!(queue_of(&queue, refused).is_none());
        let spawn = |free: Box<dyn FnOnce() + Send>| {
            thread::spawn(free);
            Ok(())
        };
        let (said, dropped) = channel();
        queue_of(&queue, spawn).unwrap().send(Box::new(Bomb(said))).unwrap();
        assert_ne!(dropped.recv(), Ok(thread::current().id()));
        assert!(queue_of(&queue, refused).is_some(), "one is enough");
    }

    #[test]
    fn a_thread_that_defers_is_not_held_up() {
        let (said, dropped) = channel();
        let (go, block) = channel::<()>();
        struct Blocks(Mutex<std::sync::mpsc::Receiver<()>>);
        impl Drop for Blocks {
            fn drop(&mut self) {
                let _ = self.0.get_mut().map(|block| block.recv());
            }
        }
        let me = thread::spawn(move || {
            defer_disposal_on_this_thread();
            dispose(Box::new(Blocks(block.into())));
            dispose(Box::new(Bomb(said.clone())));
            dispose(Box::new(Bomb(said)));
            thread::current().id()
        });
        let me = me.join().unwrap();
        let none = dropped.recv_timeout(Duration::from_millis(1));
        assert_eq!(none, Err(RecvTimeoutError::Timeout), "they wait for each other");
        go.send(()).unwrap();
        let by: Vec<_> = dropped.iter().collect();
        assert!(by.len() == 2 && by.iter().all(|thread| *thread != me));
    }
}

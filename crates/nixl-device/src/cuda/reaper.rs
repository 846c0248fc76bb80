//! The reaper thread, which calls CUDA after a callback and waits for streams.
//!
//! It is started at its first job, and sleeps without one. If it cannot be started, the values of that job are leaked, which is
//! safe, and the next job tries again.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::named_thread;
use crate::system::process::PerProcess;

use super::callback::catch;
use super::capture::relax_capture;
use super::hold::{Hold, HoldState};

enum Task {
    Run(Box<dyn FnOnce() + Send>),
    Await(VecDeque<Hold>),
}

/// Runs a job soon.
pub(super) fn run(job: Box<dyn FnOnce() + Send>) {
    submit(Task::Run(job));
}

/// Drops each of these, in order, when the device has passed it.
pub(super) fn wait_for(holds: VecDeque<Hold>) {
    submit(Task::Await(holds));
}

fn submit(task: Task) {
    let lost = match sender() {
        Some(sender) => sender.send(task).err().map(|error| error.0),
        None => Some(task),
    };
    match lost {
        Some(Task::Await(holds)) => holds.into_iter().for_each(Hold::leak),
        // What the job would free is leaked with it.
        Some(Task::Run(job)) => std::mem::forget(job),
        None => {}
    }
}

/// `None` if the operating system refuses the thread.
fn sender() -> Option<&'static Sender<Task>> {
    // A fork's child has not the thread.
    static THREAD: PerProcess<OnceLock<Sender<Task>>> = PerProcess::new(OnceLock::new);
    let thread = THREAD.get();
    if thread.get().is_none() {
        let (sender, receiver) = channel();
        named_thread("nixl-cuda-reaper").spawn(move || work(&receiver)).ok()?;
        // One that another caller has started meanwhile is used, and this one ends with its sender.
        let _ = thread.set(sender);
    }
    thread.get()
}

fn work(tasks: &Receiver<Task>) {
    const POLL: Duration = Duration::from_micros(200);
    // Once for all calls of the thread.
    let _relaxed = relax_capture();
    let mut queues: Vec<VecDeque<Hold>> = Vec::new();
    loop {
        let task = if queues.is_empty() {
            tasks.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            tasks.recv_timeout(POLL)
        };
        match task {
            // A value's own drop may panic. The next one must still be dropped.
            Ok(Task::Run(job)) => catch(job),
            Ok(Task::Await(holds)) => queues.push(holds),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        queues.retain_mut(|holds| {
            while let Some(hold) = holds.pop_front() {
                match hold.state() {
                    HoldState::Passed => catch(move || drop(hold)),
                    HoldState::Unknown(_) => hold.leak(),
                    HoldState::Pending => {
                        holds.push_front(hold);
                        return true;
                    }
                }
            }
            false
        });
    }
}

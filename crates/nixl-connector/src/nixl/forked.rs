//! NIXL agents in the child of a fork.
//!
//! UCX serves the events of all its workers by one thread of the process, with one epoll set. The child of a fork inherits the set and the
//! count of the thread's users, but not the thread: what an agent of the child's waits for there is never served, and its sockets are put
//! into the set that the parent's thread waits on. UCX has no handler for it (1.23: `src/ucs/async/thread.c`; openucx/ucx#10748).
//!
//! So the first agent of a child has UCX begin anew: the child's descriptor of the set is replaced by a set of its own, the parent's
//! handlers are removed by UCX itself, and a thread of this library serves the set. The parent's set, descriptors and memory are not
//! touched. Whether it worked shows: the new agent's listening socket is then in the child's set. If not, the agent is refused.
//!
//! Shares of UCX's locks that threads of the parent had in the moment of the fork are given back. A mutex of UCX's or NIXL's that was
//! held then keeps the agent from starting; it is refused after some seconds.

mod events;
mod locks;
mod set;

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nixl_device::PerProcess;

use super::library::NixlUnavailable;
use super::listener::Listener;
use events::begin_anew;
use set::set_with;

/// No agent was started yet.
const NONE: RawFd = -1;
/// Agents were started, and the set was not found.
const UNKNOWN: RawFd = -2;

/// The epoll set of UCX's thread, of this process or the latest one before it that had an agent. Inherited by children.
static EVENTS: AtomicI32 = AtomicI32::new(NONE);

/// Who serves UCX's events in a process.
#[derive(Clone, Copy, Debug, Default)]
enum Served {
    /// The thread of a process that this one was forked from, if any.
    #[default]
    Before,
    /// A thread of this library; no agent was started so far.
    Anew,
    /// A thread of this process.
    Here,
    /// None: it was tried, and did not end.
    Never,
}

static SERVED: PerProcess<Mutex<Served>> = PerProcess::new(Mutex::default);

/// Starts an agent, in a child of a fork after UCX has begun anew. **Blocks.**
pub(super) fn start<T: Send + 'static>(
    start: impl FnOnce() -> Result<T, NixlUnavailable> + Send + 'static,
    listener: impl Fn(&T) -> &Listener,
) -> Result<T, NixlUnavailable> {
    let mut served = SERVED.get().lock().unwrap_or_else(PoisonError::into_inner);
    let inherited = EVENTS.load(Ordering::Relaxed);
    let was_anew = match *served {
        Served::Here => None,
        Served::Before if inherited == NONE => None,
        Served::Before => Some(false),
        Served::Anew => Some(true),
        Served::Never => return Err(refused("a lock was held at the fork")),
    };
    let Some(was_anew) = was_anew else {
        *served = Served::Here;
        drop(served);
        let agent = start()?;
        found(set_with(listener(&agent)));
        return Ok(agent);
    };
    if inherited == UNKNOWN {
        return Err(refused("its epoll set was not found"));
    }
    // Its thread may be left behind.
    let begun = bounded(move || {
        let is_anew = was_anew || begin_anew(inherited)?;
        Ok((is_anew, start()))
    });
    let (is_anew, agent) = match begun {
        Some(outcome) => outcome.map_err(|reason| refused(&reason))?,
        None => {
            *served = Served::Never;
            return Err(refused("a lock was held at the fork"));
        }
    };
    if is_anew {
        *served = Served::Anew;
    }
    let agent = agent?;
    match set_with(listener(&agent)) {
        Some(set) if !is_anew || set == inherited => {
            found(Some(set));
            *served = Served::Here;
            Ok(agent)
        }
        _ => Err(refused("its new sockets are not waited for")),
    }
}

/// Takes note of the set, as far as it was found.
fn found(set: Option<RawFd>) {
    match set {
        Some(set) => EVENTS.store(set, Ordering::Relaxed),
        // An agent without listening sockets does not tell.
        None => {
            let _ = EVENTS.compare_exchange(NONE, UNKNOWN, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

fn refused(why: &str) -> NixlUnavailable {
    let reason = format!(
        "this process was forked from one with a connector, and UCX's thread there cannot be replaced here ({why}): fork before the first connector is built, or start the process by exec"
    );
    NixlUnavailable::Start { what: "agent in a forked process", reason }
}

/// Runs it on a thread of its own. `None` if it takes longer than it can, unless a lock of the parent's other threads is in the way.
fn bounded<T: Send + 'static>(
    start: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Option<Result<T, String>> {
    const LONGEST: Duration = Duration::from_secs(20);
    let (done, outcome) = channel();
    let spawned = thread::Builder::new().name("nixl-forked".to_owned()).spawn(move || {
        // Too late, it is dropped here.
        let _ = done.send(start());
    });
    match spawned {
        Ok(_) => outcome.recv_timeout(LONGEST).ok(),
        Err(error) => Some(Err(error.to_string())),
    }
}

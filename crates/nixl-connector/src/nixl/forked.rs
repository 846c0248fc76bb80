//! NIXL agents in the child of a fork.
//!
//! One thread of the process, with one epoll set, serves the events of all UCX workers. The child of a fork inherits the set
//! and the thread's use count, but not the thread: events of the child's agents are never served, and their sockets go into the
//! set of the parent's thread. UCX has no fork handler (1.23: `src/ucs/async/thread.c`; openucx/ucx#10748).
//!
//! So the first agent of a child resets UCX: a new set replaces the child's descriptor of the set, UCX itself removes the
//! parent's handlers, and a thread of this library serves the set. The parent's set, descriptors and memory are not touched.
//! The new agent's listening socket in the child's set confirms success; otherwise the agent is refused.
//!
//! Read locks of UCX that threads of the parent held at the fork are released. A mutex of UCX or NIXL that was held then blocks
//! the agent's start; the agent is refused after some seconds.

mod events;
mod locks;
mod set;

use std::os::fd::RawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use nixl_device::locks::lock;
use nixl_device::{ForkGeneration, PerProcess, named_thread};

use super::library::NixlUnavailable;
use super::listener::Listener;
use events::begin_anew;
use set::set_with;

/// No agent has started yet.
const NONE: RawFd = -1;
/// Agents have started, and the set was not found.
const UNKNOWN: RawFd = -2;

/// The epoll set of UCX's thread, of this process or the nearest ancestor with an agent. Inherited by children.
static EVENTS: AtomicI32 = AtomicI32::new(NONE);

/// The thread that serves UCX's events in a process.
#[derive(Clone, Copy, Debug, Default)]
enum Served {
    /// The thread of an ancestor, if any.
    #[default]
    Before,
    /// A thread of this library; no agent has started yet.
    Anew,
    /// A thread of this process.
    Here,
    /// None: the reset did not end.
    Never,
}

static SERVED: PerProcess<Mutex<Served>> = PerProcess::new(Mutex::default);

/// Starts an agent, in a child of a fork after the reset of UCX. **Blocks.**
pub(super) fn start<T: Send + 'static>(
    start: impl FnOnce() -> Result<T, NixlUnavailable> + Send + 'static,
    listener: impl Fn(&T) -> &Listener,
) -> Result<T, NixlUnavailable> {
    let mut served = lock(SERVED.get());
    let inherited = EVENTS.load(Ordering::Relaxed);
    let was_anew = match *served {
        Served::Here => None,
        Served::Before if inherited == NONE => None,
        Served::Before => Some(false),
        Served::Anew => Some(true),
        Served::Never => return Err(held()),
    };
    let Some(was_anew) = was_anew else {
        *served = Served::Here;
        drop(served);
        let agent = if ForkGeneration::current().is_forked() {
            bounded(move || Ok(start())).ok_or_else(held)?.map_err(|reason| refused(&reason))?
        } else {
            start()
        }?;
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
            return Err(held());
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
        _ => Err(refused("its new sockets are not in the epoll set")),
    }
}

/// Records the set, if found.
fn found(set: Option<RawFd>) {
    match set {
        Some(set) => EVENTS.store(set, Ordering::Relaxed),
        // An agent without listening sockets gives no indication.
        None => {
            let _ = EVENTS.compare_exchange(NONE, UNKNOWN, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

fn held() -> NixlUnavailable {
    refused("a thread held a lock at the fork that is needed here")
}

fn refused(why: &str) -> NixlUnavailable {
    let reason = format!(
        "this process was forked from one with a connector, and UCX's thread there cannot be replaced here ({why}): fork before the first connector is built, or start the process by exec"
    );
    NixlUnavailable::Start { what: "agent in a forked process", reason }
}

/// Runs it on a separate thread. `None` beyond the deadline, which only a lock of the parent's other threads explains.
fn bounded<T: Send + 'static>(
    start: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Option<Result<T, String>> {
    const LONGEST: Duration = Duration::from_secs(20);
    let (done, outcome) = channel();
    let spawned = named_thread("nixl-forked").spawn(move || {
        // Too late, it is dropped here.
        let _ = done.send(start());
    });
    match spawned {
        Ok(_) => outcome.recv_timeout(LONGEST).ok(),
        Err(error) => Some(Err(error.to_string())),
    }
}

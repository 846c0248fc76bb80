//! The exit handler: no agent outlives NIXL's libraries.
//!
//! `exit`, also by returning from `main`, runs the destructors of NIXL's and UCX's libraries while other threads go on. A
//! thread inside NIXL then crashes, and so does the progress thread of a remaining agent. So a handler that runs before those
//! destructors closes the gates, waits for the threads inside, and destroys the remaining agents.
//!
//! This takes at most [`PATIENCE`]. With a thread inside NIXL beyond that (waiting for a dead peer, or in a destructor), the
//! destructors would crash. So the process ends at once, with its exit status and its output written.
//!
//! Likewise a fork waits up to [`LULL`] for threads inside NIXL: their locks would stay locked in the child, whose exit runs
//! those destructors too. UCX's and NIXL's own threads may hold locks nevertheless.
//!
//! So destructors may wait for ever in a child. There a thread ends the process with its exit status [`LONGEST`] after the handler.
//! A child that was forked amid the start or the end of an agent ends before those destructors.
#![allow(unsafe_code, reason = "registers handlers with the C library")]

use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nixl_device::locks::lock;
use nixl_device::{
    ForkGeneration, PerProcess, is_in_libraries, named_thread, was_forked_amid_libraries,
};

use super::agent::Gate;
use super::library::NixlUnavailable;
use super::loaded;
pub(super) use crate::exit_guard::Busy;
use crate::exit_guard::{ExitGuard, wait_until};

/// The longest delay of an exit.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest delay of a fork.
const LULL: Duration = Duration::from_millis(100);
/// The longest run of what may wait for ever: of later handlers and destructors in a child, and of writing the output.
const LONGEST: Duration = Duration::from_secs(10);

/// The process that has registered the handler of exits with the C library, this one or a parent.
static ARMED: OnceLock<Option<ForkGeneration>> = OnceLock::new();

/// A fork's child has neither its parent's agents nor the threads that were inside.
static PROCESS: PerProcess<Process> = PerProcess::new(Process::new);

/// NIXL's state in a process.
struct Process {
    guard: ExitGuard,
    agents: Mutex<Vec<Arc<Gate>>>,
}

impl Process {
    const fn new() -> Self {
        Self { guard: ExitGuard::new(), agents: Mutex::new(Vec::new()) }
    }

    fn agents(&self) -> MutexGuard<'_, Vec<Arc<Gate>>> {
        lock(&self.agents)
    }
}

/// Held by a thread inside NIXL; none is given out once the process exits.
pub(super) fn enter() -> Option<Busy<'static>> {
    PROCESS.get().guard.enter()
}

/// Whether the process exits.
pub(super) fn is_exiting() -> bool {
    PROCESS.get().guard.is_closed()
}

/// Registers the handlers of forks, once for this process and its children. Called before the libraries are loaded.
pub(super) fn watch_forks() -> Result<(), NixlUnavailable> {
    static IS_WATCHING: OnceLock<bool> = OnceLock::new();
    // SAFETY: it is the C library's function, with its signature.
    unsafe extern "C" {
        safe fn pthread_atfork(
            before: Option<extern "C" fn()>,
            parent: Option<extern "C" fn()>,
            child: Option<extern "C" fn()>,
        ) -> c_int;
    }
    let watch = || {
        loaded::for_good();
        pthread_atfork(Some(before_fork), Some(after_fork), None) == 0
    };
    if *IS_WATCHING.get_or_init(watch) { Ok(()) } else { Err(no_handlers()) }
}

/// Registers the agent for destruction at exit, unless it is [removed](remove) before. Called after its start: handlers run in
/// reverse order, and state that the first agent has set up must be torn down after ours.
pub(super) fn add(agent: &Arc<Gate>) -> Result<(), NixlUnavailable> {
    // A fork's child inherits the handler. It has a guard of its own.
    let arm = || register().then(ForkGeneration::current);
    if ARMED.get_or_init(arm).is_none() {
        return Err(no_handlers());
    }
    PROCESS.get().agents().push(Arc::clone(agent));
    Ok(())
}

/// Has the C library call [`before_exit`] before all that is registered now.
fn register() -> bool {
    type OnExit = extern "C" fn(c_int, *mut c_void);
    // SAFETY: it is the C library's function, with its signature; the argument is unused.
    unsafe extern "C" {
        safe fn on_exit(handler: OnExit, argument: *mut c_void) -> c_int;
    }
    on_exit(before_exit, ptr::null_mut()) == 0
}

fn no_handlers() -> NixlUnavailable {
    let reason = "the C library has no memory for it".to_owned();
    NixlUnavailable::Start { what: "handlers of exit and fork", reason }
}

/// The agent has been destroyed.
pub(super) fn remove(agent: &Arc<Gate>) {
    PROCESS.get().agents().retain(|known| !Arc::ptr_eq(known, agent));
}

extern "C" fn before_fork() {
    PROCESS.get().guard.pause(Instant::now() + LULL);
    // The child's exit must not run destructors of libraries that are half loaded: what these have registered by now comes later.
    if is_in_libraries() {
        register();
    }
}

extern "C" fn after_fork() {
    PROCESS.get().guard.resume();
}

extern "C" fn before_exit(status: c_int, _: *mut c_void) {
    let is_child = ARMED.get().is_some_and(|armed| armed.is_some_and(|of| !of.is_current()));
    let is_clean = !was_forked_amid_libraries() && tear_down();
    if !is_clean || is_child {
        end_late(status);
    }
    if !is_clean {
        // SAFETY: null stands for all streams. Another thread may hold one for ever: `end_late` bounds that.
        unsafe { libc::fflush(ptr::null_mut()) };
        end(status);
    }
}

/// Ends the process without handlers and destructors.
fn end(status: c_int) -> ! {
    // SAFETY: it can be called at any time.
    unsafe { libc::_exit(status) }
}

/// Returns whether nothing is left.
fn tear_down() -> bool {
    let process = PROCESS.get();
    let until = Instant::now() + PATIENCE;
    let are_out = process.guard.close(until);
    let agents = mem::take(&mut *process.agents());
    if agents.is_empty() {
        return are_out;
    }
    // On a thread that may be left behind: a destructor of NIXL waits for its threads.
    let destroyed = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&destroyed);
    let destroy = move || {
        agents.iter().for_each(|agent| agent.destroy(until));
        done.store(true, Ordering::Release);
    };
    let spawned = named_thread("nixl-exit").spawn(destroy);
    spawned.is_ok() && wait_until(until, || destroyed.load(Ordering::Acquire)) && are_out
}

/// Starts a thread that ends the process if it does not end by itself.
fn end_late(status: c_int) {
    let late = move || {
        thread::sleep(LONGEST);
        end(status)
    };
    // Without it the process may wait for ever.
    let _ = named_thread("nixl-exit").spawn(late);
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::super::agent::Agent;
    use super::super::{NixlLibrary, NixlOptions};
    use super::*;
    use crate::control::ControlThread;

    /// What this program is told to be a process for [`with_a_thread_inside`].
    const INSIDE: &str = "NIXL_TEST_EXIT_INSIDE";
    const SAID: &CStr = c"written by the C library";

    extern "C" fn later() {
        end(99);
    }

    /// No test, but what the next one runs: a process that exits with a thread inside NIXL.
    #[test]
    #[ignore = "run by another test, in a process of its own"]
    fn with_a_thread_inside() {
        if std::env::var_os(INSIDE).is_none() {
            return;
        }
        // SAFETY: the function is there as long as the process.
        assert_eq!(unsafe { libc::atexit(later) }, 0);
        NixlLibrary::open().unwrap();
        let control = ControlThread::spawn().unwrap();
        let _agent = Agent::start("inside", control, &NixlOptions::new()).unwrap();
        let (entered, is_inside) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let _busy = enter().unwrap();
            entered.send(()).unwrap();
            loop {
                thread::park();
            }
        });
        is_inside.recv().unwrap();
        // SAFETY: the text ends with zero.
        unsafe { libc::puts(SAID.as_ptr()) };
        std::process::exit(7);
    }

    #[test]
    fn with_a_thread_inside_a_process_ends_before_the_destructors_with_its_status_and_output() {
        let child = std::process::Command::new("/proc/self/exe")
            .args([
                "--exact",
                "nixl::exit::tests::with_a_thread_inside",
                "--ignored",
                "--nocapture",
            ])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert_eq!(child.status.code(), Some(7), "{said}");
        assert!(said.contains(SAID.to_str().unwrap()), "{said}");
    }
}

//! Callbacks when processes end.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::Errno;

use super::{ForkGeneration, LeakInChild, PerProcess, ProcessError, ProcessWatch};
use crate::locks::lock;
use crate::named_thread;

/// Calls back when processes of this PID namespace end. There is [one](Self::global) for the whole process: one thread,
/// which the first watch starts and which sleeps until a process ends, and one descriptor for each watched process, however
/// many watch it.
///
/// ```
/// use std::process::Command;
/// use std::sync::mpsc;
///
/// use nixl_device::ProcessExits;
///
/// let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn()?;
/// let (ended, has_ended) = mpsc::channel();
/// let watch = ProcessExits::global().watch(child.id(), None, move || ended.send(()).unwrap_or(()))?;
/// child.kill()?;
/// has_ended.recv()?;
/// # drop(watch);
/// # child.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ProcessExits {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    watched: HashMap<u64, Watched>,
    /// The latest of each number, as the keys of `watched`.
    by_pid: HashMap<u32, u64>,
    /// The keys of `watched` by the addresses of the processes there.
    by_process: HashMap<usize, u64>,
    last: u64,
    restarts: Restarts,
}

/// New sets in the place of ones that the thread could not wait for.
#[derive(Default)]
struct Restarts {
    first: Option<Instant>,
    count: u32,
}

impl Restarts {
    /// Of a second: where the system refuses to wait, such as by a filter of system calls, a new set is refused as well.
    const MOST: u32 = 3;

    fn allow(&mut self, now: Instant) -> bool {
        let is_over = |first: Instant| now.duration_since(first) >= Duration::from_secs(1);
        if self.first.is_none_or(is_over) {
            (self.first, self.count) = (Some(now), 0);
        }
        self.count += 1;
        self.count <= Self::MOST
    }
}

/// What the thread waits for.
struct Running {
    epoll: Arc<OwnedFd>,
}

/// A process that has not ended as far as is known.
struct Watched {
    process: Arc<ProcessWatch>,
    callbacks: HashMap<u64, Callback>,
}

type Callback = Box<dyn FnOnce() + Send>;

/// A process that is watched for its end, until dropped.
pub struct ExitWatch {
    exits: &'static ProcessExits,
    process: LeakInChild<Arc<ProcessWatch>>,
    of: u64,
    callback: u64,
}

/// A fork's child has no such thread.
static EXITS: PerProcess<ProcessExits> =
    PerProcess::new(|| ProcessExits { state: Mutex::default() });

impl ProcessExits {
    /// That of this process.
    #[must_use]
    pub fn global() -> &'static Self {
        EXITS.get()
    }

    /// Calls `on_exit` once, when the process of this number [has ended](ProcessWatch::has_ended), or soon if it has already.
    /// `start_time` distinguishes that process from others with its number (see [`ProcessWatch::is`]); without it, or where it cannot
    /// be read, the process that has the number now is meant.
    ///
    /// `on_exit` runs on the one thread that serves all watches, so it must not block. If it panics, that is caught. Takes
    /// some microseconds.
    ///
    /// # Errors
    ///
    /// [`ProcessError`]: among others [`NotThere`](ProcessError::NotThere) if the process has ended and its number is free or
    /// is another's; and [`Refused`](ProcessError::Refused) if this process may open no more files or start no thread.
    pub fn watch(
        &'static self,
        pid: u32,
        start_time: Option<u64>,
        on_exit: impl FnOnce() + Send + 'static,
    ) -> Result<ExitWatch, ProcessError> {
        let mut state = self.lock();
        // One that has not ended still has its number.
        let known = state.by_pid.get(&pid).and_then(|id| state.watched.get(id));
        let known = known.map(|watched| Arc::clone(&watched.process));
        let process = match known.filter(|process| !process.has_ended()) {
            Some(process) => process,
            None => Arc::new(ProcessWatch::open(pid)?),
        };
        let is_another = start_time.is_some_and(|wanted| {
            process.start_time().is_some_and(|start_time| start_time != wanted)
        });
        match is_another {
            true => Err(ProcessError::NotThere { pid }),
            false => state.watch(self, &process, Box::new(on_exit)),
        }
    }

    /// As [`watch`](Self::watch), for a process that is there by its descriptor, which all its watches share.
    ///
    /// # Errors
    ///
    /// [`Refused`](ProcessError::Refused), as there.
    pub fn watch_process(
        &'static self,
        process: &Arc<ProcessWatch>,
        on_exit: impl FnOnce() + Send + 'static,
    ) -> Result<ExitWatch, ProcessError> {
        self.lock().watch(self, process, Box::new(on_exit))
    }

    /// Processes that are watched and have not ended as far as is known. Each takes a descriptor.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.lock().watched.len()
    }

    fn run(&'static self, epoll: &OwnedFd) {
        let generation = ForkGeneration::current();
        let mut events = Vec::with_capacity(64);
        // A child whose fork was in a callback has the set in common with its parent, which is to learn the ends.
        while generation.is_current() {
            match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                // The program has closed it. A new one watches the same processes.
                Err(_) => {
                    let mut state = self.lock();
                    let is_this = |r: &mut Running| std::ptr::eq(&*r.epoll, epoll);
                    let ended = state.running.take_if(is_this);
                    // If there can be none, no end would be reported.
                    let is_lost = ended.is_some()
                        && (!state.restarts.allow(Instant::now()) || state.start(self, 0).is_err());
                    let forgotten = is_lost.then(|| mem::take(&mut *state));
                    drop(state);
                    drop(forgotten);
                    return;
                }
            }
            for event in events.drain(..) {
                let data = event.data;
                if generation.is_current() {
                    self.tell(epoll, data.u64(), generation);
                }
            }
        }
    }

    fn tell(&self, epoll: &OwnedFd, id: u64, generation: ForkGeneration) {
        let mut state = self.lock();
        let Some(watched) = state.forget(id) else { return };
        // Another process may hold it open, so closing it is not enough.
        let _ = epoll::delete(epoll, watched.process.handle());
        drop(state);
        for callback in watched.callbacks.into_values() {
            if !generation.is_current() {
                mem::forget(callback);
                continue;
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(callback)) {
                // Its destructor may panic as well.
                mem::forget(payload);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn watch(
        &mut self,
        exits: &'static ProcessExits,
        process: &Arc<ProcessWatch>,
        on_exit: Callback,
    ) -> Result<ExitWatch, ProcessError> {
        let pid = process.pid();
        let epoll = self.start(exits, pid)?;
        let address = address_of(process);
        let of = match self.by_process.get(&address).copied() {
            Some(known) => known,
            None => {
                let id = self.next();
                watch_in(&epoll, process, id).map_err(|errno| ProcessError::Refused {
                    pid,
                    error: io::Error::from(errno).into(),
                })?;
                let watched = Watched { process: Arc::clone(process), callbacks: HashMap::new() };
                self.watched.insert(id, watched);
                self.by_process.insert(address, id);
                if pid != 0 {
                    self.by_pid.insert(pid, id);
                }
                id
            }
        };
        let callback = self.next();
        if let Some(watched) = self.watched.get_mut(&of) {
            watched.callbacks.insert(callback, on_exit);
        }
        let process = LeakInChild::new(Arc::clone(process));
        Ok(ExitWatch { exits, process, of, callback })
    }

    /// The set of what the thread waits for, which is started unless it runs.
    fn start(
        &mut self,
        exits: &'static ProcessExits,
        pid: u32,
    ) -> Result<Arc<OwnedFd>, ProcessError> {
        let refused = |error: io::Error| ProcessError::Refused { pid, error: error.into() };
        if let Some(running) = &self.running {
            return Ok(Arc::clone(&running.epoll));
        }
        let created = epoll::create(epoll::CreateFlags::CLOEXEC);
        let epoll = Arc::new(created.map_err(|errno| refused(errno.into()))?);
        for (&id, watched) in &self.watched {
            let added = watch_in(&epoll, &watched.process, id);
            added.map_err(|errno| refused(errno.into()))?;
        }
        let theirs = Arc::clone(&epoll);
        named_thread("nixl-exits").spawn(move || exits.run(&theirs)).map_err(|error| {
            refused(io::Error::new(error.kind(), format!("no thread for it: {error}")))
        })?;
        self.running = Some(Running { epoll: Arc::clone(&epoll) });
        Ok(epoll)
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn forget(&mut self, id: u64) -> Option<Watched> {
        let watched = self.watched.remove(&id)?;
        self.by_process.remove(&address_of(&watched.process));
        let pid = watched.process.pid();
        if self.by_pid.get(&pid) == Some(&id) {
            self.by_pid.remove(&pid);
        }
        Some(watched)
    }
}

/// Has the set report the end of a process as `id`.
fn watch_in(epoll: &OwnedFd, process: &ProcessWatch, id: u64) -> Result<(), Errno> {
    let events = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
    epoll::add(epoll, process.handle(), epoll::EventData::new_u64(id), events)
}

fn address_of(process: &Arc<ProcessWatch>) -> usize {
    Arc::as_ptr(process).addr()
}

impl ExitWatch {
    /// The process.
    #[must_use]
    pub fn process(&self) -> &ProcessWatch {
        &self.process
    }
}

impl Drop for ExitWatch {
    /// `on_exit` is not called afterwards; a call under way on another thread goes on.
    fn drop(&mut self) {
        // A fork's child shares the set with its parent, and has no part in its locks.
        if self.process.is_inherited() {
            return;
        }
        let mut state = self.exits.lock();
        let Some(watched) = state.watched.get_mut(&self.of) else { return };
        let callback = watched.callbacks.remove(&self.callback);
        let mut last = None;
        if watched.callbacks.is_empty() {
            last = state.forget(self.of);
            if let Some(running) = &state.running {
                let _ = epoll::delete(&*running.epoll, self.process.handle());
            }
        }
        drop(state);
        // They may do anything when dropped: not under the lock.
        drop((callback, last));
    }
}

impl fmt::Debug for ProcessExits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessExits").field("watched", &self.watched()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ExitWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExitWatch").field("process", &self.process).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::sync::mpsc;
    use std::thread;

    use super::super::forks::tests::fork;
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn child() -> Child {
        Command::new("cat").stdin(Stdio::piped()).spawn().unwrap()
    }

    fn end(child: &mut Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn every_watch_is_told_once_and_a_panicking_callback_does_not_matter() {
        let exits = ProcessExits::global();
        let (mut one, mut other) = (child(), child());
        let (told, tellings) = mpsc::channel();
        let watch = |pid, word| {
            let told = told.clone();
            exits.watch(pid, None, move || told.send(word).unwrap()).unwrap()
        };
        let first = watch(one.id(), 1);
        let panics = exits.watch(one.id(), None, || panic!("on purpose")).unwrap();
        let second = watch(one.id(), 1);
        assert!(std::ptr::eq(first.process(), second.process()), "one descriptor serves all");
        let dropped = watch(one.id(), 3);
        let theirs = watch(other.id(), 2);
        drop(dropped);
        end(&mut one);
        assert_eq!([(); 2].map(|()| tellings.recv_timeout(LIMIT).unwrap()), [1, 1]);
        assert!(tellings.try_recv().is_err());
        end(&mut other);
        assert_eq!(tellings.recv_timeout(LIMIT), Ok(2));
        assert!(first.process().has_ended());
        drop((first, second, panics, theirs, told));
        assert!(tellings.recv_timeout(LIMIT).is_err(), "nothing is kept");
    }

    #[test]
    fn a_process_that_is_known_by_a_descriptor_is_watched() {
        let mut child = child();
        let pid = rustix::process::Pid::from_child(&child);
        let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        let process = Arc::new(ProcessWatch::of_descriptor(handle.unwrap()));
        let (told, tellings) = mpsc::channel();
        let exits = ProcessExits::global();
        let watch = |word| {
            let told = told.clone();
            exits.watch_process(&process, move || told.send(word).unwrap()).unwrap()
        };
        let watches = [watch(1), watch(1)];
        drop(watch(2));
        end(&mut child);
        assert_eq!([(); 2].map(|()| tellings.recv_timeout(LIMIT).unwrap()), [1, 1]);
        assert!(watches[0].process().has_ended() && tellings.try_recv().is_err());
    }

    #[test]
    fn the_end_of_a_process_that_its_parent_has_not_waited_for_is_told() {
        let mut child = child();
        child.kill().unwrap();
        while !ProcessWatch::open(child.id()).unwrap().has_ended() {
            thread::yield_now();
        }
        let (told, tellings) = mpsc::channel();
        let exits = ProcessExits::global();
        let _watch = exits.watch(child.id(), None, move || told.send(()).unwrap()).unwrap();
        assert_eq!(tellings.recv_timeout(LIMIT), Ok(()));
        child.wait().unwrap();
        let pid = child.id();
        let again = exits.watch(pid, None, || {}).unwrap_err();
        assert_eq!(again, ProcessError::NotThere { pid });
    }

    #[test]
    fn what_is_watched_no_more_is_closed() {
        let mut child = child();
        let exits = ProcessExits::global();
        let watches = [(); 3].map(|()| exits.watch(child.id(), None, || {}).unwrap());
        let handle = Arc::downgrade(&watches[0].process);
        drop(watches);
        assert!(handle.upgrade().is_none());
        assert!(!exits.lock().by_pid.contains_key(&child.id()));
        end(&mut child);
    }

    #[test]
    fn a_child_whose_fork_was_in_a_callback_takes_no_end_from_its_parent() {
        let (mut one, mut other) = (child(), child());
        let exits = ProcessExits::global();
        let (told, tellings) = mpsc::channel();
        let forks = move || {
            if let Some(forked) = fork() {
                told.send(forked).unwrap();
            }
        };
        let _watch = exits.watch(one.id(), None, forks).unwrap();
        let (told, ends) = mpsc::channel();
        let _other = exits.watch(other.id(), None, move || told.send(()).unwrap()).unwrap();
        end(&mut one);
        let forked = tellings.recv_timeout(LIMIT).unwrap();
        // The thread is the only one of the child: the child ends with it.
        let forked = ProcessWatch::open(forked).unwrap();
        let began = Instant::now();
        while !forked.has_ended() {
            assert!(began.elapsed() < LIMIT, "the child goes on with the thread of its parent");
            thread::sleep(Duration::from_millis(1));
        }
        end(&mut other);
        assert_eq!(ends.recv_timeout(LIMIT), Ok(()));
    }

    #[test]
    fn sets_that_cannot_be_waited_for_are_not_made_without_end() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        let mut allowed = || (0..10).filter(|_| restarts.allow(now)).count();
        assert_eq!((allowed(), allowed()), (3, 0));
        assert!(
            restarts.allow(now + Duration::from_secs(1)),
            "a program may close them now and then"
        );
    }

    #[test]
    fn another_process_with_the_number_is_not_watched() {
        let mut child = child();
        let pid = child.id();
        let start_time = ProcessWatch::open(pid).unwrap().start_time().unwrap();
        let exits = ProcessExits::global();
        let of_another = exits.watch(pid, Some(start_time - 1), || {}).unwrap_err();
        assert_eq!(of_another, ProcessError::NotThere { pid });
        drop(exits.watch(pid, Some(start_time), || {}).unwrap());
        end(&mut child);
    }

    #[test]
    fn a_callback_may_drop_watches_and_watch_others() {
        let (mut one, mut other) = (child(), child());
        let exits = ProcessExits::global();
        let (told, tellings) = mpsc::channel();
        let (slot, pid) = (Arc::new(Mutex::new(None)), other.id());
        let inner = Arc::clone(&slot);
        let (watches, watched) = mpsc::channel();
        let callback = move || {
            let next = exits.watch(pid, None, move || told.send(()).unwrap());
            *inner.lock().unwrap() = Some(next.unwrap());
            watches.send(()).unwrap();
        };
        *slot.lock().unwrap() = Some(exits.watch(one.id(), None, callback).unwrap());
        end(&mut one);
        // The other is there until it is watched.
        assert_eq!(watched.recv_timeout(LIMIT), Ok(()));
        end(&mut other);
        assert_eq!(tellings.recv_timeout(LIMIT), Ok(()));
    }
}

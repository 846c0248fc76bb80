//! Agents in the child of a fork.
//!
//! UCX serves the events of all its workers by one thread of the process, with one epoll set. The child of a fork inherits the set and the
//! count of the thread's users, but not the thread: what an agent of the child's waits for there is never served, and its sockets are put
//! into the set that the parent's thread waits on. UCX has no handler for it (1.23: `src/ucs/async/thread.c`; openucx/ucx#10748).
//!
//! So the first agent of a child has UCX begin anew: the child's descriptor of the set is replaced by a set of its own in which all
//! descriptors are, whatever the parent has changed in its set since, and every handler is removed by UCX itself. With the last one it gives
//! up the thread, and starts another with the next. The parent's set, descriptors and memory are not touched. Whether it worked shows: the
//! new agent's listening socket is then in another set. If not, the agent is refused.
//!
//! Threads of the parent may have been inside UCX's memory hooks in the moment of the fork, most likely since they waited for the kernel,
//! which was copying their memory. Their shares of the hooks' lock are given back. Any other lock that was held then, of UCX's or NIXL's,
//! keeps the agent from starting; it is refused after some seconds.
#![allow(
    unsafe_code,
    reason = "replaces a descriptor of UCX's, and calls functions of a library that is loaded already"
)]

use std::ffi::c_int;
use std::fs;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nixl_device::PerProcess;
use rustix::event::epoll;
use rustix::io::DupFlags;

use super::library::NixlUnavailable;
use super::listener::Listener;
use super::ucx::Ucx;

/// No agent was started yet.
const NONE: RawFd = -1;
/// Agents were started, and the set was not found.
const UNKNOWN: RawFd = -2;

/// The epoll set of UCX's thread, of this process or the latest one before it that had an agent. Inherited by children.
static EVENTS: AtomicI32 = AtomicI32::new(NONE);

/// Whether UCX's thread, if any, is this process's.
static IS_OURS: PerProcess<Mutex<bool>> = PerProcess::new(Mutex::default);

/// Starts an agent, in a child of a fork after UCX has begun anew. **Blocks.**
pub(super) fn start<T: Send + 'static>(
    start: impl FnOnce() -> Result<T, NixlUnavailable> + Send + 'static,
    listener: impl Fn(&T) -> &Listener,
) -> Result<T, NixlUnavailable> {
    let mut is_ours = IS_OURS.get().lock().unwrap_or_else(PoisonError::into_inner);
    let inherited = EVENTS.load(Ordering::Relaxed);
    if *is_ours || inherited == NONE {
        *is_ours = true;
        drop(is_ours);
        let agent = start()?;
        EVENTS.store(set_with(listener(&agent)).unwrap_or(UNKNOWN), Ordering::Relaxed);
        return Ok(agent);
    }
    if inherited == UNKNOWN {
        return Err(refused("its epoll set was not found"));
    }
    // Its thread may be left behind.
    let (began_anew, agent) = bounded(move || Ok((begin_anew(inherited)?, start()?)))?;
    match set_with(listener(&agent)) {
        Some(events) if !began_anew || events != inherited => {
            EVENTS.store(events, Ordering::Relaxed);
            *is_ours = true;
            Ok(agent)
        }
        _ => Err(refused("it did not give it up")),
    }
}

fn refused(why: &str) -> NixlUnavailable {
    let reason = format!(
        "this process was forked from one with a connector, and UCX's thread there cannot be replaced here ({why}): fork before the first connector is built, or start the process by exec"
    );
    NixlUnavailable::Start { what: "agent in a forked process", reason }
}

/// Runs it on a thread of its own, for as long as no lock of the parent's other threads can be in the way.
fn bounded<T: Send + 'static>(
    start: impl FnOnce() -> Result<T, NixlUnavailable> + Send + 'static,
) -> Result<T, NixlUnavailable> {
    const LONGEST: Duration = Duration::from_secs(20);
    let (done, outcome) = channel();
    thread::Builder::new()
        .name("nixl-forked".to_owned())
        .spawn(move || {
            // Too late, it is dropped here.
            let _ = done.send(start());
        })
        .map_err(|e| refused(&e.to_string()))?;
    outcome.recv_timeout(LONGEST).unwrap_or_else(|_| Err(refused("a lock was held at the fork")))
}

/// Has UCX give up the thread that it believes to have. Returns whether there was any.
fn begin_anew(set: RawFd) -> Result<bool, NixlUnavailable> {
    /// UCX numbers its timers from here.
    const TIMERS: c_int = 1_000_000;
    const MOST_TIMERS: c_int = 1 << 16;
    if Registration::all_of_ucx(set).is_none() {
        return Ok(false);
    }
    let ucx = Ucx::loaded().ok_or_else(|| refused("it is not found in this process"))?;
    let functions = Functions::of(&ucx).ok_or_else(|| refused("this UCX does not tell how"))?;
    let descriptors = replace(set).map_err(|e| refused(&e.to_string()))?;
    if let Some(hooks) = Hooks::of(&ucx) {
        hooks.give_back();
    }
    for handler in descriptors.into_iter().chain(TIMERS..TIMERS + MOST_TIMERS) {
        // SAFETY: UCX looks the handler up by its number; there need be none. Nothing else runs in UCX: this process has no agent, and its
        // other threads are those that it has started since the fork.
        unsafe { (functions.remove_handler)(handler, 0) };
    }
    if let Some(forget_caches) = functions.forget_caches {
        // SAFETY: it empties a list of the parent's registration caches, whose events are handled no more.
        unsafe { forget_caches() };
    }
    Ok(true)
}

/// The lock of UCX's memory hooks, which has shares.
#[derive(Clone, Copy)]
struct Hooks {
    /// `ucm_event_enter_exclusive`.
    lock: unsafe extern "C" fn(),
    /// `ucm_event_leave`.
    unlock: unsafe extern "C" fn(),
}

impl Hooks {
    fn of(ucx: &Ucx) -> Option<Self> {
        // SAFETY: the type is that of the function, of every UCX since 1.0.
        let lock = unsafe { ucx.function("ucm_event_enter_exclusive") }?;
        // SAFETY: as above.
        let unlock = unsafe { ucx.function("ucm_event_leave") }?;
        Some(Self { lock, unlock })
    }

    /// Gives back the shares that threads of the parent had.
    ///
    /// A thread that wants the lock for itself does not get it as long as there are any; those of this process's threads are held for
    /// microseconds.
    fn give_back(self) {
        const LONG: Duration = Duration::from_millis(200);
        const MOST: usize = 64;
        let (got_it, has_got_it) = channel();
        let lock = move || {
            // SAFETY: it locks.
            unsafe { (self.lock)() };
            // SAFETY: this thread has locked it.
            unsafe { (self.unlock)() };
            let _ = got_it.send(());
        };
        if thread::Builder::new().name("nixl-forked".to_owned()).spawn(lock).is_err() {
            return;
        }
        for _ in 0..MOST {
            match has_got_it.recv_timeout(LONG) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
            // SAFETY: a share is held by a thread that this process does not have.
            unsafe { (self.unlock)() };
        }
    }
}

/// What is wanted of UCX.
struct Functions {
    /// `ucs_async_remove_handler`, of every UCX since 1.0: its status is an 8-bit enum.
    remove_handler: unsafe extern "C" fn(c_int, c_int) -> i8,
    /// `ucs_rcache_atfork_disable`, which UCX has for children of its own. Earlier ones keep no such list.
    forget_caches: Option<unsafe extern "C" fn()>,
}

impl Functions {
    fn of(ucx: &Ucx) -> Option<Self> {
        // SAFETY: the type is that of the function.
        let remove_handler = unsafe { ucx.function("ucs_async_remove_handler") }?;
        // SAFETY: as above.
        let forget_caches = unsafe { ucx.function("ucs_rcache_atfork_disable") };
        Some(Self { remove_handler, forget_caches })
    }
}

/// What an epoll set waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Registration {
    fd: RawFd,
    data: u64,
}

impl Registration {
    /// As `/proc/self/fdinfo` has it: `tfd:       20 events:       19 data:                0  pos:0 ino:14 sdev:10`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("tfd:")?.split_whitespace();
        let fd = words.next()?.parse().ok()?;
        let (_, _) = (words.next().filter(|word| *word == "events:")?, words.next()?);
        let data = words.next().filter(|word| *word == "data:").and_then(|_| words.next())?;
        Some(Self { fd, data: u64::from_str_radix(data, 16).ok()? })
    }

    /// All of a set in which each descriptor stands for itself, as in that of UCX's thread. `None` if it is no such set.
    fn all_of_ucx(set: RawFd) -> Option<Vec<Self>> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{set}")).ok()?;
        let lines = info.lines().filter(|line| line.starts_with("tfd:"));
        let all: Vec<Self> = lines.map(Self::parse).collect::<Option<_>>()?;
        let is_ucx = |one: &Self| u64::try_from(one.fd) == Ok(one.data);
        (!all.is_empty() && all.iter().all(is_ucx)).then_some(all)
    }
}

/// The epoll set that waits for the agent's connections.
fn set_with(listener: &Listener) -> Option<RawFd> {
    let (mut sets, mut listening) = (Vec::new(), Vec::new());
    for entry in fs::read_dir("/proc/self/fd").ok()?.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        let (Some(fd), Ok(link)) = (number, fs::read_link(entry.path())) else { continue };
        let Some(link) = link.to_str() else { continue };
        if link == "anon_inode:[eventpoll]" {
            sets.push(fd);
        } else if listener.is_one(link) {
            listening.push(fd);
        }
    }
    let waits = |set: &RawFd| {
        let registered = Registration::all_of_ucx(*set);
        registered.is_some_and(|all| all.iter().any(|one| listening.contains(&one.fd)))
    };
    sets.into_iter().find(waits)
}

/// Makes the descriptor one of a new set, for this process alone, in which all others are that can be waited for. Returns these.
fn replace(set: RawFd) -> rustix::io::Result<Vec<RawFd>> {
    let new = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let open = fs::read_dir("/proc/self/fd").map_err(|_| rustix::io::Errno::NOENT)?;
    let numbers = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // Read to its end first: it has a descriptor itself.
    let numbers: Vec<RawFd> = numbers.collect();
    let mut waited_for = Vec::with_capacity(numbers.len());
    for number in numbers.into_iter().filter(|number| ![set, new.as_raw_fd()].contains(number)) {
        let data = epoll::EventData::new_u64(u64::from(number.unsigned_abs()));
        // SAFETY: it was open a moment ago; should it not be any more, the kernel refuses it.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        // Refused are files, which are never waited for.
        if epoll::add(&new, fd, data, epoll::EventFlags::empty()).is_ok() {
            waited_for.push(number);
        }
    }
    // SAFETY: UCX owns it, and gets it back below.
    let mut old = unsafe { OwnedFd::from_raw_fd(set) };
    let replaced = rustix::io::dup3(&new, &mut old, DupFlags::CLOEXEC);
    let _ = old.into_raw_fd();
    replaced.map(|()| waited_for)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations_are_read_as_the_kernel_writes_them() {
        let line = "tfd:       20 events:     2019 data:               1c  pos:0 ino:14 sdev:10";
        let read = Registration { fd: 20, data: 0x1c };
        assert_eq!(Registration::parse(line), Some(read));
        for bad in ["", "pos:\t0", "tfd: x events: 1 data: 1", "tfd: 1 data: 1", "tfd: 1 events: 1"]
        {
            assert_eq!(Registration::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_set_is_replaced_by_one_with_all_descriptors() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let shared = rustix::io::dup(&set).unwrap();
        let number = set.as_raw_fd();
        assert_eq!(Registration::all_of_ucx(number), None, "an empty set is not UCX's");
        let data = epoll::EventData::new_u64(u64::from(reader.as_raw_fd().unsigned_abs()));
        epoll::add(&set, &reader, data, epoll::EventFlags::IN).unwrap();
        let registered = Registration::all_of_ucx(number).unwrap();
        assert!(replace(number).unwrap().contains(&reader.as_raw_fd()));
        // What UCX removes from it stays in the one that it was, which the parent has.
        epoll::delete(&set, &reader).unwrap();
        assert_eq!(Registration::all_of_ucx(shared.as_raw_fd()), Some(registered));
    }
}

//! UCX's events in the child of a fork, which lacks UCX's event thread.
//!
//! UCX must not release that thread: it would join it, and the C library keeps a thread's record on the thread's stack, which a
//! child reuses for other threads or unmaps. So one handler is never removed, and a thread of this library takes the role of
//! UCX's: it waits for the set, and makes UCX call the handlers.
#![allow(unsafe_code, reason = "calls functions of a library that is loaded already")]

use std::ffi::{c_int, c_uint, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, IntoRawFd as _, RawFd};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use nixl_device::named_thread;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;

use super::super::exit;
use super::super::ucx::{self, Ucx};
use super::locks::{free_handlers, free_hooks};
use super::set::{Registration, replace};

/// UCX's event flags.
const READ: c_int = 1;
const WRITE: c_int = 2;
const ERROR: c_int = 4;

/// The polling interval of timers, if there may be any. Those of RDMA, the only ones, are 10 ms or longer.
const TICK: Duration = Duration::from_millis(10);

/// Removes the parent's events from UCX, and serves its events from now on. Returns whether UCX believes that its thread runs;
/// if not, it will start one itself.
///
/// # Errors
///
/// The reason why that is impossible.
pub(super) fn begin_anew(set: RawFd) -> Result<bool, String> {
    /// UCX numbers its timers from here.
    const TIMERS: c_int = 1_000_000;
    const MOST_TIMERS: c_int = 1 << 16;
    /// A number that is no descriptor and no timer.
    const NO_HANDLER: c_int = TIMERS - 1;
    let Some(registered) = Registration::all_of_ucx(set) else { return Ok(false) };
    let ucx = Ucx::loaded().ok_or("it is not found in this process")?;
    let functions = Functions::of(&ucx).ok_or("this UCX lacks the functions for it")?;
    let descriptors = replace(set).map_err(|e| e.to_string())?;
    free_hooks(&ucx);
    let remove = functions.remove_handler;
    free_handlers(move || {
        // SAFETY: UCX looks for a handler of this number; there is none.
        unsafe { remove(NO_HANDLER, 0) };
    });
    let keeper = functions.keep()?;
    // Descriptors that this process has closed since are only among the registered.
    let registered = registered.iter().map(|one| one.fd);
    let events = registered.chain(descriptors.iter().copied()).filter(|fd| *fd != keeper);
    for handler in events.chain(TIMERS..TIMERS + MOST_TIMERS) {
        // SAFETY: UCX looks the handler up by its number; there need be none. It is not the last one, so UCX does not join a thread.
        // Nothing else runs in UCX: this process has no agent, and its other threads are those that it has started since the fork.
        unsafe { (functions.remove_handler)(handler, 0) };
    }
    if let Some(forget_caches) = functions.forget_caches {
        // SAFETY: it empties a list of the parent's registration caches, whose events are handled no more.
        unsafe { forget_caches() };
    }
    // SAFETY: it is UCX's, which closes it when it releases its thread: never.
    let set = unsafe { BorrowedFd::borrow_raw(set) };
    for number in descriptors.into_iter().filter(|number| *number != keeper) {
        // SAFETY: it was open a moment ago; if it is closed by now, the kernel refuses it.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        // UCX has removed its own.
        let _ = epoll::delete(set, fd);
    }
    let poll = functions.poll.filter(|_| ucx::may_use_rdma());
    let dispatch = functions.dispatch;
    named_thread("nixl-ucx-events")
        .spawn(move || Server { set, dispatch, poll }.run())
        .map_err(|e| e.to_string())?;
    Ok(true)
}

/// The used functions of UCX. Its statuses are 8-bit enums.
struct Functions {
    /// `ucs_async_set_event_handler`, of every UCX since 1.0: mode, descriptor, events, callback and its argument, context.
    set_handler:
        unsafe extern "C" fn(c_int, c_int, c_int, Callback, *mut c_void, *mut c_void) -> i8,
    /// `ucs_async_remove_handler`, of every UCX since 1.0.
    remove_handler: unsafe extern "C" fn(c_int, c_int) -> i8,
    dispatch: Dispatch,
    poll: Option<Poll>,
    /// `ucs_rcache_atfork_disable`, which UCX uses in its own children. Earlier releases keep no such list.
    forget_caches: Option<unsafe extern "C" fn()>,
}

type Callback = extern "C" fn(c_int, c_uint, *mut c_void);
/// `ucs_async_dispatch_handlers`: their numbers, the count, and the events. UCX before 1.8 has no last argument, and ignores
/// it.
type Dispatch = unsafe extern "C" fn(*mut c_int, usize, c_int) -> i8;
/// `ucs_async_poll`, of every UCX since 1.0: calls the handlers of a context, or all.
type Poll = unsafe extern "C" fn(*mut c_void);

extern "C" fn ignore(_: c_int, _: c_uint, _: *mut c_void) {}

impl Functions {
    fn of(ucx: &Ucx) -> Option<Self> {
        // SAFETY: the type is that of the function.
        let set_handler = unsafe { ucx.function("ucs_async_set_event_handler") }?;
        // SAFETY: as above.
        let remove_handler = unsafe { ucx.function("ucs_async_remove_handler") }?;
        // SAFETY: as above.
        let dispatch = unsafe { ucx.function("ucs_async_dispatch_handlers") }?;
        // SAFETY: as above.
        let poll = unsafe { ucx.function("ucs_async_poll") };
        // SAFETY: as above.
        let forget_caches = unsafe { ucx.function("ucs_rcache_atfork_disable") };
        Some(Self { set_handler, remove_handler, dispatch, poll, forget_caches })
    }

    /// A permanent handler, of a descriptor without events.
    fn keep(&self) -> Result<RawFd, String> {
        /// `UCS_ASYNC_MODE_THREAD_SPINLOCK`.
        const BY_THREAD: c_int = 1;
        let silent = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| e.to_string())?;
        let number = silent.as_raw_fd();
        let null = ptr::null_mut();
        // SAFETY: the descriptor is open, and stays so; the callback is a function of this program; there need be no context.
        let status = unsafe { (self.set_handler)(BY_THREAD, number, READ, ignore, null, null) };
        if status != 0 {
            return Err(format!("it takes no handler ({status})"));
        }
        let _ = silent.into_raw_fd();
        Ok(number)
    }
}

/// Runs in the place of UCX's thread, until the process exits.
struct Server {
    set: BorrowedFd<'static>,
    dispatch: Dispatch,
    /// For possible timers. Their list in UCX is not accessible, but UCX calls all handlers on request; those of descriptors
    /// tolerate a call without an event.
    poll: Option<Poll>,
}

impl Server {
    fn run(&self) {
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos().try_into().unwrap_or(0) };
        let timeout = self.poll.map(|_| &tick);
        let mut polled = Instant::now();
        let mut room = [MaybeUninit::<epoll::Event>::uninit(); 16];
        loop {
            let events = match epoll::wait(self.set, &mut room, timeout) {
                Ok((events, _)) => events,
                Err(Errno::INTR) => continue,
                // The program has closed descriptors that it does not own.
                Err(_) => return,
            };
            let Some(_busy) = exit::enter() else { return };
            let mut was_missed = false;
            for event in events {
                was_missed |= !self.serve(event.data.u64(), event.flags);
            }
            if let Some(poll) = self.poll.filter(|_| polled.elapsed() >= TICK) {
                // SAFETY: no context stands for all.
                unsafe { poll(ptr::null_mut()) };
                polled = Instant::now();
            }
            if was_missed {
                // Another thread is in the handler's context, and will call it.
                thread::yield_now();
            }
        }
    }

    /// Returns whether the handler, if there is one, was called.
    fn serve(&self, number: u64, flags: epoll::EventFlags) -> bool {
        let Ok(mut handler) = c_int::try_from(number) else { return true };
        let mut happened = 0;
        for (flag, event) in [
            (epoll::EventFlags::IN, READ),
            (epoll::EventFlags::OUT, WRITE),
            (epoll::EventFlags::ERR, ERROR),
        ] {
            if flags.contains(flag) {
                happened |= event;
            }
        }
        // SAFETY: the pointer is to one number, read during the call only. UCX looks the handler up, and keeps it for the call.
        unsafe { (self.dispatch)(&raw mut handler, 1, happened) == 0 }
    }
}

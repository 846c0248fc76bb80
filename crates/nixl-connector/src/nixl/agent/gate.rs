//! The gate through which every call to an agent goes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use nixl_device::cuda::{RelaxedCapture, relax_capture};
use nixl_device::enter_libraries;
use nixl_device::locks::{lock, try_lock};

use super::super::exit::{self, Busy};
use super::inside::Inside;

/// Empty once the agent is being dropped, or the process exits.
pub(in super::super) struct Gate {
    inside: Mutex<Option<Inside>>,
    /// Threads with blocking calls, inside or waiting: threads that try the gate yield to them.
    blocking: AtomicUsize,
}

/// One of the threads with blocking calls.
struct Blocking<'a>(&'a AtomicUsize);

impl<'a> Blocking<'a> {
    fn on(gate: &'a Gate) -> Self {
        gate.blocking.fetch_add(1, Ordering::Relaxed);
        Self(&gate.blocking)
    }
}

impl Drop for Blocking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    pub(super) fn before(inside: Inside) -> Self {
        Self { inside: Mutex::new(Some(inside)), blocking: AtomicUsize::new(0) }
    }

    /// Waits until the thread inside leaves. **Blocks.**
    pub(super) fn enter(&self) -> Entered<'_> {
        let blocking = Some(Blocking::on(self));
        let gate = Some(lock(&self.inside));
        Entered { busy: exit::enter(), gate, _blocking: blocking, _relaxed: Some(relax_capture()) }
    }

    /// Enters if no thread is inside or waits, and the process is not exiting.
    pub(super) fn try_enter(&self) -> Option<Entered<'_>> {
        // The lock is not fair: under a flood of messages the receiving thread would always win it.
        if self.is_blocked() {
            return None;
        }
        let gate = try_lock(&self.inside)?;
        let busy = Some(exit::enter()?);
        Some(Entered { busy, gate: Some(gate), _blocking: None, _relaxed: Some(relax_capture()) })
    }

    /// Destroys the agent. **Blocks** until the thread inside leaves, and while NIXL joins its threads.
    pub(super) fn close(&self) {
        let _blocking = Blocking::on(self);
        let inside = lock(&self.inside).take();
        let (_relaxed, _at_work) = (relax_capture(), enter_libraries());
        drop(inside);
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocking.load(Ordering::Relaxed) > 0
    }

    /// Destroys the agent once no thread is inside; not at all if that takes longer than the deadline. **Blocks**: NIXL joins
    /// its threads.
    pub(in super::super) fn destroy(&self, until: Instant) {
        let inside = loop {
            match try_lock(&self.inside) {
                Some(mut gate) => break gate.take(),
                None if Instant::now() >= until => return,
                None => thread::sleep(Duration::from_micros(100)),
            }
        };
        let (_relaxed, _at_work) = (relax_capture(), enter_libraries());
        drop(inside);
    }
}

/// The entered gate. Field order: this thread leaves NIXL before another enters.
pub(in super::super) struct Entered<'a> {
    busy: Option<Busy<'static>>,
    /// `None` in a fork's child.
    gate: Option<MutexGuard<'a, Option<Inside>>>,
    _blocking: Option<Blocking<'a>>,
    /// UCX queries events and resolves addresses on the calling thread.
    _relaxed: Option<RelaxedCapture>,
}

impl Entered<'_> {
    /// In a fork's child.
    pub(super) const NOT: Self = Self { busy: None, gate: None, _blocking: None, _relaxed: None };

    /// `None` only while the agent is being dropped, when no thread can enter any more, if the process exits, and in a fork's child.
    pub(in super::super) fn inside(&mut self) -> Option<&mut Inside> {
        self.busy.as_ref()?;
        self.gate.as_mut()?.as_mut()
    }
}

//! The engine of io_uring: a ring, and a thread that sleeps in it, for each device.
//!
//! The thread alone has the ring: it submits what others put into its inbox, and waits for the kernel's answers. A read of an
//! event counter is always in flight, by which others wake it. A slot of its table owns an operation from the submission to the
//! answer, so the memory, the descriptor and the vector of segments outlive the kernel's use of them.
#![allow(unsafe_code, reason = "submits calls with memory by address")]

use std::collections::VecDeque;
use std::fmt;
use std::hint;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};
use nixl_descriptor::defer_disposal_on_this_thread;
use nixl_device::locks::lock;
use nixl_device::named_thread;
use nixl_ops::contained;
use rustix::event::{EventfdFlags, eventfd};

use super::engine::EngineKind;
use super::io_kind::IoKind;
use super::operation::{FileEngine, FileOp};
use super::vectored;

/// io_uring on one device.
pub(crate) struct UringFiles {
    shared: Arc<Shared>,
}

struct Shared {
    inbox: Mutex<Inbox>,
    /// The thread sleeps, or is about to, and looks at the inbox only once it is woken.
    asleep: AtomicBool,
    /// The inbox has something new.
    filled: AtomicBool,
    counter: OwnedFd,
}

#[derive(Default)]
struct Inbox {
    ops: VecDeque<FileOp>,
    closing: bool,
    /// The thread is gone.
    ended: bool,
}

impl UringFiles {
    /// Calls that a ring takes at once; the queue of a device has fewer in flight.
    const ENTRIES: u32 = 256;

    /// Sets a ring up, on its thread.
    ///
    /// # Errors
    ///
    /// The kernel's refusal of the ring or of the thread.
    pub(crate) fn new() -> io::Result<Self> {
        let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            asleep: AtomicBool::new(false),
            filled: AtomicBool::new(false),
            counter,
        });
        let (theirs, (tell, told)) = (Arc::clone(&shared), mpsc::channel());
        named_thread("nixl-uring").spawn(move || match ring() {
            Ok(ring) => {
                let _ = tell.send(Ok(()));
                let (slots, free, spin) = (Vec::new(), Vec::new(), IdleSpin::default());
                Ring { ring, shared: theirs, slots, free, spin }.run();
            }
            Err(error) => drop(tell.send(Err(error))),
        })?;
        told.recv().unwrap_or_else(|_| Err(io::Error::other("its thread ended")))?;
        Ok(Self { shared })
    }
}

impl FileEngine for UringFiles {
    fn kind(&self) -> EngineKind {
        EngineKind::Uring
    }

    fn submit(&self, ops: Vec<FileOp>) {
        let mut inbox = lock(&self.shared.inbox);
        if inbox.ended {
            drop(inbox);
            ops.into_iter().for_each(FileOp::refuse);
            return;
        }
        inbox.ops.extend(ops);
        drop(inbox);
        self.shared.wake();
    }
}

impl Drop for UringFiles {
    /// The thread ends after the operations that were submitted, and is not waited for.
    fn drop(&mut self) {
        lock(&self.shared.inbox).closing = true;
        self.shared.wake();
    }
}

impl Shared {
    fn wake(&self) {
        self.filled.store(true, Ordering::Release);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // A counter that is full wakes the thread already.
            let _ = rustix::io::write(&self.counter, &1u64.to_ne_bytes());
        }
    }
}

impl fmt::Debug for UringFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringFiles").finish_non_exhaustive()
    }
}

/// A ring that this thread alone uses, where the kernel knows such. A child of a fork has none of its memory.
fn ring() -> io::Result<IoUring> {
    let mut own = IoUring::builder();
    own.dontfork().setup_single_issuer().setup_defer_taskrun();
    own.build(UringFiles::ENTRIES).or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => IoUring::builder().dontfork().build(UringFiles::ENTRIES),
        _ => Err(error),
    })
}

/// The thread's state. Field order: the ring is closed before the operations in flight are dropped, which leaks their memory.
struct Ring {
    ring: IoUring,
    shared: Arc<Shared>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    spin: IdleSpin,
}

/// The spin of a thread without calls, since a wake-up takes longer than the next call of a sequence of small ones.
#[derive(Default)]
struct IdleSpin {
    /// Sleeps without a spin before the next one.
    skips: u32,
    /// Those after the last spin.
    penalty: u32,
}

impl IdleSpin {
    const LONGEST: Duration = Duration::from_micros(30);
    /// With these, the spins of calls that are far apart take next to nothing.
    const MOST_SKIPS: u32 = 127;

    /// Spins until `flag` is set. Some calls after a spin in which it stayed unset do not spin. Returns whether it was set.
    fn wait(&mut self, flag: &AtomicBool) -> bool {
        if self.skips > 0 {
            self.skips -= 1;
            return false;
        }
        let begun = Instant::now();
        while !flag.load(Ordering::Acquire) {
            if begun.elapsed() > Self::LONGEST {
                self.penalty = (2 * self.penalty + 1).min(Self::MOST_SKIPS);
                self.skips = self.penalty;
                return false;
            }
            hint::spin_loop();
        }
        self.penalty = 0;
        true
    }
}

/// A call in flight. Its number is that of the slot, and a generation that no other call of the slot has.
struct Slot {
    generation: u32,
    op: Option<FileOp>,
}

/// The call that waits for the event counter.
const WAKE: u64 = u64::MAX;

impl Ring {
    /// The pause after the kernel had no memory for a submission while nothing was in flight whose end could free some.
    const PAUSE: Duration = Duration::from_millis(1);

    fn run(mut self) {
        defer_disposal_on_this_thread();
        let (mut ready, mut is_armed) = (VecDeque::new(), false);
        loop {
            if !is_armed {
                is_armed = self.arm();
            }
            self.shared.filled.store(false, Ordering::Relaxed);
            let closing = {
                let mut inbox = lock(&self.shared.inbox);
                ready.append(&mut inbox.ops);
                inbox.closing
            };
            while let Some(op) = ready.pop_front() {
                if let Err(op) = self.push(op) {
                    // The ring is full.
                    ready.push_front(op);
                    break;
                }
            }
            let in_flight = self.slots.len() - self.free.len();
            if closing && in_flight == 0 && ready.is_empty() {
                return;
            }
            if in_flight == 0 && ready.is_empty() && self.spin.wait(&self.shared.filled) {
                continue;
            }
            self.shared.asleep.store(true, Ordering::SeqCst);
            let is_idle = {
                let inbox = lock(&self.shared.inbox);
                inbox.ops.is_empty() && inbox.closing == closing
            };
            let entered = self.ring.submit_and_wait(usize::from(is_idle));
            self.shared.asleep.store(false, Ordering::SeqCst);
            if let Err(error) = entered
                && error.kind() != io::ErrorKind::Interrupted
                && self.ring.completion().is_empty()
            {
                // Without memory for a call, or room for its answer; both pass.
                thread::park_timeout(Self::PAUSE);
            }
            let answers: Vec<_> =
                self.ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
            for (number, result) in answers {
                if number == WAKE {
                    let mut count = [0; 8];
                    let _ = rustix::io::read(&self.shared.counter, &mut count);
                    is_armed = false;
                } else if let Some(op) = self.take(number)
                    && let Ok(Some(rest)) =
                        contained("the answer to a call of a file", || op.answer(count(result)))
                {
                    ready.push_back(rest);
                }
            }
        }
    }

    /// Waits for the event counter by a call of the ring. Returns whether there was room for it.
    fn arm(&mut self) -> bool {
        let counter = types::Fd(self.shared.counter.as_raw_fd());
        let poll = opcode::PollAdd::new(counter, libc::POLLIN as u32).build().user_data(WAKE);
        // SAFETY: the call refers to no memory, and to a descriptor that lives as long as the ring.
        unsafe { self.ring.submission().push(&poll) }.is_ok()
    }

    /// Puts an operation into a slot and its call into the ring, or returns it if the ring is full.
    fn push(&mut self, op: FileOp) -> Result<(), FileOp> {
        if self.slots.len() == UringFiles::ENTRIES as usize && self.free.is_empty() {
            return Err(op);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, op: None });
            // At most `ENTRIES`.
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let number = u64::from(slot.generation) << 32 | u64::from(index);
        let entry = entry(slot.op.insert(op)).user_data(number);
        // SAFETY: the slot owns the operation until the answer to the call: its descriptor stays open, its vector of segments
        // stays where it is, and its memory stays leased and allocated.
        if unsafe { self.ring.submission().push(&entry) }.is_ok() {
            return Ok(());
        }
        self.free.push(index);
        match slot.op.take() {
            Some(op) => Err(op),
            None => Ok(()),
        }
    }

    /// The operation that a call was made for.
    fn take(&mut self, number: u64) -> Option<FileOp> {
        let index = number as u32;
        let slot = self.slots.get_mut(index as usize)?;
        if u64::from(slot.generation) != number >> 32 {
            return None;
        }
        let op = slot.op.take()?;
        self.free.push(index);
        Some(op)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut inbox = lock(&self.shared.inbox);
        inbox.ended = true;
        let left = mem::take(&mut inbox.ops);
        drop(inbox);
        left.into_iter().for_each(FileOp::refuse);
    }
}

fn entry(op: &FileOp) -> squeue::Entry {
    let (fd, offset) = (types::Fd(op.descriptor()), op.offset());
    if op.kind() == IoKind::Sync {
        return opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
    }
    let (iovecs, count) = vectored::iovecs(op);
    match (op.kind(), op.segments()) {
        (IoKind::Read, &[one]) => {
            opcode::Read::new(fd, one.address as *mut u8, one.len as u32).offset(offset).build()
        }
        (IoKind::Read, _) => opcode::Readv::new(fd, iovecs, count).offset(offset).build(),
        (_, &[one]) => {
            opcode::Write::new(fd, one.address as *const u8, one.len as u32).offset(offset).build()
        }
        (_, _) => opcode::Writev::new(fd, iovecs, count).offset(offset).build(),
    }
}

/// The result of a call, as of the one of the system.
fn count(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()))
}

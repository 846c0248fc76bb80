//! The simulated engine: faults, hangs and crashes of a disk, on an injected clock.
//!
//! The bytes of a file are where a page cache has them, in the file. The simulation knows besides what of it is on the disk: the
//! bytes as they were at the last sync, and the writes since. A crash replaces the file's content by one that a disk may have
//! then: of each write since the last sync some sectors and not others, in any order.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nixl_descriptor::file::FileRegion;
use nixl_device::locks::lock;
use nixl_device::{FileIdentity, named_thread};
use nixl_ops::{Clock, contained};

use super::engine::EngineKind;
use super::io_kind::IoKind;
use super::operation::{FileEngine, FileOp};
use super::vectored;

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimulatedFiles {
    shared: Arc<Shared>,
    _handle: Arc<Handle>,
}

/// Ends the thread of the disk when the last clone is dropped.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        let mut disk = lock(&self.0.disk);
        disk.is_closing = true;
        // What was frozen is answered, so that its memory comes back.
        disk.is_hung = false;
        drop(disk);
        self.0.changed.notify_all();
    }
}

struct Shared {
    disk: Mutex<Disk>,
    changed: Condvar,
    clock: Arc<dyn Clock>,
}

struct Disk {
    random: u64,
    /// Calls with the time at which they are done.
    pending: Vec<(Duration, FileOp)>,
    latency: Duration,
    /// Each with the number of calls of its kind that come before.
    faults: Vec<(u64, Fault)>,
    is_hung: bool,
    /// Calls until the disk freezes.
    left: Option<u64>,
    /// Calls that were answered by an error of a fault.
    failed: u64,
    images: HashMap<FileIdentity, Image>,
    is_closing: bool,
}

/// An answer that the next call of a kind gets.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Error(IoKind, i32),
    /// So many bytes and no more.
    Short(IoKind, usize),
}

/// What of a file is on the disk.
#[derive(Default)]
struct Image {
    durable: Vec<u8>,
    /// Writes since the last sync, in the order of their answers.
    writes: Vec<(u64, Vec<u8>)>,
}

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;

impl SimulatedFiles {
    /// A disk that answers at once, in an order of `seed`.
    ///
    /// # Errors
    ///
    /// The operating system refuses a thread.
    pub fn new(clock: Arc<dyn Clock>, seed: u64) -> io::Result<Self> {
        let disk = Disk {
            random: seed,
            pending: Vec::new(),
            latency: Duration::ZERO,
            faults: Vec::new(),
            is_hung: false,
            left: None,
            failed: 0,
            images: HashMap::new(),
            is_closing: false,
        };
        let shared = Arc::new(Shared { disk: Mutex::new(disk), changed: Condvar::new(), clock });
        let theirs = Arc::clone(&shared);
        named_thread("nixl-disk").spawn(move || theirs.run())?;
        let handle = Arc::new(Handle(Arc::clone(&shared)));
        Ok(Self { shared, _handle: handle })
    }

    /// The time that each later call takes, on the clock of the disk. With a clock that only moves by hand, call
    /// [`wake`](Self::wake) after a move.
    pub fn set_latency(&self, latency: Duration) {
        self.disk().latency = latency;
    }

    /// Has the disk look at its clock.
    pub fn wake(&self) {
        self.shared.changed.notify_all();
    }

    /// The next call of this kind fails with this number of the system (`errno`).
    pub fn fail_next(&self, kind: IoKind, errno: i32) {
        self.fail_nth(kind, 0, errno);
    }

    /// A call of this kind fails with this number of the system, after so many others.
    pub fn fail_nth(&self, kind: IoKind, others: u64, errno: i32) {
        self.disk().faults.push((others, Fault::Error(kind, errno)));
    }

    /// The next call of this kind moves at most so many bytes.
    pub fn shorten_next(&self, kind: IoKind, bytes: usize) {
        self.disk().faults.push((0, Fault::Short(kind, bytes)));
    }

    /// Answers no call until the disk is [thawed](Self::thaw), as a file system that is frozen.
    pub fn freeze(&self) {
        self.disk().is_hung = true;
    }

    /// Answers so many calls, and then [freezes](Self::freeze).
    pub fn freeze_after(&self, calls: u64) {
        self.disk().left = Some(calls);
        self.wake();
    }

    /// Whether the disk is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.disk().is_hung
    }

    /// Answers calls again.
    pub fn thaw(&self) {
        let mut disk = self.disk();
        (disk.is_hung, disk.left) = (false, None);
        drop(disk);
        self.wake();
    }

    /// Calls that wait for their answer.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.disk().pending.len()
    }

    /// From now on the disk knows which bytes of the file are durable: those that it has now, and those of later syncs.
    ///
    /// # Errors
    ///
    /// The system's error of reading the file.
    pub fn track(&self, file: &FileRegion) -> io::Result<()> {
        let len = file.len().map_err(io::Error::other)?;
        let durable = read(file, 0, usize::try_from(len).map_err(io::Error::other)?)?;
        let image = Image { durable, writes: Vec::new() };
        self.disk().images.insert(file.identity(), image);
        Ok(())
    }

    /// Gives the file a content that the disk may have after a loss of power now. Calls that wait for their answer fail, of any
    /// file.
    ///
    /// # Errors
    ///
    /// The system's error of writing the file, or the file is not [tracked](Self::track).
    pub fn crash(&self, file: &FileRegion) -> io::Result<()> {
        let mut disk = self.disk();
        let pending = std::mem::take(&mut disk.pending);
        drop(disk);
        for (_, op) in pending {
            drop(op.answer(Err(io::Error::from_raw_os_error(libc::EIO))));
        }
        let mut disk = self.disk();
        let mut random = disk.random;
        let image = disk.images.get_mut(&file.identity());
        let image = image.ok_or_else(|| io::Error::other("the disk does not track the file"))?;
        let mut writes = std::mem::take(&mut image.writes);
        // Up to the last sync the order is known, and after it none.
        for at in (1..writes.len()).rev() {
            let other = next(&mut random) as usize % (at + 1);
            writes.swap(at, other);
        }
        for (offset, bytes) in writes {
            let fate = next(&mut random) % 3;
            for (sector, part) in bytes.chunks(SECTOR).enumerate() {
                let is_kept = match fate {
                    0 => false,
                    1 => true,
                    _ => next(&mut random).is_multiple_of(2),
                };
                let start = offset as usize + sector * SECTOR;
                if let (true, Some(target)) =
                    (is_kept, image.durable.get_mut(start..start + part.len()))
                {
                    target.copy_from_slice(part);
                }
            }
        }
        let content = image.durable.clone();
        disk.random = random;
        drop(disk);
        write(file, &content)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.shared.disk)
    }
}

impl FileEngine for SimulatedFiles {
    fn kind(&self) -> EngineKind {
        EngineKind::Simulated
    }

    fn submit(&self, ops: Vec<FileOp>) {
        let now = self.shared.clock.now();
        let mut disk = self.disk();
        let due = now.saturating_add(disk.latency);
        disk.pending.extend(ops.into_iter().map(|op| (due, op)));
        drop(disk);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// Answers calls in a random order of those that are due.
    fn run(&self) {
        nixl_descriptor::defer_disposal_on_this_thread();
        let mut disk = lock(&self.disk);
        loop {
            if disk.left == Some(0) {
                (disk.is_hung, disk.left) = (true, None);
            }
            let now = self.clock.now();
            let due: Vec<_> = disk
                .pending
                .iter()
                .enumerate()
                .filter_map(|(at, (due, _))| (*due <= now).then_some(at))
                .collect();
            if !due.is_empty() && !disk.is_hung {
                let at = due[next(&mut disk.random) as usize % due.len()];
                let (due, op) = disk.pending.swap_remove(at);
                disk.left = disk.left.map(|left| left.saturating_sub(1));
                let (result, op) = disk.call(op);
                drop(disk);
                let rest = contained("the answer to a call of a file", || op.answer(result))
                    .ok()
                    .flatten();
                disk = lock(&self.disk);
                disk.pending.extend(rest.map(|op| (due, op)));
            } else if disk.is_closing && disk.pending.is_empty() {
                return;
            } else {
                disk = self.changed.wait(disk).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Disk {
    fn call(&mut self, op: FileOp) -> (io::Result<usize>, FileOp) {
        let kind = op.kind();
        let mut of_kind = self.faults.iter_mut().enumerate().filter(|(_, (_, fault))| {
            let (Fault::Error(of, _) | Fault::Short(of, _)) = *fault;
            of == kind
        });
        let now = match of_kind.next() {
            Some((at, (0, _))) => Some(at),
            Some((_, (others, _))) => {
                *others -= 1;
                None
            }
            None => None,
        };
        let result = match now.map(|at| self.faults.remove(at).1) {
            Some(Fault::Error(_, errno)) => {
                self.failed += 1;
                Err(io::Error::from_raw_os_error(errno))
            }
            Some(Fault::Short(_, bytes)) => vectored::call_for(&op, bytes),
            None => vectored::call(&op),
        };
        let result = result.and_then(|count| {
            let file = op.file().ok_or_else(|| io::Error::other("the operation was answered"))?;
            if let Some(image) = self.images.get_mut(&file.identity()) {
                image.note(kind, file, op.offset(), count)?;
            }
            Ok(count)
        });
        (result, op)
    }
}

impl Image {
    fn note(
        &mut self,
        kind: IoKind,
        file: &FileRegion,
        offset: u64,
        count: usize,
    ) -> io::Result<()> {
        match kind {
            IoKind::Write => self.writes.push((offset, read(file, offset, count)?)),
            IoKind::Sync => {
                for (offset, bytes) in self.writes.drain(..) {
                    let start = offset as usize;
                    if let Some(target) = self.durable.get_mut(start..start + bytes.len()) {
                        target.copy_from_slice(&bytes);
                    }
                }
            }
            IoKind::Read => {}
        }
        Ok(())
    }
}

fn read(file: &FileRegion, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let (mut bytes, mut done) = (vec![0; len], 0);
    while done < len {
        match rustix::io::pread(file.descriptor(), &mut bytes[done..], offset + done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => done += count,
        }
    }
    Ok(bytes)
}

fn write(file: &FileRegion, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        done += rustix::io::pwrite(file.descriptor(), &bytes[done..], done as u64)?;
    }
    Ok(())
}

/// The next number of a sequence (xorshift).
fn next(state: &mut u64) -> u64 {
    *state = (*state).max(1);
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

impl fmt::Debug for SimulatedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.disk();
        f.debug_struct("SimulatedFiles")
            .field("pending", &disk.pending.len())
            .field("failed", &disk.failed)
            .field("frozen", &disk.is_hung)
            .finish_non_exhaustive()
    }
}

//! Operations on files, and the pieces of them that engines carry out.
//!
//! An [`Operation`] owns its leases of memory and file until no piece is in flight and none will be taken. A [`FileOp`] is a
//! piece in flight: an engine owns it from the submission to the kernel's answer. A future that is dropped stops the operation,
//! and has no influence on pieces in flight.

use std::any::Any;
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use nixl_descriptor::Descriptor;
use nixl_descriptor::file::{FilePairs, FileRegion};
use nixl_device::locks::lock;
use nixl_ops::contained;

use super::class::FileClass;
use super::engine::EngineKind;
use super::error::FileIoError;
use super::io_kind::IoKind;
use super::segment::{self, Segment};

/// An engine. It owns each operation from its submission to the kernel's answer.
pub(crate) trait FileEngine: Send + Sync + fmt::Debug {
    fn kind(&self) -> EngineKind;

    /// Begins operations, and [answers](FileOp::answer) each of them on a thread of its own. Never blocks on a file.
    fn submit(&self, ops: Vec<FileOp>);
}

/// What counts the calls of a device that are in flight.
pub(crate) trait CallCounter: Send + Sync {
    /// A call of so many bytes has ended.
    fn note_end(&self, class: FileClass, bytes: u64);

    /// Begins what may begin, once the owner of the call has learned of its end.
    fn begin_more(self: Arc<Self>);
}

/// Bytes of the file that one call moves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Piece {
    offset: u64,
    len: u64,
    direct: bool,
    /// The first segment of the operation, and how many of its bytes belong to the piece before.
    segment: usize,
    skip: usize,
    segments: usize,
}

/// One read, write or sync of a file. Made with leases on everything that it touches.
pub(crate) struct Operation {
    kind: IoKind,
    class: FileClass,
    file: FileRegion,
    engine: Arc<dyn FileEngine>,
    segments: Vec<Segment>,
    pieces: Vec<Piece>,
    bytes: u64,
    is_summed: bool,
    /// Its place in the queue of its device, under the lock of that; zero while it is in none.
    pub(super) ticket: AtomicU64,
    state: Mutex<State>,
}

struct State {
    /// The next piece to be taken.
    next: usize,
    in_flight: usize,
    /// No further piece is taken.
    stopped: bool,
    error: Option<FileIoError>,
    /// The CRC-32 of each piece that has ended and its length, if wanted.
    sums: Vec<Option<(u32, u64)>>,
    /// The leases, and what keeps the memory allocated.
    held: Option<Held>,
    /// What was held is dropped, or leaked with a piece that was lost.
    released: bool,
    /// A piece was dropped without an answer: the kernel may still use the memory.
    lost: bool,
    waker: Option<Waker>,
}

/// What an operation owns until it is quiet.
pub(crate) type Held = Box<dyn Any + Send>;

/// The longest call: longer ones are 5 to 10 percent slower on the disk that was measured.
const PIECE: u64 = 512 * 1024;
/// Segments of a call (`IOV_MAX`).
const SEGMENTS: usize = 1024;

impl Operation {
    /// A read or a write of pairs. `held` leases the memory and the ranges of the file, in the modes of the kind.
    pub(crate) fn of_pairs(
        kind: IoKind,
        class: FileClass,
        file: &FileRegion,
        engine: Arc<dyn FileEngine>,
        pairs: &FilePairs,
        (is_summed, held): (bool, Held),
    ) -> Arc<Self> {
        let mut segments = Vec::new();
        let mut pieces = Vec::new();
        for run in pairs.runs() {
            let memory = pairs.memory(run);
            let first = segments.len();
            segments.extend(memory.iter().map(Segment::of));
            let direct = is_aligned(file, run.offset(), memory);
            cut(run.offset(), &segments, first, direct, &mut pieces);
        }
        let bytes = pairs.bytes();
        Self::new((kind, class, is_summed), file, engine, (segments, pieces, bytes), held)
    }

    /// A sync of the file.
    pub(crate) fn sync(file: &FileRegion, engine: Arc<dyn FileEngine>) -> Arc<Self> {
        Self::holding(file, engine, Box::new(()))
    }

    /// A sync of the file that owns `held` until it is over.
    pub(super) fn holding(file: &FileRegion, engine: Arc<dyn FileEngine>, held: Held) -> Arc<Self> {
        let piece = Piece { offset: 0, len: 0, direct: false, segment: 0, skip: 0, segments: 0 };
        let parts = (Vec::new(), vec![piece], 0);
        Self::new((IoKind::Sync, FileClass::Write, false), file, engine, parts, held)
    }

    fn new(
        (kind, class, is_summed): (IoKind, FileClass, bool),
        file: &FileRegion,
        engine: Arc<dyn FileEngine>,
        (segments, pieces, bytes): (Vec<Segment>, Vec<Piece>, u64),
        held: Held,
    ) -> Arc<Self> {
        let state = State {
            next: 0,
            in_flight: 0,
            stopped: false,
            error: None,
            sums: if is_summed { vec![None; pieces.len()] } else { Vec::new() },
            held: Some(held),
            released: pieces.is_empty(),
            lost: false,
            waker: None,
        };
        let (file, state) = (file.clone(), Mutex::new(state));
        let ticket = AtomicU64::new(0);
        Arc::new(Self {
            kind,
            class,
            file,
            engine,
            segments,
            pieces,
            bytes,
            is_summed,
            ticket,
            state,
        })
    }

    pub(crate) fn kind(&self) -> IoKind {
        self.kind
    }

    pub(crate) fn class(&self) -> FileClass {
        self.class
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Whether a piece goes past the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        self.pieces.iter().any(|piece| piece.direct)
    }

    pub(crate) fn engine(&self) -> &Arc<dyn FileEngine> {
        &self.engine
    }

    /// The bytes of the next piece; `None` if there is none to be taken.
    pub(crate) fn next_len(&self) -> Option<u64> {
        let state = lock(&self.state);
        let piece = self.pieces.get(state.next)?;
        (!state.stopped).then_some(piece.len)
    }

    /// Takes the next piece, which is in flight from now on.
    pub(crate) fn take(
        self: &Arc<Self>,
        queue: Option<(Arc<dyn CallCounter>, FileClass)>,
    ) -> Option<FileOp> {
        let mut state = lock(&self.state);
        if state.stopped {
            return None;
        }
        let index = state.next;
        let piece = *self.pieces.get(index)?;
        state.next += 1;
        state.in_flight += 1;
        drop(state);
        let segments = self.segments.get(piece.segment..).unwrap_or_default();
        let mut segments: Vec<_> = segments.iter().take(piece.segments).copied().collect();
        if let Some(first) = segments.first_mut() {
            first.address += piece.skip;
            first.len -= piece.skip;
        }
        // The last one may go on in the next piece.
        let total: u64 = segments.iter().map(|segment| segment.len as u64).sum();
        if let Some(last) = segments.last_mut() {
            last.len -= usize::try_from(total - piece.len).unwrap_or(0);
        }
        Some(FileOp {
            operation: Some(Arc::clone(self)),
            queue,
            offset: piece.offset,
            left: piece.len,
            queued: piece.len,
            direct: piece.direct,
            segments,
            first: 0,
            again: 0,
            index,
            sum: self.is_summed.then(crc32fast::Hasher::new),
        })
    }

    /// Takes no further piece. Returns whether none is in flight, and the memory is free.
    pub(crate) fn stop(&self) -> bool {
        lock(&self.state).stopped = true;
        self.release();
        let state = lock(&self.state);
        state.released && !state.lost
    }

    /// Drops what is held if nothing is in flight and nothing left, and wakes the waker then.
    fn release(&self) {
        let mut state = lock(&self.state);
        if state.in_flight > 0 || !(state.stopped || state.next == self.pieces.len()) {
            return;
        }
        // Without it, another thread releases.
        let Some(held) = state.held.take() else { return };
        let is_lost = state.lost;
        drop(state);
        // Without a lock, as destructors of users may run. The memory is free before a poll returns the result.
        if is_lost {
            mem::forget(held);
        } else {
            drop(held);
        }
        let mut state = lock(&self.state);
        state.released = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The result, once nothing is in flight and nothing left. Else `waker` is woken then.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Result<(), FileIoError>> {
        let mut state = lock(&self.state);
        if !state.released {
            match &mut state.waker {
                Some(known) => known.clone_from(waker),
                unknown => *unknown = Some(waker.clone()),
            }
            return Poll::Pending;
        }
        match state.error.clone() {
            Some(error) => Poll::Ready(Err(error)),
            None if state.next < self.pieces.len() => {
                Poll::Ready(Err(FileIoError::EngineEnded { path: self.file.path().to_owned() }))
            }
            None => Poll::Ready(Ok(())),
        }
    }

    /// The CRC-32 of all bytes in the order of the file, of an operation that was to sum them and has succeeded.
    pub(crate) fn checksum(&self) -> Option<u32> {
        let state = lock(&self.state);
        let mut whole = crc32fast::Hasher::new();
        for sum in &state.sums {
            let (sum, len) = (*sum)?;
            whole.combine(&crc32fast::Hasher::new_with_initial_len(sum, len));
        }
        self.is_summed.then(|| whole.finalize())
    }

    /// A piece has ended.
    fn ended(&self, error: Option<FileIoError>, sum: Option<(usize, u32, u64)>) {
        let mut state = lock(&self.state);
        if let Some((index, sum, len)) = sum
            && let Some(place) = state.sums.get_mut(index)
        {
            *place = Some((sum, len));
        }
        state.in_flight -= 1;
        if error.is_some() && state.error.is_none() {
            state.error = error;
            // What is left of a failed operation is not begun.
            state.stopped = true;
        }
        drop(state);
        self.release();
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("kind", &self.kind)
            .field("class", &self.class)
            .field("bytes", &self.bytes)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Whether direct I/O takes a run of the file and its memory.
fn is_aligned(file: &FileRegion, offset: u64, memory: &[Descriptor]) -> bool {
    if file.direct_descriptor().is_none() {
        return false;
    }
    let (of_memory, of_file) = (file.alignment().memory() as u64, file.alignment().offset());
    offset.is_multiple_of(of_file)
        && memory.iter().all(|descriptor| {
            let len = descriptor.len() as u64;
            descriptor.address().is_multiple_of(of_memory)
                && len.is_multiple_of(of_file)
                && len.is_multiple_of(of_memory)
        })
}

/// Cuts a run, whose memory is the segments from `first` on, into pieces.
fn cut(mut offset: u64, segments: &[Segment], first: usize, direct: bool, pieces: &mut Vec<Piece>) {
    let (mut segment, mut skip) = (first, 0);
    while segment < segments.len() {
        let mut piece = Piece { offset, len: 0, direct, segment, skip, segments: 0 };
        while let Some(current) = segments.get(segment)
            && piece.len < PIECE
            && piece.segments < SEGMENTS
        {
            let left = current.len - skip;
            let room = usize::try_from(PIECE - piece.len).unwrap_or(usize::MAX);
            piece.segments += 1;
            if left > room {
                piece.len += room as u64;
                skip += room;
            } else {
                piece.len += left as u64;
                segment += 1;
                skip = 0;
            }
        }
        offset += piece.len;
        pieces.push(piece);
    }
}

/// A piece of an operation in flight, which leases the memory of its segments until this is answered.
///
/// Dropped without an answer, as by a thread that panics, it ends the operation with an error and leaves the memory leased for ever.
pub(crate) struct FileOp {
    /// `None` once it is answered.
    operation: Option<Arc<Operation>>,
    /// Where it is counted, and as what.
    queue: Option<(Arc<dyn CallCounter>, FileClass)>,
    offset: u64,
    left: u64,
    queued: u64,
    direct: bool,
    segments: Vec<Segment>,
    /// The first segment with bytes left.
    first: usize,
    /// Calls in a row that the kernel put off.
    again: u32,
    /// Its number in the operation.
    index: usize,
    /// Of the bytes that were moved, if wanted.
    sum: Option<crc32fast::Hasher>,
}

impl FileOp {
    /// The kernel puts a call off a few times at most, unless something is wrong with the file.
    const MOST_AGAIN: u32 = 1000;

    pub(crate) fn kind(&self) -> IoKind {
        self.operation.as_ref().map_or(IoKind::Sync, |operation| operation.kind)
    }

    /// Where what is left begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes left.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    #[cfg(test)]
    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    /// The memory of what is left.
    pub(crate) fn segments(&self) -> &[Segment] {
        self.segments.get(self.first..).unwrap_or_default()
    }

    pub(crate) fn file(&self) -> Option<&FileRegion> {
        self.operation.as_ref().map(|operation| &operation.file)
    }

    /// The descriptor, open as long as this lives.
    pub(crate) fn descriptor(&self) -> RawFd {
        let descriptor = self.file().map(|file| match file.direct_descriptor() {
            Some(direct) if self.direct => direct.as_raw_fd(),
            _ => file.descriptor().as_raw_fd(),
        });
        descriptor.unwrap_or(-1)
    }

    /// Takes the kernel's answer to a call for what was left. Returns the operation if there is something left to be called for.
    #[must_use]
    pub(crate) fn answer(mut self, result: io::Result<usize>) -> Option<Self> {
        let count = match result {
            Ok(count) => count as u64,
            Err(error) => {
                let put_off = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock];
                if put_off.contains(&error.kind()) && self.again < Self::MOST_AGAIN {
                    self.again += 1;
                    return Some(self);
                }
                let path = self.path();
                let error = FileIoError::of_system(self.kind(), path, self.offset, error);
                self.finish(Some(error));
                return None;
            }
        };
        self.again = 0;
        if let Some(sum) = &mut self.sum {
            let segments = self.segments.get(self.first..).unwrap_or_default();
            segment::sum(segments, count.min(self.left), sum);
        }
        if count >= self.left {
            self.finish(None);
            return None;
        }
        self.advance(count);
        match (self.kind(), count) {
            (IoKind::Write, 0) => {
                let error = FileIoError::WroteNothing { path: self.path(), offset: self.offset };
                self.finish(Some(error));
                None
            }
            (IoKind::Read, _) => match self.size() {
                Some(size) if size > self.offset && count > 0 => Some(self),
                size => {
                    let size = size.unwrap_or(0);
                    let (path, offset) = (self.path(), self.offset);
                    self.finish(Some(FileIoError::Truncated { path, offset, size }));
                    None
                }
            },
            _ => Some(self),
        }
    }

    /// Ends it without an answer, before a call.
    pub(crate) fn refuse(self) {
        let path = self.path();
        self.finish(Some(FileIoError::EngineEnded { path }));
    }

    fn advance(&mut self, count: u64) {
        self.offset += count;
        self.left -= count;
        let mut count = usize::try_from(count).unwrap_or(usize::MAX);
        while let Some(segment) = self.segments.get_mut(self.first)
            && count > 0
        {
            let now = count.min(segment.len);
            segment.address += now;
            segment.len -= now;
            count -= now;
            if segment.len == 0 {
                self.first += 1;
            }
        }
        // What begins in the middle of a sector goes through the page cache.
        self.direct &= self.file().is_some_and(|file| {
            let (of_memory, of_file) = (file.alignment().memory(), file.alignment().offset());
            let address = self.segments().first().map_or(0, |segment| segment.address);
            self.offset.is_multiple_of(of_file) && address.is_multiple_of(of_memory)
        });
    }

    fn size(&self) -> Option<u64> {
        self.file()?.len().ok()
    }

    fn path(&self) -> std::path::PathBuf {
        self.file().map(|file| file.path().to_owned()).unwrap_or_default()
    }

    fn finish(mut self, error: Option<FileIoError>) {
        self.end(error);
    }

    fn end(&mut self, error: Option<FileIoError>) {
        let (operation, queue) = (self.operation.take(), self.queue.take());
        // The device has room again before the owner learns of the end, which may begin the next operation.
        if let Some((queue, class)) = &queue {
            queue.note_end(*class, self.queued);
        }
        if let Some(operation) = operation {
            let sum = self.sum.take().map(|sum| (self.index, sum.finalize(), self.queued));
            operation.ended(error, sum);
        }
        if let Some((queue, _)) = queue {
            queue.begin_more();
        }
    }
}

impl Drop for FileOp {
    fn drop(&mut self) {
        let Some(operation) = &self.operation else { return };
        // The kernel may still use the memory.
        lock(&operation.state).lost = true;
        let error = FileIoError::EngineEnded { path: self.path() };
        // A second panic while the thread unwinds would end the process.
        let _ = contained("the end of a lost call of a file", || self.end(Some(error)));
    }
}

impl fmt::Debug for FileOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileOp")
            .field("kind", &self.kind())
            .field("offset", &self.offset)
            .field("left", &self.left)
            .field("direct", &self.direct)
            .finish_non_exhaustive()
    }
}

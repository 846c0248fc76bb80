//! Filling, poisoning and checking memory of any kind.
#![allow(unsafe_code, reason = "fills and reads device memory by address")]

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use nixl_descriptor::Region;
use nixl_executor::MemoryKind;

use crate::gpus::{Gpus, POISON, WINDOW};
use crate::pattern::{CHUNK, Pattern};

/// Memory of one kind.
pub(crate) struct Contents<'a> {
    pub(crate) gpus: &'a Gpus,
    pub(crate) kind: MemoryKind,
    pub(crate) region: &'a Region,
}

/// Bytes that one thread fills or checks.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    /// Offset in the window.
    pub(crate) at: usize,
    /// At most [`CHUNK`].
    pub(crate) len: usize,
    /// Where in the pattern they are.
    pub(crate) address: usize,
    /// None for the poison.
    pub(crate) pattern: Option<Pattern>,
}

/// Cuts a range into what is filled or checked at a time.
pub(crate) fn windows(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(WINDOW).map(move |at| at..end.min(at + WINDOW))
}

impl Contents<'_> {
    /// Fills the pieces of a window; of a GPU's memory they must be all of it.
    pub(crate) fn fill(&self, window: &Range<usize>, pieces: &[Piece]) -> Result<()> {
        match self.kind {
            MemoryKind::Gpu(_) => {
                fill(&self.gpus.of(self.kind)?.staging, pieces, 0)?;
                self.stage(window, true)
            }
            _ => fill(self.region, pieces, window.start),
        }
    }

    /// Where, from the start of the window, a wrong piece begins.
    pub(crate) fn first_wrong(
        &self,
        window: &Range<usize>,
        pieces: &[Piece],
    ) -> Result<Option<usize>> {
        match self.kind {
            MemoryKind::Gpu(_) => {
                self.stage(window, false)?;
                first_wrong(&self.gpus.of(self.kind)?.staging, pieces, 0)
            }
            _ => first_wrong(self.region, pieces, window.start),
        }
    }

    /// Makes every byte wrong, of memory that GPUs reach. They write it, so that no copy of it is in the host's caches.
    pub(crate) fn poison_by_gpu(&self, range: Range<usize>) -> Result<()> {
        self.check(&range)?;
        let gpu = self.gpus.of(self.kind)?;
        for window in windows(range) {
            let (dst, len) = (self.region.address() + window.start as u64, window.len());
            let queued = if self.kind.is_host() {
                // SAFETY: the window lies inside this memory, which no transfer uses now; the source is as long, and
                // both are kept until the stream has passed, below.
                unsafe { gpu.stream.copy_async(dst, gpu.poison.address(), len) }
            } else {
                // SAFETY: as above.
                unsafe { gpu.stream.memset_async(dst, POISON, len) }
            };
            queued?;
        }
        Ok(gpu.stream.synchronize()?)
    }

    fn check(&self, range: &Range<usize>) -> Result<()> {
        let len = self.region.len();
        ensure!(range.end <= len, "{range:?} reaches beyond the {len} bytes of memory");
        Ok(())
    }

    /// Copies a window from the staging memory or to it.
    fn stage(&self, at: &Range<usize>, to: bool) -> Result<()> {
        self.check(at)?;
        ensure!(at.len() <= WINDOW, "a window of {} bytes is too long", at.len());
        let gpu = self.gpus.of(self.kind)?;
        let (device, host) = (self.region.address() + at.start as u64, gpu.staging.address());
        let (dst, src) = if to { (device, host) } else { (host, device) };
        // SAFETY: the window lies inside this memory and is at most as long as the staging memory. No transfer uses
        // either now, and both are kept until the stream has passed, which is awaited.
        unsafe { gpu.stream.copy_async(dst, src, at.len()) }?;
        Ok(gpu.stream.synchronize()?)
    }
}

fn fill(region: &Region, pieces: &[Piece], base: usize) -> Result<()> {
    in_parallel(pieces, |piece, buffer| {
        match piece.pattern {
            Some(pattern) => pattern.fill(piece.address, buffer),
            None => buffer.fill(POISON),
        }
        region.copy_from_slice(base + piece.at, buffer)?;
        Ok(())
    })
}

fn first_wrong(region: &Region, pieces: &[Piece], base: usize) -> Result<Option<usize>> {
    let wrong = AtomicUsize::new(usize::MAX);
    in_parallel(pieces, |piece, buffer| {
        region.copy_to_slice(base + piece.at, buffer)?;
        let right = match piece.pattern {
            Some(pattern) => pattern.matches(piece.address, buffer),
            None => buffer.iter().all(|byte| *byte == POISON),
        };
        if !right {
            wrong.fetch_min(piece.at, Ordering::Relaxed);
        }
        Ok(())
    })?;
    let at = wrong.into_inner();
    Ok((at != usize::MAX).then_some(at))
}

/// Hands every piece to `work` with a buffer of its length, on several threads if there is much.
fn in_parallel(
    pieces: &[Piece],
    work: impl Fn(&Piece, &mut [u8]) -> Result<()> + Sync,
) -> Result<()> {
    const BYTES_FOR_A_THREAD: usize = 1 << 20;
    const MOST_THREADS: usize = 16;
    let bytes: usize = pieces.iter().map(|piece| piece.len).sum();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = (bytes / BYTES_FOR_A_THREAD).clamp(1, MOST_THREADS.min(cores));
    let serve = |share: &[Piece]| {
        let mut buffer = [0; CHUNK];
        share.iter().try_for_each(|piece| work(piece, &mut buffer[..piece.len]))
    };
    if threads == 1 {
        return serve(pieces);
    }
    thread::scope(|scope| {
        let shares = pieces.chunks(pieces.len().div_ceil(threads));
        let workers: Vec<_> = shares.map(|share| scope.spawn(move || serve(share))).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().map_err(|_| anyhow!("a thread that fills or checks memory panicked"))?
        })
    })
}

//! The memory of one side of a copy: filling it, poisoning it, and checking every byte.
#![allow(unsafe_code, reason = "fills and reads device memory by address")]

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use nixl_descriptor::Region;
use nixl_descriptor::layout::{Layout, LayoutGeometry, LayoutKind};
use nixl_executor::MemoryKind;

use super::machine::{Machine, POISON};
use crate::pattern::{CHUNK, Pattern};

/// Blocks in memory of one kind.
pub(crate) struct Side {
    pub(crate) kind: MemoryKind,
    pub(crate) layout: Layout,
    parts: Vec<Part>,
}

/// One allocation and the chunks in it, in the order of their addresses.
struct Part {
    region: Region,
    spans: Vec<Span>,
}

/// Where a chunk lies.
#[derive(Clone, Copy)]
struct Span {
    offset: usize,
    len: usize,
    block: usize,
    layer: usize,
    outer: usize,
}

/// Bytes that one thread fills or checks.
#[derive(Clone, Copy)]
struct Piece {
    /// Offset in the memory that the host works on.
    at: usize,
    len: usize,
    /// Offset in the chunk.
    address: usize,
    /// None for the poison.
    pattern: Option<Pattern>,
}

impl Side {
    /// Allocates the memory: one allocation, or one for each layer.
    pub(crate) fn new(
        machine: &Machine,
        kind: MemoryKind,
        shape: LayoutKind,
        geometry: LayoutGeometry,
    ) -> Result<Self> {
        let lens = match shape {
            LayoutKind::PerLayer(_) => {
                vec![geometry.blocks() * geometry.layer_len(); geometry.layers()]
            }
            _ => vec![geometry.bytes()],
        };
        let regions = lens
            .iter()
            .map(|len| machine.region(kind, *len))
            .collect::<Result<Vec<_>>>()
            .with_context(|| format!("cannot allocate {} bytes of {kind}", geometry.bytes()))?;
        let whole = regions.iter().map(Region::whole).collect();
        let layout = match shape {
            LayoutKind::PerLayer(order) => Layout::per_layer(geometry, order, whole)?,
            _ => Layout::fully_contiguous(geometry, regions[0].whole())?,
        };
        let mut parts: Vec<_> =
            regions.into_iter().map(|region| Part { region, spans: Vec::new() }).collect();
        for block in 0..geometry.blocks() {
            for layer in 0..geometry.layers() {
                for outer in 0..geometry.outer() {
                    let span = layout.chunk(block, layer, outer)?;
                    let (offset, len) = (span.offset, span.len);
                    parts[span.part].spans.push(Span { offset, len, block, layer, outer });
                }
            }
        }
        for part in &mut parts {
            part.spans.sort_unstable_by_key(|span| span.offset);
        }
        Ok(Self { kind, layout, parts })
    }

    /// Writes its own pattern into every chunk.
    pub(crate) fn fill(&self, machine: &Machine) -> Result<()> {
        self.write(machine, |span| Some(span.pattern(span.block)))
    }

    /// Makes every byte wrong. What GPUs reach is written by a GPU, so that no copy of it is in the host's caches.
    pub(crate) fn poison(&self, machine: &Machine) -> Result<()> {
        if self.kind == MemoryKind::Pageable {
            return self.write(machine, |_| None);
        }
        let gpu = machine.gpu(self.kind)?;
        for part in &self.parts {
            for window in windows(&part.region) {
                let (dst, len) = (part.region.address() + window.start as u64, window.len());
                let queued = if self.kind.is_host() {
                    // SAFETY: the window lies inside memory of this side, which no transfer uses now; the source is as
                    // long, and both are kept until the stream has passed, below.
                    unsafe { gpu.stream.copy_async(dst, gpu.poison.address(), len) }
                } else {
                    // SAFETY: as above.
                    unsafe { gpu.stream.memset_async(dst, POISON, len) }
                };
                queued?;
            }
        }
        Ok(gpu.stream.synchronize()?)
    }

    /// Checks every byte: block `b` has what block `sources[b]` of the other side was filled with, or is poisoned still.
    pub(crate) fn check(&self, machine: &Machine, sources: &[Option<usize>]) -> Result<()> {
        for (index, part) in self.parts.iter().enumerate() {
            for window in windows(&part.region) {
                let pieces = part
                    .pieces(&window, |span| sources[span.block].map(|block| span.pattern(block)));
                let wrong = match self.kind {
                    MemoryKind::Gpu(_) => {
                        let gpu = machine.gpu(self.kind)?;
                        self.stage(machine, part, &window, false)?;
                        first_wrong(&gpu.staging, &pieces, 0)?
                    }
                    _ => first_wrong(&part.region, &pieces, window.start)?,
                };
                if let Some(at) = wrong {
                    bail!("wrong bytes in part {index} near offset {}", window.start + at);
                }
            }
        }
        Ok(())
    }

    fn write(&self, machine: &Machine, pattern: impl Fn(&Span) -> Option<Pattern>) -> Result<()> {
        for part in &self.parts {
            for window in windows(&part.region) {
                let pieces = part.pieces(&window, &pattern);
                match self.kind {
                    MemoryKind::Gpu(_) => {
                        fill(&machine.gpu(self.kind)?.staging, &pieces, 0)?;
                        self.stage(machine, part, &window, true)?;
                    }
                    _ => fill(&part.region, &pieces, window.start)?,
                }
            }
        }
        Ok(())
    }

    /// Copies a window from the staging memory or to it.
    fn stage(&self, machine: &Machine, part: &Part, at: &Range<usize>, to: bool) -> Result<()> {
        let gpu = machine.gpu(self.kind)?;
        let (device, host) = (part.region.address() + at.start as u64, gpu.staging.address());
        let (dst, src) = if to { (device, host) } else { (host, device) };
        // SAFETY: the window lies inside memory of this side and is at most as long as the staging memory. No transfer
        // uses either now, and both are kept until the stream has passed, which is awaited.
        unsafe { gpu.stream.copy_async(dst, src, at.len()) }?;
        Ok(gpu.stream.synchronize()?)
    }
}

impl Span {
    /// What this chunk of a block holds.
    fn pattern(&self, block: usize) -> Pattern {
        let key = [block, self.layer, self.outer];
        Pattern::new(key.iter().fold(1, |all, part| (all << 20) + *part as u64))
    }
}

impl Part {
    /// The chunks, or parts of chunks, inside a window; offsets count from its start.
    fn pieces(
        &self,
        window: &Range<usize>,
        pattern: impl Fn(&Span) -> Option<Pattern>,
    ) -> Vec<Piece> {
        let first = self.spans.partition_point(|span| span.offset + span.len <= window.start);
        let inside = self.spans[first..].iter().take_while(|span| span.offset < window.end);
        let mut pieces = Vec::new();
        for span in inside {
            let from = span.offset.max(window.start);
            let to = (span.offset + span.len).min(window.end);
            for start in (from..to).step_by(CHUNK) {
                pieces.push(Piece {
                    at: start - window.start,
                    len: CHUNK.min(to - start),
                    address: start - span.offset,
                    pattern: pattern(span),
                });
            }
        }
        pieces
    }
}

fn windows(region: &Region) -> impl Iterator<Item = Range<usize>> {
    let len = region.len();
    (0..len).step_by(Machine::WINDOW).map(move |at| at..len.min(at + Machine::WINDOW))
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

/// Where, from the start of the window, a wrong piece begins.
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

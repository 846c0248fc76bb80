//! The memory of one side of a copy: filling it, poisoning it, and checking every byte.

use std::ops::Range;

use anyhow::{Context as _, Result, bail};
use nixl_descriptor::Region;
use nixl_descriptor::layout::{Layout, LayoutGeometry, LayoutKind};
use nixl_executor::MemoryKind;

use super::machine::Machine;
use crate::contents::{Contents, Piece, windows};
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
            .map(|len| machine.gpus.region(kind, *len))
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

    /// Makes every byte wrong.
    pub(crate) fn poison(&self, machine: &Machine) -> Result<()> {
        if self.kind == MemoryKind::Pageable {
            return self.write(machine, |_| None);
        }
        self.parts
            .iter()
            .try_for_each(|part| self.contents(machine, part).poison_by_gpu(0..part.region.len()))
    }

    /// Checks every byte: block `b` has what block `sources[b]` of the other side was filled with, or is poisoned still.
    pub(crate) fn check(&self, machine: &Machine, sources: &[Option<usize>]) -> Result<()> {
        for (index, part) in self.parts.iter().enumerate() {
            let contents = self.contents(machine, part);
            for window in windows(0..part.region.len()) {
                let pieces = part
                    .pieces(&window, |span| sources[span.block].map(|block| span.pattern(block)));
                if let Some(at) = contents.first_wrong(&window, &pieces)? {
                    bail!("wrong bytes in part {index} near offset {}", window.start + at);
                }
            }
        }
        Ok(())
    }

    fn write(&self, machine: &Machine, pattern: impl Fn(&Span) -> Option<Pattern>) -> Result<()> {
        for part in &self.parts {
            for window in windows(0..part.region.len()) {
                self.contents(machine, part).fill(&window, &part.pieces(&window, &pattern))?;
            }
        }
        Ok(())
    }

    fn contents<'a>(&self, machine: &'a Machine, part: &'a Part) -> Contents<'a> {
        Contents { gpus: &machine.gpus, kind: self.kind, region: &part.region }
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

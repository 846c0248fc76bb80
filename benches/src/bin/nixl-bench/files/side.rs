//! Blocks of a file paired with blocks in memory: their bytes, and the check of each.

use std::os::fd::BorrowedFd;

use anyhow::{Result, ensure};
use memmap2::MmapMut;
use nixl_descriptor::Descriptor;
use nixl_descriptor::file::{FileLayout, FilePairs, FileRegion, pair_file_blocks};
use nixl_descriptor::layout::{Dimensions, Layout, LayoutGeometry};
use rustix::io::{pread, pwrite};

use super::arrangement::Arrangement;
use super::calls::{Call, calls};
use crate::pattern::{CHUNK, Pattern};

/// Bytes of the file that are filled or checked at a time.
const WINDOW: usize = 1 << 20;

/// A file and memory, and the blocks that go between them.
pub(super) struct Side {
    pub(super) file: FileLayout,
    pub(super) memory: Layout,
    pub(super) file_blocks: Vec<usize>,
    pub(super) blocks: Vec<usize>,
    pub(super) pairs: FilePairs,
    pub(super) calls: Vec<Call>,
}

impl Side {
    /// Pairs blocks of a file with all blocks of new memory, in another order. Every `apart`th block of the file has a pair.
    pub(super) fn new(
        file: &FileRegion,
        arrangement: Arrangement,
        shape: Dimensions,
        apart: usize,
    ) -> Result<Self> {
        let memory = arrangement.memory(LayoutGeometry::try_from(shape)?)?;
        let in_file = Dimensions { blocks: shape.blocks * apart, ..shape };
        let file = FileLayout::new(LayoutGeometry::try_from(in_file)?, file.clone(), 0)?;
        let mut file_blocks: Vec<_> = (0..shape.blocks).map(|block| block * apart).collect();
        fastrand::Rng::with_seed(1).shuffle(&mut file_blocks);
        let blocks: Vec<_> = (0..shape.blocks).collect();
        let layers = 0..shape.layers;
        let pairs = pair_file_blocks(&file, &file_blocks, &memory, &blocks, layers)?;
        let calls = calls(&pairs);
        Ok(Self { file, memory, file_blocks, blocks, pairs, calls })
    }

    pub(super) fn region(&self) -> &FileRegion {
        self.file.file()
    }

    /// The descriptor that the baselines use.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        let file = self.region();
        file.direct_descriptor().unwrap_or_else(|| file.descriptor())
    }

    pub(super) fn bytes(&self) -> usize {
        self.pairs.bytes() as usize
    }

    /// Gives the memory what the file has by a pattern.
    pub(super) fn fill_memory(&self, pattern: Pattern) -> Result<()> {
        let mut buffer = [0; CHUNK];
        self.each(|at, memory| {
            let bytes = &mut buffer[..memory.len()];
            pattern.fill(at, bytes);
            Ok(memory.region().copy_from_slice(memory.offset(), bytes)?)
        })
    }

    /// Checks that the memory has what the file has by a pattern.
    pub(super) fn check_memory(&self, pattern: Pattern) -> Result<()> {
        let mut buffer = [0; CHUNK];
        self.each(|at, memory| {
            let bytes = &mut buffer[..memory.len()];
            memory.region().copy_to_slice(memory.offset(), bytes)?;
            ensure!(pattern.matches(at, bytes), "wrong bytes of the file near {at}");
            Ok(())
        })
    }

    /// Writes a pattern to all of the file.
    pub(super) fn fill_file(&self, pattern: Pattern) -> Result<()> {
        let mut buffer = MmapMut::map_anon(WINDOW)?;
        for (at, len) in self.windows() {
            pattern.fill(at as usize, &mut buffer[..len]);
            ensure!(pwrite(self.fd(), &buffer[..len], at)? == len, "a write was short");
        }
        rustix::fs::fdatasync(self.fd())?;
        Ok(())
    }

    /// Checks that the file has a pattern.
    pub(super) fn check_file(&self, pattern: Pattern) -> Result<()> {
        let mut buffer = MmapMut::map_anon(WINDOW)?;
        for (at, len) in self.windows() {
            ensure!(pread(self.fd(), &mut buffer[..len], at)? == len, "a read was short");
            ensure!(
                pattern.matches(at as usize, &buffer[..len]),
                "wrong bytes in the file near {at}"
            );
        }
        Ok(())
    }

    fn windows(&self) -> impl Iterator<Item = (u64, usize)> + use<> {
        let end = self.file.range().end;
        let window = WINDOW as u64;
        (0..end).step_by(WINDOW).map(move |at| (at, (end - at).min(window) as usize))
    }

    /// All memory, in pieces of at most [`CHUNK`], each with its place in the file.
    fn each(&self, mut work: impl FnMut(usize, &Descriptor) -> Result<()>) -> Result<()> {
        for run in self.pairs.runs() {
            let mut at = run.offset() as usize;
            for memory in self.pairs.memory(run) {
                for from in (0..memory.len()).step_by(CHUNK) {
                    let piece = memory.slice(from..memory.len().min(from + CHUNK))?;
                    work(at + from, &piece)?;
                }
                at += memory.len();
            }
        }
        Ok(())
    }
}

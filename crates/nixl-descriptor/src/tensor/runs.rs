//! Runs of adjacent bytes of a strided tensor.

use std::ops::Range;

use super::dtype::DType;
use super::shape::Collapsed;

/// The runs of adjacent bytes in row-major order of the elements, counted in bytes from the first element. Runs that touch are one.
#[derive(Debug)]
pub(super) struct Runs {
    /// The bytes of a run.
    len: usize,
    /// The innermost first.
    outer: Vec<Dimension>,
    /// The start of the next run.
    next: Option<usize>,
}

#[derive(Debug)]
struct Dimension {
    index: usize,
    size: usize,
    /// In bytes.
    stride: usize,
}

impl Runs {
    pub(super) fn new(collapsed: &Collapsed, dtype: DType) -> Self {
        // Whole bytes, as the layout checked.
        let bytes = |elements: usize| elements * dtype.bits() / 8;
        let dimension =
            |&(size, stride): &(usize, usize)| Dimension { index: 0, size, stride: bytes(stride) };
        let outer = collapsed.outer.iter().map(dimension).collect();
        Self { len: bytes(collapsed.run), outer, next: Some(0) }
    }

    fn advance(&mut self, mut at: usize) {
        for dimension in &mut self.outer {
            if dimension.index + 1 < dimension.size {
                dimension.index += 1;
                self.next = Some(at + dimension.stride);
                return;
            }
            at -= dimension.index * dimension.stride;
            dimension.index = 0;
        }
        self.next = None;
    }
}

impl Iterator for Runs {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.next?;
        let (mut at, mut end) = (start, start + self.len);
        loop {
            self.advance(at);
            match self.next {
                Some(next) if next == end => (at, end) = (next, next + self.len),
                _ => return Some(start..end),
            }
        }
    }
}

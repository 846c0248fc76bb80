//! Which ranges of addresses of two sorted lists meet.

use std::iter::{self, Peekable};

/// Addresses `start..end` in a part of a layout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Interval {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) part: usize,
}

/// Pairs of intervals that share an address, in one pass; all of them, if no side overlaps itself, and at least one, if
/// there is one. Starts and ends ascend on each side.
pub(super) fn overlapping(
    a: impl Iterator<Item = Interval>,
    b: impl Iterator<Item = Interval>,
) -> impl Iterator<Item = (Interval, Interval)> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    iter::from_fn(move || {
        loop {
            let (x, y) = (peeked(&mut a)?, peeked(&mut b)?);
            // The one that ends first cannot meet anything further on the other side.
            if x.end <= y.end {
                a.next();
            } else {
                b.next();
            }
            if x.start < y.end && y.start < x.end {
                return Some((x, y));
            }
        }
    })
}

fn peeked<I: Iterator<Item = Interval>>(intervals: &mut Peekable<I>) -> Option<Interval> {
    intervals.peek().copied()
}

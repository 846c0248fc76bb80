//! Messages of the initiator and the target.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::memory::Memory;
use crate::messages::Kind;
use crate::target::notification;

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Request {
    /// Forget the memory, and have this instead.
    Prepare {
        memory: Memory,
        bytes: usize,
        /// The plain engine's metadata of the initiator, if there is to be one.
        plain: Option<Vec<u8>>,
    },
    /// Fill or poison the memory and offer it.
    Offer(Offer),
    /// The transfers of the last offer are over. Check what arrived, if that is asked for.
    Finish { check: bool },
    /// The last offer leads to nothing.
    Withdraw,
}

/// One iteration, as the target sees it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Offer {
    /// Plain nixl-sys moves the bytes.
    pub(crate) plain: bool,
    pub(crate) kind: Kind,
    /// Of each operation.
    pub(crate) bytes: usize,
    /// Operations side by side, which follow each other in the memory.
    pub(crate) count: usize,
    /// Of each of the [operations](Offer::WARM_UPS) that go before them and do not count, behind them in the memory; 0 if
    /// there are none.
    pub(crate) warm: usize,
    /// Of the pattern.
    pub(crate) seed: u64,
    /// The data is going to be checked, so a source must have the pattern.
    pub(crate) check: bool,
}

impl Offer {
    /// Operations that do not count, if there are any.
    pub(crate) const WARM_UPS: usize = 3;

    /// All bytes that move.
    pub(crate) fn all(&self) -> usize {
        let warm = self.warm.saturating_mul(Self::WARM_UPS);
        self.bytes.saturating_mul(self.count).saturating_add(warm)
    }

    /// The operations: those that do not count come first.
    pub(crate) fn operations(&self) -> Vec<Range<usize>> {
        let run = |at: usize, bytes: usize, count: usize| {
            (0..count).map(move |i| at + i * bytes..at + (i + 1) * bytes)
        };
        let warm_ups = if self.warm > 0 { Self::WARM_UPS } else { 0 };
        let warm = run(self.bytes * self.count, self.warm, warm_ups);
        warm.chain(run(0, self.bytes, self.count)).collect()
    }

    /// By which the plain engine reports them.
    pub(crate) fn notifications(&self) -> Vec<Vec<u8>> {
        (0..self.operations().len()).map(|index| notification(self.seed, index)).collect()
    }
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Reply {
    /// The plain engine's introduction, or why there is none.
    Prepared {
        plain: Option<Result<Introduction, String>>,
    },
    /// The connector's metadata of every operation, none for the plain engine; or why nothing could be offered.
    Offered {
        metadata: Result<Vec<Vec<u8>>, String>,
    },
    /// Where the target's side of it went wrong, if it did.
    Finished {
        fault: Option<String>,
    },
    Withdrawn,
}

/// A plain agent and its memory.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Introduction {
    pub(crate) metadata: Vec<u8>,
    pub(crate) address: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn operations_cover_the_memory_once(bytes in 1usize..100, count in 1usize..5, warm in 0usize..50) {
            let offer = Offer { plain: false, kind: Kind::Read, bytes, count, warm, seed: 0, check: true };
            let operations = offer.operations();
            prop_assert_eq!(operations.len(), count + if warm > 0 { Offer::WARM_UPS } else { 0 });
            prop_assert_eq!(operations.last().unwrap().len(), bytes);
            let mut touched: Vec<_> = operations.into_iter().flatten().collect();
            touched.sort_unstable();
            prop_assert_eq!(touched, (0..offer.all()).collect::<Vec<_>>());
        }
    }
}

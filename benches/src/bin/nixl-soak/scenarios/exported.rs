//! Blocks of an export that stands, read again and again by tickets; owners and readers that are killed meanwhile.

use super::Variant;
use super::pair::Pair;
use super::rounds::{End, Rounds, Traffic};
use crate::growth::Pace;
use crate::messages::{Executor, Memory, Work};

pub(super) fn variants() -> Vec<Variant> {
    let traffic = Traffic { work: Work::Blocks, memory: Memory::Kept, longest: 32 };
    let all = Executor::BOTH.into_iter().flat_map(|executor| {
        let pair = Pair {
            executor,
            memory: traffic.memory,
            work: traffic.work,
            longest: traffic.longest,
            tasks: &[1, 8],
            quick_ms: 200,
            cycles: 8,
        };
        let reader_killed = Rounds {
            executor,
            role: "owner",
            survivor: None,
            child: Some(traffic),
            ends: &[End::Kill],
            quick: 8,
        };
        let owner_killed =
            Rounds { role: "reader", survivor: Some(traffic), child: None, ..reader_killed };
        let name = |what| format!("{} executor, {what}", executor.name());
        [
            Variant::new(name("a pair"), Pace::Operations, move |b, t| pair.run(b, t)),
            Variant::new(name("reader killed"), Pace::Events, move |b, t| reader_killed.run(b, t)),
            Variant::new(name("owner killed"), Pace::Events, move |b, t| owner_killed.run(b, t)),
        ]
    });
    all.collect()
}

//! A server that makes a new buffer for each request, of varying length, so that new registrations overlap withdrawn ones.

use super::Variant;
use super::pair::Pair;
use crate::growth::Pace;
use crate::messages::{Executor, Memory, Work};

pub(super) fn variants() -> Vec<Variant> {
    let memories = [
        (Memory::Vec, 1 << 20, "vec"),
        (Memory::Buffer, 1 << 20, "buffer"),
        (Memory::Vec, 4096, "vec of 4 KiB at most"),
    ];
    let all = Executor::BOTH.into_iter().flat_map(|executor| {
        memories.map(|(memory, longest, name)| {
            let pair = Pair {
                executor,
                memory,
                work: Work::Reads,
                longest,
                tasks: &[1, 8, 32, 128],
                quick_ms: 60,
                cycles: 8,
            };
            let name = format!("{} executor, {name}", executor.name());
            Variant::new(name, Pace::Operations, move |bench, trial| pair.run(bench, trial))
        })
    });
    all.collect()
}

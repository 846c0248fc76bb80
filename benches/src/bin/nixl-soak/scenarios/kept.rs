//! Two buffers that stay, read and written again and again.

use super::Variant;
use super::pair::Pair;
use crate::growth::Pace;
use crate::messages::{Executor, Memory, Work};

pub(super) fn variants() -> Vec<Variant> {
    let all = Executor::BOTH.into_iter().map(|executor| {
        let pair = Pair {
            executor,
            memory: Memory::Kept,
            work: Work::Both,
            longest: 4096,
            tasks: &[1, 8],
            quick_ms: 100,
            cycles: 8,
        };
        let name = format!("{} executor", executor.name());
        Variant::new(name, Pace::Operations, move |bench, trial| pair.run(bench, trial))
    });
    all.collect()
}

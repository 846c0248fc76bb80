//! Offers that come to no good end; their owner gets its memory back.

use super::Variant;
use super::pair::Pair;
use super::rounds::{End, Rounds, Traffic};
use crate::growth::Pace;
use crate::messages::{Executor, Memory, Work};

pub(super) fn variants() -> Vec<Variant> {
    Executor::BOTH.into_iter().flat_map(|executor| [given_up(executor), killed(executor)]).collect()
}

/// Not taken, revoked, dropped, declined or used, as chance has it.
fn given_up(executor: Executor) -> Variant {
    let pair = Pair {
        executor,
        memory: Memory::Buffer,
        work: Work::Abandoned,
        longest: 1 << 16,
        tasks: &[8],
        quick_ms: 100,
        cycles: 8,
    };
    let name = format!("{} executor, given up", executor.name());
    Variant::new(name, Pace::Operations, move |bench, trial| pair.run(bench, trial))
}

/// Initiators that are killed while they write.
fn killed(executor: Executor) -> Variant {
    let rounds = Rounds {
        executor,
        role: "owner",
        survivor: None,
        child: Some(Traffic { work: Work::LongWrites, memory: Memory::Buffer, longest: 8 << 20 }),
        ends: &[End::Kill],
        quick: 8,
    };
    let name = format!("{} executor, initiator killed", executor.name());
    Variant::new(name, Pace::Events, move |bench, trial| rounds.run(bench, trial))
}

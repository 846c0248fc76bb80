//! Processes that end in the middle of operations, in every way that a process ends; a peer of theirs lives on.

use super::Variant;
use super::rounds::{End, Rounds, Traffic};
use crate::growth::Pace;
use crate::messages::{Executor, Memory, Work};

pub(super) fn variants() -> Vec<Variant> {
    let all = Executor::BOTH.into_iter().map(|executor| {
        let traffic = Traffic { work: Work::Both, memory: Memory::Vec, longest: 1 << 20 };
        let rounds = Rounds {
            executor,
            role: "peer",
            survivor: Some(traffic),
            child: Some(traffic),
            ends: &[End::Exit, End::Return, End::Terminate, End::Kill],
            quick: 8,
        };
        let name = format!("{} executor", executor.name());
        Variant::new(name, Pace::Events, move |bench, trial| rounds.run(bench, trial))
    });
    all.collect()
}

//! An owner that is killed under load and started anew, again and again; the reader lives on.

use super::Variant;
use super::rounds::{End, Rounds, Traffic};
use crate::growth::Pace;
use crate::messages::{Executor, Memory, Work};

pub(super) fn variants() -> Vec<Variant> {
    let all = Executor::BOTH.into_iter().map(|executor| {
        let rounds = Rounds {
            executor,
            role: "reader",
            survivor: Some(Traffic { work: Work::Both, memory: Memory::Buffer, longest: 1 << 20 }),
            child: None,
            ends: &[End::Kill],
            quick: 8,
        };
        let name = format!("{} executor", executor.name());
        Variant::new(name, Pace::Events, move |bench, trial| rounds.run(bench, trial))
    });
    all.collect()
}

//! Counts of the results of operations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::messages::Counts;

/// Operations by their ends.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Tally {
    /// All that began.
    pub(crate) operations: u64,
    /// Those that failed, by the kind of error.
    pub(crate) errors: Counts,
    /// Those that ended as they must where the scenario ends or cuts off the peer, or the offer, likewise.
    pub(crate) ended: Counts,
    /// An error of each kind in full.
    pub(crate) examples: BTreeMap<String, String>,
    pub(crate) wrong_bytes: u64,
    /// How long after its deadline the latest operation ended.
    pub(crate) overrun_ms: u64,
}

impl Tally {
    pub(crate) fn error(&mut self, kind: &str, example: &str) {
        *self.errors.entry(kind.to_owned()).or_default() += 1;
        self.examples.entry(kind.to_owned()).or_insert_with(|| example.to_owned());
    }

    pub(crate) fn ended(&mut self, kind: &str) {
        *self.ended.entry(kind.to_owned()).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.operations += other.operations;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        for (kind, count) in other.ended {
            *self.ended.entry(kind).or_default() += count;
        }
        for (kind, example) in other.examples {
            self.examples.entry(kind).or_insert(example);
        }
        self.wrong_bytes += other.wrong_bytes;
        self.overrun_ms = self.overrun_ms.max(other.overrun_ms);
    }

    /// How many failed.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// The innermost variant that an error's `Debug` names: `PeerGone` of `Transport(PeerGone { name: .. })`.
pub(crate) fn kind(debug: &str) -> String {
    let end = debug.find(|c: char| !c.is_ascii_alphanumeric() && c != '(').unwrap_or(debug.len());
    let path = debug[..end].trim_end_matches('(');
    path.rsplit('(').next().unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_the_innermost_variants() {
        for (debug, expected) in [
            ("Transport(PeerGone { name: \"x(y)\" })", "PeerGone"),
            ("Operation(Transport(Stale))", "Stale"),
            ("Operation(TimedOut { after: 1s })", "TimedOut"),
            ("Declined", "Declined"),
            ("BadName { name: \"\" }", "BadName"),
            ("Memory(\"x\")", "Memory"),
        ] {
            assert_eq!(kind(debug), expected, "{debug}");
        }
    }

    #[test]
    fn sums_keep_kinds_apart() {
        let mut sum = Tally { operations: 2, overrun_ms: 3, ..Tally::default() };
        sum.error("PeerBusy", "first");
        let mut other = Tally { operations: 3, wrong_bytes: 1, overrun_ms: 2, ..Tally::default() };
        other.error("PeerBusy", "second");
        other.error("PeerGone", "third");
        other.ended("TimedOut");
        sum.add(other);
        assert_eq!((sum.operations, sum.failed(), sum.wrong_bytes, sum.overrun_ms), (5, 3, 1, 3));
        assert_eq!((sum.errors["PeerBusy"], sum.ended["TimedOut"]), (2, 1));
        assert_eq!(sum.examples["PeerBusy"], "first");
    }
}

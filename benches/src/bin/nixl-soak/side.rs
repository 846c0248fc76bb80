//! One of the processes whose resources are watched.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::growth::{Allowance, Growth, Pace};
use crate::messages::State;
use crate::process::Node;
use crate::sample::{Metric, Sample};
use crate::tally::Tally;

/// The most by which an operation may miss its deadline on a busy machine.
const LATEST_MS: u64 = 5000;

/// What is known of it so far.
#[derive(Debug)]
pub(crate) struct Side {
    role: &'static str,
    /// Operations that it began.
    began: Tally,
    state: State,
    series: Vec<(u64, Sample)>,
}

/// What became of it, for the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SideReport {
    pub(crate) role: &'static str,
    #[serde(flatten)]
    pub(crate) tally: Tally,
    pub(crate) leaked_bytes: u64,
    /// Operations until then, and what was held then.
    pub(crate) series: Vec<(u64, Sample)>,
    /// Missing where there are too few samples.
    pub(crate) growth: BTreeMap<Metric, Growth>,
    #[serde(skip)]
    least_operations: u64,
}

impl Side {
    pub(crate) fn new(role: &'static str) -> Self {
        Self { role, began: Tally::default(), state: State::default(), series: Vec::new() }
    }

    pub(crate) fn role(&self) -> &'static str {
        self.role
    }

    /// Adds operations that it began.
    pub(crate) fn add(&mut self, tally: Tally) {
        self.began.add(tally);
    }

    /// Looks at it; false while operations or memory are held for peers.
    pub(crate) fn look(&mut self, node: &mut Node) -> Result<bool> {
        self.state = node.state()?;
        Ok(self.state.busy == 0 && self.state.held_bytes == 0)
    }

    /// What is still held, in words.
    pub(crate) fn holds(&self) -> String {
        let State { busy, held_bytes, .. } = self.state;
        format!("{busy} operations have not ended, {held_bytes} bytes are held")
    }

    /// What it holds now.
    pub(crate) fn sample(&self, node: &Node) -> Result<Sample> {
        let State { peers, imports, pool_slabs, pool_mappings, pool_bytes, .. } = self.state;
        let sample = Sample::of(node.pid(), peers)?;
        Ok(sample.with_pool(pool_slabs, pool_mappings, pool_bytes).with_imports(imports))
    }

    /// Adds a sample to its series.
    pub(crate) fn note(&mut self, sample: Sample) {
        self.series.push((self.began.operations + self.state.served.operations, sample));
    }

    pub(crate) fn report(&self, pace: Pace) -> SideReport {
        let mut tally = self.began.clone();
        tally.add(self.state.served.clone());
        let growth = Metric::ALL.into_iter().filter_map(|metric| {
            let series: Vec<_> =
                self.series.iter().map(|(done, sample)| (*done, sample.get(metric))).collect();
            Some((metric, Growth::of(&series, Allowance::of(metric, pace))?))
        });
        SideReport {
            role: self.role,
            tally,
            leaked_bytes: self.state.leaked_bytes,
            series: self.series.clone(),
            growth: growth.collect(),
            least_operations: pace.least_operations(),
        }
    }
}

impl SideReport {
    /// The metrics that grow.
    pub(crate) fn growths(&self) -> Vec<String> {
        let grown = self.growth.iter().filter(|(_, growth)| growth.grows);
        let words = grown.map(|(metric, growth)| {
            let Growth { before, after, per_thousand, .. } = growth;
            let (name, unit) = (metric.name(), metric.unit());
            format!(
                "{}: {name} grow from {} to {}: {:.1} per 1,000 operations",
                self.role,
                before / unit,
                after / unit,
                per_thousand / unit as f64
            )
        });
        words.collect()
    }

    /// Everything else that is wrong with it.
    pub(crate) fn failures(&self) -> Vec<String> {
        let role = self.role;
        let mut failures = Vec::new();
        for (kind, count) in &self.tally.errors {
            let example = self.tally.examples.get(kind).map_or("", String::as_str);
            failures.push(format!("{role}: {count} x {kind}: {example}"));
        }
        if self.tally.wrong_bytes > 0 {
            failures.push(format!("{role}: {} wrong bytes", self.tally.wrong_bytes));
        }
        if self.tally.overrun_ms > LATEST_MS {
            let late = self.tally.overrun_ms;
            failures.push(format!("{role}: an operation ended {late} ms after its deadline"));
        }
        if self.leaked_bytes > 0 {
            failures.push(format!("{role}: {} bytes were leaked on purpose", self.leaked_bytes));
        }
        if self.growth.is_empty() {
            failures
                .push(format!("{role}: {} samples are too few to judge growth", self.series.len()));
        }
        let (operations, least) = (self.tally.operations, self.least_operations);
        if operations < least {
            failures.push(format!("{role}: {operations} operations, of at least {least}"));
        }
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(files: impl Fn(u64) -> u64) -> Side {
        let mut side = Side::new("reader");
        for sample in 0..16 {
            side.add(Tally { operations: 100, ..Tally::default() });
            side.note(Sample::with_files(files(sample)));
        }
        side
    }

    #[test]
    fn what_is_flat_and_right_has_no_failures() {
        let report = side(|_| 40).report(Pace::Operations);
        assert_eq!((report.failures(), report.growths()), (Vec::new(), Vec::new()));
        assert_eq!((report.tally.operations, report.series.len()), (1600, 16));
    }

    #[test]
    fn each_failure_is_named() {
        let mut side = side(|sample| 40 + 2 * sample);
        let mut tally = Tally { wrong_bytes: 3, overrun_ms: 6000, ..Tally::default() };
        tally.error("PeerBusy", "the peer is busy");
        tally.ended("PeerGone");
        side.add(tally);
        side.state.leaked_bytes = 9;
        let report = side.report(Pace::Operations);
        let failures = report.failures();
        let expected = ["1 x PeerBusy: the peer is busy", "3 wrong", "6000 ms", "9 bytes"];
        assert_eq!(failures.len(), expected.len(), "{failures:?}");
        for (failure, word) in failures.iter().zip(expected) {
            assert!(failure.contains(word), "{failure}");
        }
        let growths = report.growths();
        assert!(growths.len() == 1 && growths[0].contains("files grow"), "{growths:?}");
    }

    #[test]
    fn nothing_seen_is_a_failure() {
        let failures = Side::new("owner").report(Pace::Events).failures();
        assert_eq!(failures.len(), 2, "{failures:?}");
    }
}

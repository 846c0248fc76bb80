//! Counts tests over all test programs of a run.

use std::collections::{BTreeMap, BTreeSet};

/// What `cargo test` printed and what the tests logged, added up.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// By reason the names of tests that ended early for want of something.
    skipped: BTreeMap<String, BTreeSet<String>>,
}

impl Tally {
    /// Takes note of a line if it is a test program's summary:
    /// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`.
    pub(crate) fn add_output(&mut self, line: &str) {
        let Some((_, counts)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let number: u64 = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// Takes note of a test program that ended before its summary.
    pub(crate) fn add_crash(&mut self) {
        self.failed += 1;
    }

    /// Takes note of the log that tests append to: lines `SKIPPED(reason): name`.
    pub(crate) fn add_skips(&mut self, log: &str) {
        for line in log.lines() {
            if let Some((reason, name)) =
                line.strip_prefix("SKIPPED(").and_then(|rest| rest.split_once("): "))
            {
                self.skipped.entry(reason.to_owned()).or_default().insert(name.to_owned());
            }
        }
    }

    /// For people: nothing where no test was skipped, else how many and which, by reason.
    pub(crate) fn skips(&self) -> Option<String> {
        let mut parts: Vec<String> = self
            .skipped
            .iter()
            .map(|(reason, names)| format!("{} for want of {reason}", names.len()))
            .collect();
        if self.ignored > 0 {
            parts.push(format!("{} ignored", self.ignored));
        }
        if parts.is_empty() {
            return None;
        }
        let mut text = format!("skipped: {} ({})", self.skipped_count(), parts.join(", "));
        for (reason, names) in &self.skipped {
            for name in names {
                text.push_str(&format!("\n  {name}: for want of {reason}"));
            }
        }
        Some(text)
    }

    /// For scripts: `P passed, F failed, S skipped`. A test that ended early counts as skipped only.
    pub(crate) fn total(&self) -> String {
        let early = self.skipped_count() - self.ignored;
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed.saturating_sub(early),
            self.failed,
            self.skipped_count(),
        )
    }

    fn skipped_count(&self) -> u64 {
        let early: usize = self.skipped.values().map(BTreeSet::len).sum();
        self.ignored + early as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str, log: &str) -> Tally {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.add_output(line));
        tally.add_skips(log);
        tally
    }

    #[test]
    fn sums_over_programs() {
        let tally = tally(
            "running 3 tests\n\
             test a ... ok\n\
             test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             \n\
             test result: FAILED. 10 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 1.20s\n",
            "",
        );
        assert_eq!(tally.total(), "13 passed, 2 failed, 1 skipped");
        assert_eq!(tally.skips().as_deref(), Some("skipped: 1 (1 ignored)"));
    }

    #[test]
    fn a_test_that_ended_early_is_not_passed() {
        let tally = tally(
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "SKIPPED(a GPU): cuda::copy\n\
             SKIPPED(an RDMA NIC): rdma::read\n\
             SKIPPED(a GPU): cuda::ipc\n\
             SKIPPED(a GPU): cuda::copy\n",
        );
        assert_eq!(tally.total(), "2 passed, 0 failed, 3 skipped");
        assert_eq!(
            tally.skips().as_deref(),
            Some(
                "skipped: 3 (2 for want of a GPU, 1 for want of an RDMA NIC)\n  \
                 cuda::copy: for want of a GPU\n  cuda::ipc: for want of a GPU\n  rdma::read: for want of an RDMA NIC"
            )
        );
    }

    #[test]
    fn other_lines_do_not_count() {
        let tally = tally(
            "test result\n test result: ok. 9 passed; 0 failed\ntest result: ok\n5 passed; 1 failed\n",
            "skipped for fun\nSKIPPED(no end\n",
        );
        assert_eq!(tally, Tally::default());
        assert_eq!(tally.skips(), None);
        assert_eq!(tally.total(), "0 passed, 0 failed, 0 skipped");
    }
}

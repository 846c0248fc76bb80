//! Waits until the processes that live on hold no more than before.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::growth::{Allowance, Pace};
use crate::holdings::Holdings;
use crate::process::Node;
use crate::sample::{Metric, Sample};
use crate::side::Side;

/// How long to wait between looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until nothing is in flight and no memory is held for peers, then takes a sample of each. Says what is left if that
/// takes too long.
pub(crate) fn quiet(
    pairs: &mut [(&mut Side, &mut Node)],
    within: Duration,
) -> Result<Option<String>> {
    let begun = Instant::now();
    let left = loop {
        let mut left = None;
        for (side, node) in &mut *pairs {
            if !side.look(node)? {
                left = Some(format!("{}: {} after {within:?}", side.role(), side.holds()));
            }
        }
        if left.is_none() || begun.elapsed() > within {
            break left;
        }
        thread::sleep(PAUSE);
    };
    for (side, node) in pairs {
        let sample = side.sample(node)?;
        side.note(sample);
    }
    Ok(left)
}

/// What a process held after the first ends of peers: later ones must not leave more.
#[derive(Debug, Default)]
pub(crate) struct Baseline {
    sample: Sample,
    holdings: Holdings,
    ends: usize,
    /// The longest that it took to come back to it.
    pub(crate) slowest: Duration,
}

impl Baseline {
    /// The ends that make up the baseline.
    const WARM_UP: usize = 3;
    /// Memory and anonymous mappings are judged by their series alone: an allocator gives them back when it likes.
    const METRICS: [Metric; 6] = [
        Metric::Files,
        Metric::Threads,
        Metric::Mappings,
        Metric::Sockets,
        Metric::Imports,
        Metric::Peers,
    ];

    /// Waits until the process is quiet, and back at the baseline. Says what is left otherwise.
    pub(crate) fn back(
        &mut self,
        side: &mut Side,
        node: &mut Node,
        within: Duration,
    ) -> Result<Option<String>> {
        let begun = Instant::now();
        loop {
            let is_quiet = side.look(node)?;
            let sample = side.sample(node)?;
            let left = match (is_quiet, self.excess(&sample)) {
                (false, _) => side.holds(),
                (true, Some(excess)) => excess,
                (true, None) => {
                    self.ends += 1;
                    if self.ends <= Self::WARM_UP {
                        self.sample = self.sample.max(sample);
                        self.holdings = Holdings::of(node.pid())?;
                    }
                    self.slowest = self.slowest.max(begun.elapsed());
                    side.note(sample);
                    return Ok(None);
                }
            };
            if begun.elapsed() > within {
                side.note(sample);
                let more = Holdings::of(node.pid())?.beyond(&self.holdings);
                return Ok(Some(format!(
                    "{}: {left} {within:?} after its peer's end; more than before: {more}",
                    side.role()
                )));
            }
            thread::sleep(PAUSE);
        }
    }

    /// What there is more of than there may be.
    fn excess(&self, sample: &Sample) -> Option<String> {
        if self.ends < Self::WARM_UP {
            return None;
        }
        Self::METRICS.into_iter().find_map(|metric| {
            let (before, now) = (self.sample.get(metric), sample.get(metric));
            let most = Allowance::of(metric, Pace::Events).most(before);
            (now > most).then(|| format!("{now} {} where there were {before}", metric.name()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ends_are_the_baseline_of_the_others() {
        let mut baseline = Baseline { sample: Sample::with_files(50), ..Baseline::default() };
        assert_eq!(baseline.excess(&Sample::with_files(500)), None);
        baseline.ends = Baseline::WARM_UP;
        assert_eq!(baseline.excess(&Sample::with_files(53)), None);
        let excess = baseline.excess(&Sample::with_files(54)).unwrap();
        assert_eq!(excess, "54 files where there were 50");
    }
}

//! Ratios of two builds, from the reports of several runs of each.
//!
//! Runs of two builds in turns share the noise of the machine. The ratio is that of the medians of the runs' medians; its interval is the
//! percentile bootstrap over runs.

use anyhow::{Context as _, Result, ensure};
use comfy_table::Table;

use crate::compare::name;
use crate::report::{Report, Row};
use crate::table::{aligned, duration};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 10_000;
/// The seed of the resamples: the same reports give the same interval.
const SEED: u64 = 1;

/// The ratio of a case.
#[derive(Clone, Debug, PartialEq)]
struct Ratio {
    name: String,
    engine: String,
    before: u64,
    after: u64,
    ratio: f64,
    /// 95 % of the resamples.
    interval: (f64, f64),
}

/// The table of all cases that every report has.
pub(crate) fn table(before: &[Report], after: &[Report]) -> Result<Table> {
    ensure!(before.len() > 1 && after.len() > 1, "give at least two reports of each build");
    let first = after.first().context("no report")?;
    let mut random = fastrand::Rng::with_seed(SEED);
    let lines = first.rows.iter().filter_map(|row| {
        let before = medians(before, row)?;
        let after = medians(after, row)?;
        let Ratio { name, engine, before, after, ratio, interval: (low, high) } =
            of(row, (&before, &after), &mut random);
        let interval = format!("x{ratio:.2} ({low:.2} to {high:.2})");
        Some(vec![name, engine, duration(before), duration(after), interval])
    });
    Ok(aligned(
        &["median of medians", "engine", "before", "after", "ratio (95 %)"],
        lines.collect(),
    ))
}

/// The case's median in each report; none if one lacks the case.
fn medians(reports: &[Report], row: &Row) -> Option<Vec<u64>> {
    let of = |report: &Report| {
        let same = |other: &&Row| other.engine == row.engine && other.is_beside(row);
        report.rows.iter().find(same).map(|row| row.p50_ns)
    };
    reports.iter().map(of).collect()
}

fn of(row: &Row, (before, after): (&[u64], &[u64]), random: &mut fastrand::Rng) -> Ratio {
    let ratio = |before: u64, after: u64| after as f64 / before.max(1) as f64;
    let mut resampled: Vec<_> = (0..RESAMPLES)
        .map(|_| ratio(resampled_median(before, random), resampled_median(after, random)))
        .collect();
    resampled.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| resampled[(share * (RESAMPLES - 1) as f64).round() as usize];
    let (median_before, median_after) = (median(before.to_vec()), median(after.to_vec()));
    Ratio {
        name: name(row),
        engine: row.engine.clone(),
        before: median_before,
        after: median_after,
        ratio: ratio(median_before, median_after),
        interval: (at(0.025), at(0.975)),
    }
}

fn resampled_median(values: &[u64], random: &mut fastrand::Rng) -> u64 {
    median((0..values.len()).map(|_| values[random.usize(..values.len())]).collect())
}

/// The lower one of an even number.
fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[(values.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Engine;
    use crate::report::tests::{report, row};

    fn reports(medians: &[u64]) -> Vec<Report> {
        let of = |median| report(vec![row("read", Engine::Connector, median)], Vec::new());
        medians.iter().copied().map(of).collect()
    }

    fn ratio(before: &[u64], after: &[u64]) -> Ratio {
        let mut random = fastrand::Rng::with_seed(SEED);
        of(&row("read", Engine::Connector, 0), (before, after), &mut random)
    }

    #[test]
    fn the_interval_holds_the_ratio_and_narrows_with_the_noise() {
        let quiet = ratio(&[100, 101, 99, 100, 102], &[120, 121, 119, 120, 122]);
        assert!((quiet.ratio - 1.2).abs() < 1e-9);
        assert!(quiet.interval.0 > 1.1 && quiet.interval.1 < 1.3, "{quiet:?}");
        let noisy = ratio(&[60, 101, 99, 100, 180], &[120, 70, 119, 200, 122]);
        let width = |ratio: &Ratio| ratio.interval.1 - ratio.interval.0;
        assert!(width(&noisy) > 2.0 * width(&quiet));
        assert!(noisy.interval.0 <= noisy.ratio && noisy.ratio <= noisy.interval.1);
    }

    #[test]
    fn equal_runs_have_the_ratio_one() {
        let same = ratio(&[7; 5], &[7; 5]);
        assert_eq!((same.ratio, same.interval), (1.0, (1.0, 1.0)));
    }

    #[test]
    fn cases_that_a_report_lacks_are_left_out() {
        let mut after = reports(&[10, 10]);
        after[0].rows.push(row("write", Engine::Connector, 5));
        let table = table(&reports(&[20, 20]), &after).unwrap().to_string();
        assert!(table.contains("x0.50 (0.50 to 0.50)") && !table.contains("write"), "{table}");
        assert!(super::table(&reports(&[1]), &reports(&[1, 2])).is_err());
    }
}

//! The suite's part of the report.

use super::SUITE;
use crate::report::{Report, Row};
use crate::table::{duration, shape};

pub(crate) const HEADINGS: [&str; 11] =
    ["case", "memory", "file", "size", "engine", "path", "p50", "p99", "GB/s", "1000/s", "CPU"];

/// A line for each engine of each case.
pub(crate) fn lines(report: &Report) -> Vec<Vec<String>> {
    report.rows.iter().filter(|row| row.suite == SUITE).map(cells).collect()
}

fn cells(row: &Row) -> Vec<String> {
    // Blocks in a millisecond are thousands in a second.
    let rate = row.batch as f64 * 1e6 / row.p50_ns.max(1) as f64;
    vec![
        row.case.clone(),
        row.local.clone(),
        row.remote.clone(),
        shape(row),
        row.engine.clone(),
        row.path.clone(),
        duration(row.p50_ns),
        duration(row.p99_ns),
        row.gbps.map_or_else(String::new, |gbps| format!("{gbps:.2}")),
        row.gbps.map_or_else(String::new, |_| format!("{rate:.1}")),
        row.cpu_ns.map_or_else(String::new, duration),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Engine as HostEngine;
    use crate::report::tests::{report, row};

    #[test]
    fn every_engine_has_a_line_with_its_processor_time() {
        let of = |engine: &str| {
            Row { engine: engine.to_owned(), ..row("read-blocks-64", HostEngine::Connector, 1000) }
                .between(SUITE, "per-layer", "disk")
                .using(300)
        };
        let lines = lines(&report(vec![of("executor"), of("io_uring-16")], vec![]));
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1][1..5], ["per-layer", "disk", "4KiB", "io_uring-16"]);
        assert_eq!(lines[1][8..], ["4.10", "1000.0", "300 ns"]);
    }
}

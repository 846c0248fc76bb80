//! The suite's part of the report.

use super::SUITE;
use super::engine::Engine;
use crate::report::{Report, Row};
use crate::table::{duration, ratio, shape};

pub(crate) const HEADINGS: [&str; 12] = [
    "case",
    "size",
    "engine",
    "path",
    "p50",
    "p99",
    "GB/s",
    "one-shot p50",
    "ratio",
    "baseline",
    "p50",
    "ratio",
];

/// A line for each engine that is not compared with.
pub(crate) fn lines(report: &Report) -> Vec<Vec<String>> {
    let rows: Vec<_> = report.rows.iter().filter(|row| row.suite == SUITE).collect();
    let compared = |row: &&&Row| {
        let engines = [Engine::OneShot, Engine::OneShotMapped, Engine::NixlSys, Engine::Memcpy];
        engines.iter().all(|engine| row.engine != engine.name())
    };
    rows.iter().filter(compared).map(|row| cells(row, &rows)).collect()
}

fn cells(row: &Row, rows: &[&Row]) -> Vec<String> {
    let engines = [Engine::Ticket, Engine::TicketWordsMapped, Engine::TicketMapped];
    let beside = engines.iter().find(|engine| engine.name() == row.engine);
    let beside = beside.and_then(|engine| engine.beside());
    let of = |engine: Engine| {
        let found = rows.iter().find(|other| other.engine == engine.name() && other.is_beside(row));
        found.map(|found| found.p50_ns)
    };
    let one_shot = beside.and_then(|(one_shot, _)| of(one_shot));
    let baseline = beside.and_then(|(_, below)| Some((below.name(), of(below)?)));
    let median = |median: Option<u64>| median.map_or_else(String::new, duration);
    let share =
        |other: Option<u64>| other.and_then(|other| ratio(row.p50_ns, other)).unwrap_or_default();
    vec![
        row.case.clone(),
        shape(row),
        row.engine.clone(),
        row.path.clone(),
        duration(row.p50_ns),
        duration(row.p99_ns),
        row.gbps.map_or_else(String::new, |gbps| format!("{gbps:.2}")),
        median(one_shot),
        share(one_shot),
        baseline.map_or_else(String::new, |(name, _)| name.to_owned()),
        median(baseline.map(|(_, median)| median)),
        share(baseline.map(|(_, median)| median)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Engine as HostEngine;
    use crate::report::tests::{report, row};

    #[test]
    fn tickets_stand_beside_what_they_are_compared_with() {
        let of = |engine: Engine, p50| {
            Row { engine: engine.name().to_owned(), ..row("blocks-1", HostEngine::Connector, p50) }
                .between(SUITE, "contiguous", "per-layer")
        };
        let rows = vec![
            of(Engine::Ticket, 1000),
            of(Engine::TicketMapped, 300),
            of(Engine::NixlSys, 500),
            of(Engine::OneShot, 2000),
            of(Engine::Memcpy, 200),
        ];
        let lines = lines(&report(rows, vec![]));
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0][7..], ["2.00 us", "0.50", "nixl-sys", "500 ns", "2.00"]);
        assert_eq!(lines[1][7..], ["", "", "memcpy", "200 ns", "1.50"]);
    }
}

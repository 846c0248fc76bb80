//! The suite's part of the report.

use super::engine::Engine;
use super::{Refusal, SUITE};
use crate::report::{Report, Row};
use crate::table::{duration, ratio, shape};

pub(crate) const HEADINGS: [&str; 12] = [
    "case",
    "memories",
    "size",
    "engine",
    "path",
    "p50",
    "p99",
    "GB/s",
    "nixl-sys p50",
    "GB/s",
    "time ratio",
    "of the driver's copy",
];

/// A line for each engine but plain nixl-sys and the driver, which stand beside them.
pub(crate) fn lines(report: &Report) -> Vec<Vec<String>> {
    let rows: Vec<_> = report.rows.iter().filter(|row| row.suite == SUITE).collect();
    let [plain, driver] = [Engine::Plain, Engine::Driver].map(|engine| engine.to_string());
    let beside = |row: &Row, engine: &str| {
        rows.iter().copied().find(|r| r.engine == engine && r.is_beside(row))
    };
    let ours = rows.iter().filter(|row| row.engine != plain && row.engine != driver);
    ours.map(|row| cells(row, beside(row, &plain), beside(row, &driver))).collect()
}

fn cells(row: &Row, plain: Option<&Row>, driver: Option<&Row>) -> Vec<String> {
    let throughput = |row: &Row| row.gbps.map_or_else(String::new, |gbps| format!("{gbps:.2}"));
    vec![
        row.case.clone(),
        row.memories(),
        shape(row),
        row.engine.clone(),
        row.path.clone(),
        duration(row.p50_ns),
        duration(row.p99_ns),
        throughput(row),
        plain.map_or_else(String::new, |plain| duration(plain.p50_ns)),
        plain.map_or_else(String::new, throughput),
        plain.and_then(|plain| ratio(row.p50_ns, plain.p50_ns)).unwrap_or_default(),
        // Of the rate, which is the inverse of the time's.
        driver.and_then(|driver| ratio(driver.p50_ns, row.p50_ns)).unwrap_or_default(),
    ]
}

/// A line for each pair of memories and path that was refused.
pub(crate) fn refusals(report: &Report) -> Vec<String> {
    let line = |refusal: &Refusal| {
        let instead = refusal.instead.as_deref().map(|path| format!(" (instead: {path})"));
        let Refusal { from, to, path, reason, .. } = refusal;
        format!("{from} -> {to} not by {path}: {reason}{}", instead.unwrap_or_default())
    };
    report.refusals.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use nixl_executor::{PathKind, Rejected};

    use super::*;
    use crate::messages::Engine as HostEngine;
    use crate::remote::case::Flow;
    use crate::remote::memory::Memory;
    use crate::report::tests::{report, row};

    fn measured(case: &str, engine: Engine, p50: u64) -> Row {
        Row { engine: engine.to_string(), ..row(case, HostEngine::Connector, p50) }
            .between(SUITE, Memory::Gpu(1), Memory::Host)
            .over("nixl/UCX", "direct")
    }

    #[test]
    fn a_line_for_each_engine_with_the_plain_one_beside() {
        let forced = Engine::Forced(PathKind::Direct);
        let rows = vec![
            measured("read", Engine::Auto, 1000),
            measured("read", forced, 3000),
            measured("read", Engine::Plain, 2000),
            measured("read", Engine::Driver, 900),
            measured("write", Engine::Auto, 1000),
        ];
        let lines = lines(&report(rows, vec![]));
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0][..4], ["read", "host -> cuda:1", "4KiB", "nixl-connector"]);
        assert_eq!(lines[0][4..6], ["direct", "1.00 us"]);
        assert_eq!((lines[0][10].as_str(), lines[0][11].as_str()), ("0.50", "0.90"));
        assert_eq!(lines[1][11], "0.30");
        assert_eq!(
            (lines[1][3].as_str(), lines[1][10].as_str()),
            ("nixl-connector/direct", "1.50")
        );
        let last = &lines[2];
        assert_eq!([&*last[1], &*last[10], &*last[11]], ["cuda:1 -> host", "", ""]);
    }

    #[test]
    fn refusals_name_memories_path_and_reason() {
        let flow = Flow::new(Memory::Gpu(0), Memory::Gpu(1));
        let kind = PathKind::GpuDirect;
        let mut refusal = Refusal::new(flow, kind, &[Rejected::new(kind, "no NIC")], 9);
        refusal.instead = Some("cuda-ipc".to_owned());
        let mut report = report(vec![], vec![]);
        report.refusals.push(refusal);
        assert_eq!(
            refusals(&report),
            ["cuda:0 -> cuda:1 not by gpu-direct: no NIC (instead: cuda-ipc)"]
        );
    }
}

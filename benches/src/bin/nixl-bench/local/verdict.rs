//! Bounds for H200s, beside the measured times.

use nixl_executor::MemoryKind::{self, Gpu, Pageable, Pinned};

use super::in_flight::gauge_name;
use super::{Engine, SUITE};
use crate::report::{Report, Row};
use crate::table::duration;
use crate::verdict::{Figure, line};

/// Memory may grow by so much for reasons of the allocator's.
const GROWTH_KIB: f64 = 1024.0;

/// One line for each promise. Empty if nothing of this suite was measured.
pub(crate) fn verdicts(report: &Report) -> Vec<String> {
    if !report.rows.iter().any(|row| row.suite == SUITE) {
        return Vec::new();
    }
    let r = report;
    let (gpu, peer) = (Gpu(0), Gpu(1));
    let promises = [
        (
            "1. one block of 5 MiB",
            vec![
                r.within("blocks-1", Pinned, gpu, 120_000),
                r.within("blocks-1", gpu, Pinned, 120_000),
                r.within("blocks-1", gpu, gpu, 25_000),
            ],
        ),
        (
            "2. per-layer to contiguous, 16 blocks, 64 of 64 tokens",
            vec![
                r.at_least("blocks-16-per-layer-to-contiguous", Pinned, gpu, 51.0),
                r.at_least("blocks-16-per-layer-to-contiguous", gpu, Pinned, 51.0),
                r.at_least("blocks-64-of-64-tokens-per-layer-to-contiguous", gpu, gpu, 1200.0),
            ],
        ),
        (
            "3. scattered 4 KiB, 64 MiB in all",
            vec![
                r.at_least("scattered-4KiB", gpu, Pinned, 50.0),
                r.at_least("scattered-4KiB", Pinned, gpu, 50.0),
                r.at_least("scattered-4KiB", gpu, gpu, 1200.0),
            ],
        ),
        (
            "4. between GPUs, 64 MiB and 4 KiB",
            vec![
                r.at_least("contiguous-64MiB", gpu, peer, 370.0),
                r.within("contiguous-4KiB", gpu, peer, 12_000),
            ],
        ),
        (
            "4. pageable memory, against cuMemcpyAsync",
            ["pageable-64MiB", "pageable-256MiB"]
                .into_iter()
                .flat_map(|case| [(case, Pageable, gpu), (case, gpu, Pageable)])
                .map(|(case, src, dst)| r.times_faster(case, src, dst, 3.0))
                .collect(),
        ),
        (
            "5. 10,000 transfers of 64 KiB, 256 in flight",
            [(Pinned, gpu), (gpu, Pinned), (gpu, gpu), (gpu, peer), (Pageable, Pageable)]
                .into_iter()
                .filter_map(|(src, dst)| r.steady(src, dst))
                .collect(),
        ),
    ];
    promises.into_iter().map(|(what, figures)| line(what, figures)).collect()
}

impl Report {
    fn local(&self, engine: Engine, case: &str, src: MemoryKind, dst: MemoryKind) -> Option<&Row> {
        let (src, dst) = (src.to_string(), dst.to_string());
        self.rows.iter().find(|row| {
            (row.suite.as_str(), row.case.as_str(), row.engine.as_str())
                == (SUITE, case, engine.name())
                && (&row.local, &row.remote) == (&src, &dst)
        })
    }

    fn within(&self, case: &str, src: MemoryKind, dst: MemoryKind, limit: u64) -> Figure {
        let measured = self.local(Engine::Executor, case, src, dst).map(|row| row.p50_ns);
        let value = measured.map_or_else(|| "none".to_owned(), duration);
        let text = format!("{src}->{dst} {value} (at most {})", duration(limit));
        Figure { text, passes: measured.map(|p50| p50 <= limit) }
    }

    fn at_least(&self, case: &str, src: MemoryKind, dst: MemoryKind, limit: f64) -> Figure {
        let measured = self.local(Engine::Executor, case, src, dst).and_then(|row| row.gbps);
        let value = measured.map_or_else(|| "none".to_owned(), |gbps| format!("{gbps:.1} GB/s"));
        let text = format!("{src}->{dst} {value} (at least {limit:.0} GB/s)");
        Figure { text, passes: measured.map(|gbps| gbps >= limit) }
    }

    fn times_faster(&self, case: &str, src: MemoryKind, dst: MemoryKind, limit: f64) -> Figure {
        let p50 = |engine| self.local(engine, case, src, dst).map(|row| row.p50_ns as f64);
        let measured =
            p50(Engine::CudaPageable).zip(p50(Engine::Executor)).map(|(plain, ours)| plain / ours);
        let value = measured.map_or_else(|| "none".to_owned(), |times| format!("{times:.2} times"));
        let text = format!("{case} {src}->{dst} {value} (at least {limit:.0} times)");
        Figure { text, passes: measured.map(|times| times >= limit) }
    }

    /// None if this direction was not measured.
    fn steady(&self, src: MemoryKind, dst: MemoryKind) -> Option<Figure> {
        let gauge = |what| {
            let name = gauge_name(what, src, dst);
            self.gauges.iter().find(|gauge| gauge.name == name).map(|gauge| gauge.value)
        };
        let grown = gauge("rss_after")? - gauge("rss_before")?;
        let (rate, cpu) = (gauge("rate")?, gauge("cpu")?);
        let text = format!(
            "{src}->{dst} {rate:.0} transfers/s, {cpu:.2} CPU s/s, grown by {grown:.0} KiB (at most {GROWTH_KIB:.0} KiB)"
        );
        Some(Figure { text, passes: Some(grown <= GROWTH_KIB) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{report, row};

    fn measured(case: &str, engine: Engine, src: MemoryKind, dst: MemoryKind, p50: u64) -> Row {
        Row {
            engine: engine.name().to_owned(),
            ..row(case, crate::messages::Engine::Connector, p50)
        }
        .between(SUITE, src, dst)
    }

    #[test]
    fn each_promise_passes_fails_or_was_not_measured() {
        let one = |src, dst, p50| measured("blocks-1", Engine::Executor, src, dst, p50);
        let mut rows = vec![one(Pinned, Gpu(0), 120_000), one(Gpu(0), Pinned, 99_000)];
        let first = |rows: &[Row]| verdicts(&report(rows.to_vec(), vec![])).remove(0);
        assert!(first(&rows).starts_with("NOT MEASURED  1."), "{}", first(&rows));
        rows.push(one(Gpu(0), Gpu(0), 25_000));
        assert!(first(&rows).starts_with("PASS  1."), "{}", first(&rows));
        rows[1].p50_ns = 120_001;
        assert!(first(&rows).starts_with("FAIL  1."), "{}", first(&rows));
    }

    #[test]
    fn pageable_copies_are_measured_against_plain_ones() {
        let rows = ["pageable-64MiB", "pageable-256MiB"]
            .into_iter()
            .flat_map(|case| [(case, Pageable, Gpu(0)), (case, Gpu(0), Pageable)])
            .flat_map(|(case, src, dst)| {
                [(Engine::Executor, 100), (Engine::CudaPageable, 310)]
                    .map(|(engine, p50)| measured(case, engine, src, dst, p50))
            });
        let lines = verdicts(&report(rows.collect(), vec![]));
        assert!(lines[4].starts_with("PASS") && lines[4].contains("3.10 times"), "{}", lines[4]);
    }

    #[test]
    fn a_report_without_the_suite_promises_nothing() {
        let rows = vec![row("read", crate::messages::Engine::Connector, 1)];
        assert!(verdicts(&report(rows, vec![])).is_empty());
    }
}

//! What this library promises on H200s, and what was measured.

use nixl_executor::MemoryKind::{self, Gpu, Pageable, Pinned};

use super::in_flight::gauge_name;
use super::{Engine, SUITE};
use crate::report::{Report, Row};
use crate::table::duration;

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
    promises
        .into_iter()
        .map(|(what, figures)| {
            let missing = figures.is_empty() || figures.iter().any(|f| f.passes.is_none());
            let fails = figures.iter().any(|f| f.passes == Some(false));
            let verdict = match (fails, missing) {
                (true, _) => "FAIL",
                (false, true) => "NOT MEASURED",
                (false, false) => "PASS",
            };
            let figures: Vec<_> = figures.into_iter().map(|figure| figure.text).collect();
            format!("{verdict}  {what}: {}", figures.join("; "))
        })
        .collect()
}

/// A measured value beside its limit.
struct Figure {
    text: String,
    /// None if it was not measured.
    passes: Option<bool>,
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

//! Bounds for files, beside the measured times.

use super::arrangement::Arrangement;
use super::case::{BLOCKS, MANY};
use super::place::Place;
use super::{SUITE, awaited, batch, beside, cancel};
use crate::report::{Report, Row};
use crate::table::duration;
use crate::verdict::{Figure, line};

/// One line for each promise. Empty if nothing of this suite was measured.
pub(crate) fn verdicts(report: &Report) -> Vec<String> {
    if !report.rows.iter().any(|row| row.suite == SUITE) {
        return Vec::new();
    }
    let found = Found(report);
    let mut lines = Vec::new();
    let (read, written) = (format!("read-{BLOCKS}"), format!("write-{BLOCKS}"));
    for (memory, cpu) in Arrangement::BOTH.into_iter().zip([15_000_000, 30_000_000]) {
        let on = |case: &str, place| found.throughput(case, memory.name(), place, 0.9);
        let figures = vec![
            on(&read, Place::Disk),
            on(&written, Place::Disk),
            found.cpu(&read, memory.name(), cpu),
        ];
        lines.push(line(&format!("1. 64 blocks of 5 MiB, {memory}, disk"), figures));
        let figures =
            vec![on(&read, Place::Cached), on(&read, Place::Tmpfs), on(&written, Place::Tmpfs)];
        lines.push(line(&format!("1. 64 blocks of 5 MiB, {memory}, in memory"), figures));
    }
    let mut figures =
        vec![found.throughput(&format!("read-{MANY}"), "contiguous", Place::Disk, 0.9)];
    figures.push(found.page_times(1.4));
    figures.extend([Place::Cached, Place::Tmpfs].map(|place| found.page_within(place, 5_000)));
    let blocks = format!("{read} contiguous disk");
    figures.push(found.gauge(&batch::held(&blocks), 100.0, "us"));
    figures.extend(Place::ALL.map(|place| found.gauge(&awaited::held(place), 100.0, "us")));
    figures.push(found.gauge(awaited::IDLE, 0.1, "% of a core"));
    lines.push(line("2. pages", figures));
    let figures = Arrangement::BOTH.map(|memory| found.threads(&read, memory.name())).into();
    lines.push(line("3. without io_uring", figures));
    let figures = vec![found.beside(1.5), found.writes(0.3)];
    lines.push(line("4. a block beside writes at full rate", figures));
    lines.push(line("5. the memory of a cancelled read", vec![found.cancelled(25_000_000)]));
    lines
}

/// A report, asked about this suite.
struct Found<'a>(&'a Report);

impl Found<'_> {
    fn rows(&self, case: &str, memory: &str, place: Place) -> impl Iterator<Item = &Row> {
        let key = (SUITE.to_owned(), case.to_owned(), memory.to_owned(), place.name().to_owned());
        self.0.rows.iter().filter(move |row| {
            (&row.suite, &row.case, &row.local, &row.remote) == (&key.0, &key.1, &key.2, &key.3)
        })
    }

    fn by(&self, case: &str, memory: &str, place: Place, engine: &str) -> Option<&Row> {
        self.rows(case, memory, place).find(|row| row.engine == engine)
    }

    /// Against the better of plain threads and plain io_uring.
    fn throughput(&self, case: &str, memory: &str, place: Place, limit: f64) -> Figure {
        let ours = self.by(case, memory, place, "executor").map(|row| row.p50_ns);
        let plain =
            |row: &&Row| row.engine.starts_with("threads") || row.engine.starts_with("io_uring");
        let best = self.rows(case, memory, place).filter(plain).min_by_key(|row| row.p50_ns);
        let share =
            ours.zip(best).map(|(ours, best)| (best.p50_ns as f64 / ours.max(1) as f64, best));
        let value = share.map_or_else(
            || "none".to_owned(),
            |(share, best)| format!("{share:.2} of {}", best.engine),
        );
        let text = format!("{case} {place} {value} (at least {limit:.2})");
        Figure { text, passes: share.map(|(share, _)| share >= limit) }
    }

    fn cpu(&self, case: &str, memory: &str, limit: u64) -> Figure {
        let cpu = self.by(case, memory, Place::Disk, "executor").and_then(|row| row.cpu_ns);
        let value = cpu.map_or_else(|| "none".to_owned(), duration);
        let text = format!("CPU of {case} {value} (at most {})", duration(limit));
        Figure { text, passes: cpu.map(|cpu| cpu <= limit) }
    }

    fn page_times(&self, limit: f64) -> Figure {
        let of = |engine| self.by(awaited::CASE, "contiguous", Place::Disk, engine);
        let times = of("executor").zip(of("threads-1"));
        let times = times.map(|(ours, plain)| ours.p50_ns as f64 / plain.p50_ns.max(1) as f64);
        let value = times.map_or_else(|| "none".to_owned(), |times| format!("x{times:.2}"));
        let text = format!("{} {value} of pread (at most x{limit:.1})", awaited::CASE);
        Figure { text, passes: times.map(|times| times <= limit) }
    }

    fn page_within(&self, place: Place, limit: u64) -> Figure {
        let p50 = self.by(awaited::CASE, "contiguous", place, "executor").map(|row| row.p50_ns);
        let value = p50.map_or_else(|| "none".to_owned(), duration);
        let text = format!("{} {place} {value} (at most {})", awaited::CASE, duration(limit));
        Figure { text, passes: p50.map(|p50| p50 <= limit) }
    }

    fn gauge(&self, name: &str, limit: f64, unit: &str) -> Figure {
        let value = self.0.gauges.iter().find(|gauge| gauge.name == name).map(|gauge| gauge.value);
        let text = value.map_or_else(|| "none".to_owned(), |value| format!("{value:.3} {unit}"));
        let text = format!("{name} {text} (at most {limit} {unit})");
        Figure { text, passes: value.map(|value| value <= limit) }
    }

    fn threads(&self, case: &str, memory: &str) -> Figure {
        let of = |engine| self.by(case, memory, Place::Disk, engine);
        let both = of("executor").zip(of("executor-threads"));
        let shares = both.and_then(|(ring, threads)| {
            let cpu = ring.cpu_ns.zip(threads.cpu_ns)?;
            let share = ring.p50_ns as f64 / threads.p50_ns.max(1) as f64;
            Some((share, cpu.1 as f64 / cpu.0.max(1) as f64))
        });
        let value = shares.map_or_else(
            || "none".to_owned(),
            |(share, cpu)| format!("{share:.2} of the throughput at x{cpu:.1} of the CPU"),
        );
        let text = format!("{case} {memory} {value} (at least 0.90, at most x3.0)");
        Figure { text, passes: shares.map(|(share, cpu)| share >= 0.9 && cpu <= 3.0) }
    }

    fn beside(&self, limit: f64) -> Figure {
        let p90 = |which: &str| {
            let case = format!("{}-{which}", beside::CASE);
            self.by(&case, "contiguous", Place::Disk, "executor").map(|row| row.p90_ns)
        };
        let times = p90(beside::BESIDE[0]).zip(p90(beside::BESIDE[1]));
        let times = times.map(|(alone, beside)| beside as f64 / alone.max(1) as f64);
        let value = times.map_or_else(|| "none".to_owned(), |times| format!("x{times:.2}"));
        let text = format!("p90 {value} of that alone (at most x{limit:.1})");
        Figure { text, passes: times.map(|times| times <= limit) }
    }

    fn writes(&self, limit: f64) -> Figure {
        let gauge = self.0.gauges.iter().find(|gauge| gauge.name == beside::WRITES);
        let value = gauge.map(|gauge| gauge.value);
        let text = value.map_or_else(|| "none".to_owned(), |value| format!("{value:.2} GB/s"));
        let text = format!("writes {text} (at least {limit:.1} GB/s)");
        Figure { text, passes: value.map(|value| value >= limit) }
    }

    fn cancelled(&self, limit: u64) -> Figure {
        let max =
            self.by(cancel::CASE, "contiguous", Place::Disk, "executor").map(|row| row.max_ns);
        let value = max.map_or_else(|| "none".to_owned(), duration);
        let text = format!("back after {value} at most (at most {})", duration(limit));
        Figure { text, passes: max.map(|max| max <= limit) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Engine as HostEngine;
    use crate::report::Gauge;
    use crate::report::tests::{report, row};

    fn measured(case: &str, memory: &str, place: Place, engine: &str, p50: u64, cpu: u64) -> Row {
        Row { engine: engine.to_owned(), ..row(case, HostEngine::Connector, p50) }
            .between(SUITE, memory, place)
            .using(cpu)
    }

    fn starting(report: &Report, number: &str) -> String {
        verdicts(report).into_iter().find(|line| line.contains(number)).unwrap_or_default()
    }

    #[test]
    fn blocks_are_held_to_the_better_baseline_and_to_processor_time() {
        let with = |ours: u64, cpu| {
            let mut rows = Vec::new();
            for case in ["read-blocks-64", "write-blocks-64"] {
                for (engine, p50) in [("executor", ours), ("threads-4", 1200), ("io_uring-16", 900)]
                {
                    rows.push(measured(case, "contiguous", Place::Disk, engine, p50, cpu));
                }
            }
            starting(&report(rows, vec![]), "contiguous, disk")
        };
        assert!(with(1000, 15_000_000).starts_with("PASS"), "{}", with(1000, 15_000_000));
        assert!(with(1001, 15_000_000).starts_with("FAIL"));
        assert!(with(1000, 15_000_001).starts_with("FAIL"));
    }

    #[test]
    fn threads_are_held_to_the_ring() {
        let with = |took, cpu| {
            let mut rows = Vec::new();
            for memory in ["contiguous", "per-layer"] {
                let of = |engine, p50, cpu| {
                    measured("read-blocks-64", memory, Place::Disk, engine, p50, cpu)
                };
                rows.extend([of("executor", 900, 10), of("executor-threads", took, cpu)]);
            }
            starting(&report(rows, vec![]), "  3.")
        };
        assert!(with(1000, 30).starts_with("PASS"), "{}", with(1000, 30));
        assert!(with(1001, 30).starts_with("FAIL") && with(1000, 31).starts_with("FAIL"));
    }

    #[test]
    fn reads_beside_writes_are_held_to_those_alone() {
        let with = |p90_ns, writes| {
            let of = |which: usize, p90_ns| {
                let case = format!("{}-{}", beside::CASE, beside::BESIDE[which]);
                Row { p90_ns, ..measured(&case, "contiguous", Place::Disk, "executor", 1, 1) }
            };
            let rows = vec![of(0, 100), of(1, p90_ns)];
            let gauges = vec![Gauge::new(beside::WRITES, writes, "GB/s")];
            starting(&report(rows, gauges), "  4.")
        };
        assert!(with(150, 0.3).starts_with("PASS"), "{}", with(150, 0.3));
        assert!(with(151, 0.3).starts_with("FAIL") && with(150, 0.29).starts_with("FAIL"));
    }

    #[test]
    fn a_report_without_the_suite_promises_nothing() {
        assert!(verdicts(&report(vec![row("read", HostEngine::Connector, 1)], vec![])).is_empty());
    }
}

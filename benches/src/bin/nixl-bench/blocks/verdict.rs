//! Bounds for blocks by tickets, beside the measured times.

use super::cache::{Arrangement, BLOCK_BYTES, LAYER_BYTES, SMALL_BYTES};
use super::engine::Engine;
use super::{SUITE, at_once, first, grants, processes, readers, reads, small};
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
    let mut figures = Vec::new();
    for into in Arrangement::BOTH {
        let case = reads::name(64, into);
        figures.push(found.times(&case, LAYER_BYTES, (Engine::Ticket, Engine::NixlSys), 1.15));
        // As fast as 0.9 of it.
        figures.push(found.times(
            &case,
            LAYER_BYTES,
            (Engine::TicketMapped, Engine::Memcpy),
            1.0 / 0.9,
        ));
        for engine in [Engine::Ticket, Engine::TicketMapped] {
            let name = format!("{case} by {engine}: {}", reads::HELD);
            figures.push(found.gauge(&name, 100.0, "us"));
        }
    }
    figures.push(found.gauge(grants::TICKET_BYTES, 300.0, "B"));
    lines.push(line("1. 64 blocks", figures));
    let figures = vec![
        found.times(small::CASE, SMALL_BYTES, (Engine::TicketMapped, Engine::OneShotMapped), 1.1),
        found.times(small::CASE, SMALL_BYTES, (Engine::Ticket, Engine::NixlSys), 1.3),
        found.times(at_once::CASE, SMALL_BYTES, (Engine::Ticket, Engine::TicketWordsMapped), 1.1),
    ];
    lines.push(line("2. a page, alone and 64 at once", figures));
    let mut figures = Vec::new();
    for engine in [Engine::Ticket, Engine::TicketMapped] {
        figures.push(found.first_page(engine, 50_000));
        figures.push(found.first_blocks(engine, 1.3));
    }
    lines.push(line("3. the first read after an import", figures));
    lines.push(line("4. among 10,000 grants", vec![found.grant_and_end(2_000), found.copy(1.2)]));
    let figures = readers::ENGINES.map(|engine| found.interactive(engine, 3.0)).into();
    lines.push(line("7. a page beside 64 readers of blocks", figures));
    let figures = readers::ENGINES.map(|engine| found.beside_processes(engine, 3.0)).into();
    lines.push(line("7. a page beside 64 processes that read blocks", figures));
    lines
}

/// A report, asked about this suite.
struct Found<'a>(&'a Report);

impl Found<'_> {
    fn p50(&self, case: &str, engine: &str, bytes: usize) -> Option<u64> {
        self.row(case, engine, bytes).map(|row| row.p50_ns)
    }

    fn row(&self, case: &str, engine: &str, bytes: usize) -> Option<&Row> {
        let is = |row: &&Row| {
            (row.suite.as_str(), row.case.as_str(), row.engine.as_str(), row.bytes)
                == (SUITE, case, engine, bytes)
        };
        self.0.rows.iter().find(is)
    }

    fn interactive(&self, engine: Engine, limit: f64) -> Figure {
        self.beside(&format!("{}-{}", readers::CASE, readers::BESIDE[1]), engine, limit)
    }

    fn beside_processes(&self, engine: Engine, limit: f64) -> Figure {
        self.beside(processes::CASE, engine, limit)
    }

    fn beside(&self, case: &str, engine: Engine, limit: f64) -> Figure {
        let p99 =
            |case: &str| self.row(case, engine.name(), SMALL_BYTES).map(|row| row.p99_ns as f64);
        let alone = p99(&format!("{}-{}", readers::CASE, readers::BESIDE[0]));
        let times = p99(case).zip(alone).map(|(beside, alone)| beside / alone.max(1.0));
        let value = times.map_or_else(|| "none".to_owned(), |times| format!("x{times:.2}"));
        let text = format!("p99 by {engine} {value} of that alone (at most x{limit:.1})");
        Figure { text, passes: times.map(|times| times <= limit) }
    }

    fn times(
        &self,
        case: &str,
        bytes: usize,
        (ours, theirs): (Engine, Engine),
        limit: f64,
    ) -> Figure {
        let p50 = |engine: Engine| self.p50(case, engine.name(), bytes).map(|p50| p50 as f64);
        let times = p50(ours).zip(p50(theirs)).map(|(ours, theirs)| ours / theirs.max(1.0));
        let value = times.map_or_else(|| "none".to_owned(), |times| format!("{times:.2}"));
        let text = format!("{case} {ours} {value} x {theirs} (at most {limit:.2})");
        Figure { text, passes: times.map(|times| times <= limit) }
    }

    fn gauge(&self, name: &str, limit: f64, unit: &str) -> Figure {
        let value = self.0.gauges.iter().find(|gauge| gauge.name == name).map(|gauge| gauge.value);
        let text = value.map_or_else(|| "none".to_owned(), |value| format!("{value:.1} {unit}"));
        let text = format!("{name} {text} (at most {limit:.0} {unit})");
        Figure { text, passes: value.map(|value| value <= limit) }
    }

    fn first_and_later(&self, engine: Engine, bytes: usize) -> Option<(u64, u64)> {
        let p50 = |which| self.p50(&format!("{}-{which}", first::CASE), engine.name(), bytes);
        p50(first::FIRST).zip(p50(first::LATER_ONES))
    }

    fn first_page(&self, engine: Engine, limit_ns: u64) -> Figure {
        let more = self.first_and_later(engine, SMALL_BYTES);
        let more = more.map(|(first, later)| first.saturating_sub(later));
        let value = more.map_or_else(|| "none".to_owned(), duration);
        let text = format!("4 KiB by {engine} +{value} (at most +{})", duration(limit_ns));
        Figure { text, passes: more.map(|more| more <= limit_ns) }
    }

    fn first_blocks(&self, engine: Engine, limit: f64) -> Figure {
        let both = self.first_and_later(engine, first::BLOCKS * BLOCK_BYTES);
        let times = both.map(|(first, later)| first as f64 / later.max(1) as f64);
        let value = times.map_or_else(|| "none".to_owned(), |times| format!("x{times:.2}"));
        let text = format!("64 blocks by {engine} {value} (at most x{limit:.1})");
        Figure { text, passes: times.map(|times| times <= limit) }
    }

    fn owner(&self, case: &str, beside: usize) -> Option<u64> {
        self.p50(&format!("{case}-{}", grants::BESIDE[beside]), grants::OWNER, 0)
    }

    fn grant_and_end(&self, limit_ns: u64) -> Figure {
        let took = self.owner(grants::GRANT_AND_END, 1);
        let value = took.map_or_else(|| "none".to_owned(), duration);
        let text = format!("grant and end {value} (at most {})", duration(limit_ns));
        Figure { text, passes: took.map(|took| took <= limit_ns) }
    }

    fn copy(&self, limit: f64) -> Figure {
        let both = self.owner(grants::COPY, 1).zip(self.owner(grants::COPY, 0));
        let times = both.map(|(many, none)| many as f64 / none.max(1) as f64);
        let value = times.map_or_else(|| "none".to_owned(), |times| format!("x{times:.2}"));
        let text = format!(
            "a copy of a block by the owner {value} of that among none (at most x{limit:.1})"
        );
        Figure { text, passes: times.map(|times| times <= limit) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Engine as HostEngine;
    use crate::report::Gauge;
    use crate::report::tests::{report, row};

    fn measured(case: &str, engine: &str, bytes: usize, p50: u64) -> Row {
        Row { engine: engine.to_owned(), ..row(case, HostEngine::Connector, p50) }
            .between(SUITE, "host", "host")
            .of(bytes)
    }

    fn starting(report: &Report, number: &str) -> String {
        verdicts(report).into_iter().find(|line| line.contains(number)).unwrap_or_default()
    }

    #[test]
    fn pages_are_held_to_their_baselines() {
        let with = |ticket| {
            let of = |case, engine: Engine, p50| measured(case, engine.name(), SMALL_BYTES, p50);
            let rows = vec![
                of(small::CASE, Engine::TicketMapped, 1100),
                of(small::CASE, Engine::OneShotMapped, 1000),
                of(small::CASE, Engine::Ticket, ticket),
                of(small::CASE, Engine::NixlSys, 1000),
                of(at_once::CASE, Engine::Ticket, 1050),
                of(at_once::CASE, Engine::TicketWordsMapped, 1000),
            ];
            starting(&report(rows, vec![]), "  2.")
        };
        assert!(with(1300).starts_with("PASS"), "{}", with(1300));
        assert!(with(1301).starts_with("FAIL"));
    }

    #[test]
    fn first_reads_are_held_to_later_ones() {
        let with = |page: u64, blocks: u64| {
            let mut rows = Vec::new();
            for engine in [Engine::Ticket, Engine::TicketMapped] {
                let mut of = |which: &str, bytes, p50| {
                    let case = format!("{}-{which}", first::CASE);
                    rows.push(measured(&case, engine.name(), bytes, p50));
                };
                of(first::FIRST, SMALL_BYTES, page);
                of(first::LATER_ONES, SMALL_BYTES, 1_000);
                of(first::FIRST, first::BLOCKS * BLOCK_BYTES, blocks);
                of(first::LATER_ONES, first::BLOCKS * BLOCK_BYTES, 1_000);
            }
            starting(&report(rows, vec![]), "  3.")
        };
        assert!(with(51_000, 1_300).starts_with("PASS"), "{}", with(51_000, 1_300));
        assert!(with(51_001, 1_300).starts_with("FAIL"));
        assert!(with(51_000, 1_301).starts_with("FAIL"));
    }

    #[test]
    fn many_blocks_are_held_to_time_threads_and_bytes() {
        let with = |held| {
            let (mut rows, mut gauges) = (Vec::new(), Vec::new());
            for into in Arrangement::BOTH {
                let case = reads::name(64, into);
                for (engine, p50) in [
                    (Engine::Ticket, 115),
                    (Engine::NixlSys, 100),
                    (Engine::TicketMapped, 110),
                    (Engine::Memcpy, 100),
                ] {
                    rows.push(measured(&case, engine.name(), LAYER_BYTES, p50));
                }
                for engine in [Engine::Ticket, Engine::TicketMapped] {
                    let name = format!("{case} by {engine}: {}", reads::HELD);
                    gauges.push(Gauge::new(name, held, "us"));
                }
            }
            gauges.push(Gauge::new(grants::TICKET_BYTES, 300.0, "B"));
            starting(&report(rows, gauges), "  1.")
        };
        assert!(with(100.0).starts_with("PASS"), "{}", with(100.0));
        assert!(with(100.1).starts_with("FAIL"));
    }

    #[test]
    fn grants_are_held_to_a_time() {
        let with = |took, copy| {
            let of = |case: &str, beside: usize, p50| {
                let case = format!("{case}-{}", grants::BESIDE[beside]);
                measured(&case, grants::OWNER, 0, p50)
            };
            let rows = vec![
                of(grants::GRANT_AND_END, 1, took),
                of(grants::COPY, 0, 100),
                of(grants::COPY, 1, copy),
            ];
            starting(&report(rows, vec![]), "  4.")
        };
        assert!(with(2000, 120).starts_with("PASS"), "{}", with(2000, 120));
        assert!(with(2001, 120).starts_with("FAIL") && with(2000, 121).starts_with("FAIL"));
    }

    #[test]
    fn a_page_beside_readers_is_held_to_its_p99_alone() {
        let with = |beside, line: &str| {
            let mut rows = Vec::new();
            for engine in readers::ENGINES {
                for (which, p99_ns) in readers::BESIDE.into_iter().zip([100, beside]) {
                    let case = format!("{}-{which}", readers::CASE);
                    rows.push(Row { p99_ns, ..measured(&case, engine.name(), SMALL_BYTES, 50) });
                }
                let row = measured(processes::CASE, engine.name(), SMALL_BYTES, 50);
                rows.push(Row { p99_ns: beside, ..row });
            }
            starting(&report(rows, vec![]), line)
        };
        for line in ["  7. a page beside 64 readers", "  7. a page beside 64 processes"] {
            assert!(with(300, line).starts_with("PASS"), "{}", with(300, line));
            assert!(with(301, line).starts_with("FAIL"));
        }
    }

    #[test]
    fn a_report_without_the_suite_promises_nothing() {
        let rows = vec![row("read", HostEngine::Connector, 1)];
        assert!(verdicts(&report(rows, vec![])).is_empty());
    }
}

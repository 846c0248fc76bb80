//! Bounds for H200s of one host, beside the measured times.

use super::case::Flow;
use super::engine::Engine;
use super::memory::Memory::{self, Gpu, Host, Pinned};
use super::{SUITE, at_once, planning};
use crate::messages::Kind;
use crate::report::{Report, Row};
use crate::table::duration;
use crate::transport::Transport;
use crate::verdict::{Figure, line};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// No attempt that fails at once takes as long.
const AT_ONCE_NS: u64 = 10_000_000;

/// One line for each promise about what UCX was allowed. Empty if nothing of this suite was measured.
pub(crate) fn verdicts(report: &Report) -> Vec<String> {
    if !report.rows.iter().any(|row| row.suite == SUITE) {
        return Vec::new();
    }
    let r = Found(report);
    let tcp = Transport::is_tcp(&report.environment.ucx_tls);
    let between = Flow::new(Gpu(0), Gpu(1));
    let both = |figure: &dyn Fn(Kind) -> Figure| Kind::BOTH.map(figure);
    let mut lines = Vec::new();
    if tcp {
        let mut figures = Vec::new();
        figures.extend(both(&|kind| r.times_faster(kind, between, 64 * MIB, 10.0)));
        figures.extend(both(&|kind| r.share_of_host(kind, between, 64 * MIB, 0.85)));
        lines.push(line("1. between GPUs over TCP, 64 MiB", figures));
    } else {
        let mut figures = Vec::new();
        for (memory, limit) in [(Host, 8.0), (Pinned, 40.0)] {
            for flow in [Flow::new(Gpu(0), memory), Flow::new(memory, Gpu(0))] {
                figures.extend(both(&|kind| r.at_least(kind, flow, 64 * MIB, limit)));
            }
        }
        lines.push(line("2. between a GPU and host memory, 64 MiB", figures));
        let mut figures = Vec::new();
        figures.extend(both(&|kind| r.at_least(kind, between, 64 * MIB, 360.0)));
        figures.extend(both(&|kind| r.within(kind, between, 4 * KIB, 20_000)));
        let inside = Flow::new(Gpu(0), Gpu(0));
        figures.extend(both(&|kind| r.times_faster(kind, inside, 64 * MIB, 1.0)));
        lines.push(line("3. between GPUs by CUDA IPC, 64 MiB and 4 KiB", figures));
    }
    lines.push(line(
        "4. 16 staged transfers of 64 MiB at once",
        vec![r.throughput_at_once(between, 0.9), r.shares_at_once(between, 2.0)],
    ));
    lines.push(line("5. choosing a path, 4 KiB", vec![r.cost_of_choosing(1000)]));
    lines.push(line("7. GPU Direct required", vec![r.refused(between, "gpu-direct")]));
    lines
}

/// A measured value, as a number and as text.
type Measured = Option<(f64, String)>;

fn figure(what: &str, measured: Measured, limit: &str, holds: impl Fn(f64) -> bool) -> Figure {
    let value = measured.as_ref().map_or("none", |(_, text)| text);
    let text = format!("{what} {value} ({limit})");
    Figure { text, passes: measured.map(|(value, _)| holds(value)) }
}

/// A report, asked about this suite.
struct Found<'a>(&'a Report);

impl Found<'_> {
    /// The row of an engine.
    fn remote(
        &self,
        case: &str,
        engine: Engine,
        (here, there): (Memory, Memory),
        (bytes, batch): (usize, usize),
    ) -> Option<&Row> {
        let (engine, here, there) = (engine.to_string(), here.to_string(), there.to_string());
        self.0.rows.iter().find(|row| {
            (row.suite.as_str(), row.case.as_str(), row.bytes, row.batch)
                == (SUITE, case, bytes, batch)
                && (&row.engine, &row.local, &row.remote) == (&engine, &here, &there)
        })
    }

    fn transfer(&self, engine: Engine, kind: Kind, flow: Flow, bytes: usize) -> Option<&Row> {
        self.remote(kind.name(), engine, flow.sides(kind), (bytes, 1))
    }

    fn at_least(&self, kind: Kind, flow: Flow, bytes: usize, limit: f64) -> Figure {
        let measured = self.transfer(Engine::Auto, kind, flow, bytes).and_then(|row| row.gbps);
        let measured = measured.map(|gbps| (gbps, format!("{gbps:.1} GB/s")));
        let what = format!("{} {flow}", kind.name());
        figure(&what, measured, &format!("at least {limit:.0} GB/s"), |gbps| gbps >= limit)
    }

    fn within(&self, kind: Kind, flow: Flow, bytes: usize, limit: u64) -> Figure {
        let measured = self.transfer(Engine::Auto, kind, flow, bytes).map(|row| row.p50_ns);
        let measured = measured.map(|p50| (p50 as f64, duration(p50)));
        let what = format!("{} {flow}", kind.name());
        let most = format!("at most {}", duration(limit));
        figure(&what, measured, &most, |p50| p50 <= limit as f64)
    }

    fn times_faster(&self, kind: Kind, flow: Flow, bytes: usize, limit: f64) -> Figure {
        let p50 = |engine| self.transfer(engine, kind, flow, bytes).map(|row| row.p50_ns as f64);
        let measured = p50(Engine::Plain).zip(p50(Engine::Auto)).map(|(plain, ours)| plain / ours);
        let measured = measured.map(|times| (times, format!("{times:.2} times")));
        let what = format!("{} {flow}", kind.name());
        let least = format!("at least {limit:.0} times nixl-sys");
        figure(&what, measured, &least, |times| times >= limit)
    }

    fn share_of_host(&self, kind: Kind, flow: Flow, bytes: usize, limit: f64) -> Figure {
        let gbps = |flow| self.transfer(Engine::Auto, kind, flow, bytes).and_then(|row| row.gbps);
        let host = Flow::new(Host, Host);
        let measured = gbps(flow).zip(gbps(host)).map(|(ours, host)| ours / host);
        let measured = measured.map(|share| (share, format!("{share:.2} of {host}")));
        let what = format!("{} {flow}", kind.name());
        figure(&what, measured, &format!("at least {limit:.2} of {host}"), |share| share >= limit)
    }

    fn throughput_at_once(&self, flow: Flow, limit: f64) -> Figure {
        let engine = Engine::Forced(nixl_executor::PathKind::StagedBothSides);
        let gbps = |count| {
            let sides = flow.sides(Kind::Read);
            self.remote(at_once::CASE, engine, sides, (at_once::BYTES, count))?.gbps
        };
        let measured = gbps(at_once::COUNT).zip(gbps(1)).map(|(all, one)| all / one);
        let measured = measured.map(|times| (times, format!("{times:.2} of one")));
        figure("throughput", measured, &format!("at least {limit:.1}"), |share| share >= limit)
    }

    fn shares_at_once(&self, flow: Flow, limit: f64) -> Figure {
        let engine = Engine::Forced(nixl_executor::PathKind::StagedBothSides);
        let (sides, size) = (flow.sides(Kind::Read), (at_once::BYTES, at_once::COUNT));
        let staged = self.remote(at_once::CASE, engine, sides, size).is_some();
        let gauge = self.0.gauges.iter().find(|gauge| staged && gauge.name == at_once::SHARES);
        let measured = gauge.map(|gauge| (gauge.value, format!("{:.2} times", gauge.value)));
        let most = format!("at most {limit:.0} times");
        figure("slowest over fastest", measured, &most, |times| times <= limit)
    }

    fn cost_of_choosing(&self, limit_ns: u64) -> Figure {
        let p50 = |engine| {
            let row = self.0.rows.iter().find(|row| {
                (row.suite.as_str(), row.case.as_str()) == (SUITE, planning::CASE)
                    && row.engine == engine
            });
            row.map(|row| row.p50_ns as f64)
        };
        let chosen = p50(Engine::Auto.to_string()).zip(p50(Engine::Direct.to_string()));
        let measured = chosen.map(|(ours, direct)| ours - direct);
        let measured = measured.map(|ns| (ns, format!("{ns:+.0} ns")));
        let most = format!("at most {}", duration(limit_ns));
        figure("beside the direct executor", measured, &most, |ns| ns <= limit_ns as f64)
    }

    /// Passes if the path failed at once and with a reason, and the same transfer completed by another.
    fn refused(&self, flow: Flow, path: &str) -> Figure {
        let (from, to) = (flow.src.to_string(), flow.dst.to_string());
        let refusal = self.0.refusals.iter().find(|refusal| {
            (&refusal.from, &refusal.to, refusal.path.as_str()) == (&from, &to, path)
        });
        let Some(refusal) = refusal else {
            return Figure { text: format!("{flow} was not refused"), passes: None };
        };
        let instead = refusal.instead.as_deref().unwrap_or("nothing");
        let took = duration(refusal.took_ns);
        let text =
            format!("{flow} failed after {took}: {}; chosen instead: {instead}", refusal.reason);
        let passes = !refusal.reason.is_empty()
            && refusal.instead.is_some()
            && refusal.took_ns <= AT_ONCE_NS;
        Figure { text, passes: Some(passes) }
    }
}

#[cfg(test)]
mod tests {
    use nixl_executor::{PathKind, Rejected};

    use super::*;
    use crate::messages::Engine as HostEngine;
    use crate::remote::path::Refusal;
    use crate::report::Gauge;
    use crate::report::tests::{report, row};

    /// A row of so many GB/s.
    fn measured(case: &str, engine: Engine, flow: Flow, bytes: usize, gbps: f64) -> Row {
        let kind = if case == "write" { Kind::Write } else { Kind::Read };
        let (here, there) = flow.sides(kind);
        let p50 = (bytes as f64 / gbps) as u64;
        Row { engine: engine.to_string(), ..row(case, HostEngine::Connector, p50) }
            .between(SUITE, here, there)
            .of(bytes)
            .moving(bytes)
    }

    fn both(engine: Engine, flow: Flow, bytes: usize, gbps: f64) -> [Row; 2] {
        ["read", "write"].map(|case| measured(case, engine, flow, bytes, gbps))
    }

    fn over_tcp(rows: Vec<Row>) -> Report {
        let mut report = report(rows, vec![]);
        report.environment.ucx_tls = Transport::Tcp.ucx_tls().unwrap().to_owned();
        report
    }

    fn starting(report: &Report, number: &str) -> String {
        let found = verdicts(report).into_iter().find(|line| line.contains(number));
        found.unwrap_or_default()
    }

    const BETWEEN: Flow = Flow::new(Gpu(0), Gpu(1));
    const HOST: Flow = Flow::new(Host, Host);

    #[test]
    fn over_tcp_gpus_are_measured_against_nixl_and_the_host() {
        let mut rows = Vec::new();
        rows.extend(both(Engine::Auto, BETWEEN, 64 * MIB, 5.5));
        rows.extend(both(Engine::Plain, BETWEEN, 64 * MIB, 0.5));
        assert!(starting(&over_tcp(rows.clone()), "  1.").starts_with("NOT MEASURED"));
        rows.extend(both(Engine::Auto, HOST, 64 * MIB, 6.0));
        let line = starting(&over_tcp(rows.clone()), "  1.");
        assert!(line.starts_with("PASS") && line.contains("0.92 of host->host"), "{line}");
        rows.pop();
        rows.push(measured("write", Engine::Auto, HOST, 64 * MIB, 7.0));
        assert!(starting(&over_tcp(rows.clone()), "  1.").starts_with("FAIL"));
        assert_eq!(starting(&over_tcp(rows), "  2."), "");
    }

    #[test]
    fn without_a_restriction_every_flow_has_its_limit() {
        let mut rows = Vec::new();
        for (flow, gbps) in [
            (Flow::new(Gpu(0), Host), 9.0),
            (Flow::new(Host, Gpu(0)), 8.5),
            (Flow::new(Gpu(0), Pinned), 50.0),
            (Flow::new(Pinned, Gpu(0)), 41.0),
        ] {
            rows.extend(both(Engine::Auto, flow, 64 * MIB, gbps));
        }
        let line = starting(&report(rows.clone(), vec![]), "  2.");
        assert!(line.starts_with("PASS"), "{line}");
        rows[7].gbps = Some(39.9);
        assert!(starting(&report(rows.clone(), vec![]), "  2.").starts_with("FAIL"));
        assert!(starting(&report(rows, vec![]), "  3.").starts_with("NOT MEASURED"));
    }

    #[test]
    fn gpus_are_held_to_throughput_latency_and_nixl() {
        let inside = Flow::new(Gpu(0), Gpu(0));
        let mut rows = Vec::new();
        rows.extend(both(Engine::Auto, BETWEEN, 64 * MIB, 365.0));
        rows.extend(both(Engine::Auto, BETWEEN, 4 * KIB, 0.25));
        rows.extend(both(Engine::Auto, inside, 64 * MIB, 900.0));
        rows.extend(both(Engine::Plain, inside, 64 * MIB, 800.0));
        let line = starting(&report(rows.clone(), vec![]), "  3.");
        assert!(line.starts_with("PASS"), "{line}");
        rows[2].p50_ns = 20_001;
        assert!(starting(&report(rows, vec![]), "  3.").starts_with("FAIL"));
    }

    #[test]
    fn many_at_once_are_as_fast_as_one_and_share_alike() {
        let engine = Engine::Forced(PathKind::StagedBothSides);
        let of = |count, gbps| {
            let row = measured(at_once::CASE, engine, BETWEEN, at_once::BYTES, 1.0);
            Row { gbps: Some(gbps), ..row.in_batches_of(count) }
        };
        let with = |all, spread| {
            let gauges = vec![Gauge::new(at_once::SHARES, spread, "times")];
            starting(&report(vec![of(1, 10.0), of(at_once::COUNT, all)], gauges), "  4.")
        };
        assert!(with(9.1, 1.9).starts_with("PASS"), "{}", with(9.1, 1.9));
        assert!(with(8.9, 1.9).starts_with("FAIL"));
        assert!(with(9.1, 2.1).starts_with("FAIL"));
        let host = measured(at_once::CASE, Engine::Auto, HOST, at_once::BYTES, 1.0);
        let gauges = vec![Gauge::new(at_once::SHARES, 1.0, "times")];
        assert!(starting(&report(vec![host], gauges), "  4.").starts_with("NOT MEASURED"));
    }

    #[test]
    fn choosing_may_cost_a_microsecond() {
        let with = |ours| {
            let of = |engine, p50| {
                let row = measured(planning::CASE, engine, HOST, 4 * KIB, 1.0);
                Row { p50_ns: p50, ..row }
            };
            let rows = vec![of(Engine::Auto, ours), of(Engine::Direct, 5000)];
            starting(&report(rows, vec![]), "  5.")
        };
        assert!(with(6000).starts_with("PASS") && with(6000).contains("+1000 ns"));
        assert!(with(6001).starts_with("FAIL"));
        assert!(with(4000).starts_with("PASS"));
    }

    #[test]
    fn what_is_refused_has_a_reason_and_another_way() {
        let kind = PathKind::GpuDirect;
        let mut report = report(both(Engine::Auto, BETWEEN, 4 * KIB, 1.0).to_vec(), vec![]);
        assert!(starting(&report, "  7.").starts_with("NOT MEASURED"));
        let rejected = [Rejected::new(kind, "no RDMA NIC on this host")];
        report.refusals.push(Refusal::new(BETWEEN, kind, &rejected, 5000));
        assert!(starting(&report, "  7.").starts_with("FAIL"), "nothing completed instead");
        report.refusals[0].instead = Some("staged-both-sides".to_owned());
        let line = starting(&report, "  7.");
        assert!(line.starts_with("PASS") && line.contains("no RDMA NIC"), "{line}");
        report.refusals[0].took_ns = AT_ONCE_NS + 1;
        assert!(starting(&report, "  7.").starts_with("FAIL"));
    }

    #[test]
    fn a_report_without_the_suite_promises_nothing() {
        let rows = vec![row("read", HostEngine::Connector, 1)];
        assert!(verdicts(&report(rows, vec![])).is_empty());
    }
}

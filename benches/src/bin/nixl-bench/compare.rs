//! Changes since an earlier report.

use comfy_table::Table;

use crate::local;
use crate::remote;
use crate::report::{Report, Row};
use crate::table::{aligned, duration, shape};

/// One figure in both reports.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Difference {
    name: String,
    engine: String,
    before: String,
    now: String,
    /// From before to now, as a share of before; none if that was zero.
    change: Option<f64>,
}

/// The medians and gauges that both reports have, in the order of the later one.
pub(crate) fn differences(before: &Report, now: &Report) -> Vec<Difference> {
    let rows = now.rows.iter().filter_map(|row| {
        let was = before.rows.iter().find(|w| w.engine == row.engine && w.is_beside(row))?;
        Some(Difference {
            name: name(row),
            engine: row.engine.clone(),
            before: duration(was.p50_ns),
            now: duration(row.p50_ns),
            change: change(was.p50_ns as f64, row.p50_ns as f64),
        })
    });
    let gauges = now.gauges.iter().filter_map(|gauge| {
        let was = before.gauges.iter().find(|w| w.name == gauge.name && w.unit == gauge.unit)?;
        Some(Difference {
            name: gauge.name.clone(),
            engine: String::new(),
            before: format!("{} {}", was.value, was.unit),
            now: format!("{} {}", gauge.value, gauge.unit),
            change: change(was.value, gauge.value),
        })
    });
    rows.chain(gauges).collect()
}

pub(crate) fn table(differences: &[Difference]) -> Table {
    let lines = differences.iter().map(|d| {
        let change = d.change.map_or_else(String::new, |c| format!("{:+.1} %", c * 100.0));
        vec![d.name.clone(), d.engine.clone(), d.before.clone(), d.now.clone(), change]
    });
    aligned(&["median", "engine", "before", "now", "change"], lines.collect())
}

pub(crate) fn name(row: &Row) -> String {
    let case = match row.suite.as_str() {
        local::SUITE | remote::SUITE => format!("{} {}", row.case, row.memories()),
        _ => row.case.clone(),
    };
    format!("{case} {}", shape(row)).trim_end().to_owned()
}

fn change(before: f64, now: f64) -> Option<f64> {
    (before != 0.0).then(|| now / before - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Engine;
    use crate::report::Gauge;
    use crate::report::tests::{report, row};

    #[test]
    fn only_what_both_have_is_compared() {
        let before = report(
            vec![row("read", Engine::Connector, 2000), row("gone", Engine::Connector, 1)],
            vec![Gauge::new("idle", 0.0, "%"), Gauge::new("rate", 10.0, "1/s")],
        );
        let now = report(
            vec![
                row("read", Engine::NixlSys, 9),
                row("read", Engine::Connector, 3000),
                row("new", Engine::Connector, 1),
            ],
            vec![Gauge::new("rate", 5.0, "1/s"), Gauge::new("idle", 1.0, "%")],
        );
        let found = differences(&before, &now);
        let changes: Vec<_> = found.iter().map(|d| (d.name.as_str(), d.change)).collect();
        assert_eq!(changes, [("read 4KiB", Some(0.5)), ("rate", Some(-0.5)), ("idle", None)]);
        assert_eq!((found[0].before.as_str(), found[0].now.as_str()), ("2.00 us", "3.00 us"));
        assert!(table(&found).to_string().contains("+50.0 %"));
    }
}

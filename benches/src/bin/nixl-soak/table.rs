//! The table: a line for each side of each variant.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use crate::report::Finding;
use crate::sample::Metric;
use crate::side::SideReport;

const HEADINGS: [&str; 14] = [
    "scenario",
    "side",
    "operations",
    "errors",
    "ended by peer",
    "wrong bytes",
    "KiB of RSS",
    "files",
    "threads",
    "mappings",
    "anonymous",
    "sockets",
    "imports",
    "peers",
];

/// Growth is that of 1,000 operations; a star marks what is more than is allowed.
pub(crate) fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(HEADINGS);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for finding in findings {
        for side in &finding.sides {
            table.add_row(line(finding, side));
        }
    }
    table
}

fn line(finding: &Finding, side: &SideReport) -> Vec<String> {
    let mut cells = vec![
        format!("{} ({})", finding.scenario, finding.variant),
        side.role.to_owned(),
        side.tally.operations.to_string(),
        side.tally.failed().to_string(),
        side.tally.ended.values().sum::<u64>().to_string(),
        side.tally.wrong_bytes.to_string(),
    ];
    cells.extend(Metric::ALL.map(|metric| match side.growth.get(&metric) {
        None => "?".to_owned(),
        Some(growth) => {
            let star = if growth.grows { " *" } else { "" };
            // No negative zero.
            let figure = (growth.per_thousand / metric.unit() as f64 * 10.0).round() / 10.0 + 0.0;
            format!("{figure:.1}{star}")
        }
    }));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::growth::Pace;
    use crate::sample::Sample;
    use crate::side::Side;
    use crate::tally::Tally;

    #[test]
    fn what_grows_has_a_star() {
        let mut side = Side::new("reader");
        for sample in 1..=8 {
            side.add(Tally { operations: 100, ..Tally::default() });
            side.note(Sample::with_files(40 + 10 * sample));
        }
        let finding = Finding {
            scenario: "fresh",
            variant: "v".to_owned(),
            seconds: 1.0,
            sides: vec![side.report(Pace::Operations), Side::new("owner").report(Pace::Events)],
            failures: Vec::new(),
            notes: Vec::new(),
            skipped: None,
        };
        let lines: Vec<_> = finding.sides.iter().map(|side| line(&finding, side)).collect();
        assert_eq!(lines[0].len(), HEADINGS.len());
        assert_eq!(lines[0][..3], ["fresh (v)", "reader", "800"]);
        assert_eq!(lines[0][6..9], ["0.0", "100.0 *", "0.0"]);
        assert_eq!(lines[1][6..9], ["?", "?", "?"]);
    }
}

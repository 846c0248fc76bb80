//! Runs the suites and reports.

use std::path::Path;

use anyhow::{Result, bail};
use nixl_device::cuda;

use crate::args::Args;
use crate::cases::{self, Effort};
use crate::compare;
use crate::environment::Environment;
use crate::initiator::{self, Findings};
use crate::local;
use crate::report::Report;
use crate::table;

pub(crate) fn run(args: &Args) -> Result<()> {
    let earlier = args.baseline.as_deref().map(Report::read).transpose()?;
    let costs = args.costs()?;
    let effort = Effort::new(args.quick);
    let filter = args.filter.as_deref();
    let (host, within) = args.suites(cuda::is_available());
    let mut findings = Findings::default();
    let cases = if host { cases::select(filter) } else { Vec::new() };
    if host && !within && cases.is_empty() {
        let names: Vec<_> = cases::select(None).iter().map(|c| c.name()).collect();
        bail!("no case matches the filter; there are: {}", names.join(", "));
    }
    if !cases.is_empty() {
        findings = initiator::run(&cases, effort)?;
    }
    if within {
        let Findings { rows, gauges } = local::run(effort, filter, costs)?;
        findings.rows.extend(rows);
        findings.gauges.extend(gauges);
    }
    if findings.rows.is_empty() && findings.gauges.is_empty() {
        bail!("nothing was measured: no case matches the filter, or all failed");
    }
    let report = Report::new(Environment::discover(), findings);
    let path = args.report_path();
    report.write(&path)?;
    println!("{}", table::terminal(&report));
    for line in local::verdicts(&report) {
        println!("{line}");
    }
    if let Some(earlier) = earlier {
        println!("{}", compare::table(&compare::differences(&earlier, &report)));
    }
    println!("{}", written(&path));
    Ok(())
}

fn written(path: &Path) -> String {
    format!("Written: {} and {}", path.display(), path.with_extension("md").display())
}

//! Runs the suites and reports.

use std::mem;
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
        match initiator::run(&cases, effort) {
            Ok(host) => findings = host,
            // A machine without NIXL can still copy within a process.
            Err(error) if within => findings.left_out.push(format!("the suite `host`: {error:#}")),
            Err(error) => return Err(error),
        }
    }
    if within {
        match local::run(effort, filter, costs) {
            Ok(Findings { rows, gauges, left_out }) => {
                findings.rows.extend(rows);
                findings.gauges.extend(gauges);
                findings.left_out.extend(left_out);
            }
            // What was measured until here is not lost.
            Err(error) => findings.left_out.push(format!("the suite `local`: {error:#}")),
        }
    }
    let left_out = mem::take(&mut findings.left_out);
    if findings.rows.is_empty() && findings.gauges.is_empty() {
        bail!("nothing was measured: {}", reasons(&left_out));
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
    if !left_out.is_empty() {
        bail!("not everything could be measured:\n{}", reasons(&left_out));
    }
    Ok(())
}

fn reasons(left_out: &[String]) -> String {
    match left_out {
        [] => "no case matches the filter".to_owned(),
        some => some.join("\n"),
    }
}

fn written(path: &Path) -> String {
    format!("Written: {} and {}", path.display(), path.with_extension("md").display())
}

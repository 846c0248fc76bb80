//! Runs the suites and reports.

use std::mem;
use std::path::Path;

use anyhow::{Result, bail};
use nixl_benches::Environment;
use nixl_device::cuda;

use crate::args::{Args, Suite};
use crate::blocks;
use crate::cases::{self, Effort};
use crate::compare;
use crate::files;
use crate::initiator::{self, Findings};
use crate::local;
use crate::remote;
use crate::report::Report;
use crate::table;

pub(crate) fn run(args: &Args) -> Result<()> {
    let earlier = args.baseline.as_deref().map(Report::read).transpose()?;
    let costs = args.costs()?;
    let effort = Effort::new(args.quick);
    let filter = args.filter.as_deref();
    let suites = args.suites(cuda::is_available());
    let alone = suites.len() == 1;
    let mut findings = Findings::default();
    let folder = args.report_path().parent().map(Path::to_owned).unwrap_or_default();
    for suite in suites {
        let found = match suite {
            Suite::Host => host(filter, effort, alone),
            Suite::Remote => remote::run(effort, filter),
            Suite::Blocks => blocks::run(effort, filter),
            Suite::Files => files::run(effort, filter, (&args.files, &folder)),
            Suite::Local | Suite::All => {
                local::run(effort, filter, costs.clone(), |effort, filter| {
                    files::run_local(effort, filter, (&args.files, &folder))
                })
            }
        };
        match found {
            Ok(found) => findings.extend(found),
            Err(error) if alone => return Err(error),
            // A machine without NIXL can still copy within a process, and what was measured until here is not lost.
            Err(error) => {
                findings.left_out.push(format!("the suite `{}`: {error:#}", suite.name()))
            }
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
    let verdicts = [
        remote::verdicts(&report),
        local::verdicts(&report),
        blocks::verdicts(&report),
        files::verdicts(&report),
    ];
    for line in verdicts.into_iter().flatten() {
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

/// A filter that leaves nothing is an error only if nothing else is measured.
fn host(filter: Option<&str>, effort: Effort, alone: bool) -> Result<Findings> {
    let cases = cases::select(filter);
    if !cases.is_empty() {
        return initiator::run(&cases, effort);
    }
    if alone {
        let names: Vec<_> = cases::select(None).iter().map(|c| c.name()).collect();
        bail!("no case matches the filter; there are: {}", names.join(", "));
    }
    Ok(Findings::default())
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

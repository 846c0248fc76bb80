//! Runs the scenarios and reports.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};

use crate::args::Args;
use crate::report::{Finding, Report};
use crate::scenarios::Bench;
use crate::skip;
use crate::table;

/// Whether nothing failed and nothing grew.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let seed = args.seed.unwrap_or_else(by_the_clock);
    println!("seed: {seed} (`--seed {seed}` makes the same choices)");
    let begun = Instant::now();
    let mut report = Report::new(seed);
    for scenario in args.scenarios() {
        // Of its own, so that a scenario alone makes the choices that it makes among others.
        let mut bench = Bench::new(args.duration(), args.silence(), seed)?;
        scenario.run(args.variant.as_deref().unwrap_or(""), &mut bench, &mut |finding| {
            println!("{}", finding.verdict());
            report.findings.push(finding);
        });
    }
    ensure!(!report.findings.is_empty(), "no variant of these scenarios has such a name");
    for finding in &report.findings {
        skip::note(finding)?;
    }
    report.seconds = begun.elapsed().as_secs_f64();
    println!("{}", table::table(&report.findings));
    println!("Growth is per 1,000 operations; * is more than is allowed.");
    if let Some(path) = &args.json {
        report.write(path)?;
        println!("Written: {}", path.display());
    }
    let has_failed = |finding: &&Finding| !finding.failures.is_empty();
    let failed: Vec<_> = report.findings.iter().filter(has_failed).collect();
    for finding in &failed {
        println!("{}", finding.verdict());
    }
    let (failed, all) = (failed.len(), report.findings.len());
    match report.passed() {
        true => println!("soak: passed in {:.0} s", report.seconds),
        false => println!("soak: FAILED in {:.0} s: {failed} of {all}", report.seconds),
    }
    Ok(report.passed())
}

fn by_the_clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    now.as_secs()
}

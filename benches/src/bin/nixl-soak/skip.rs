//! Variants that cannot run on this machine say so.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Context as _, Result};

use crate::report::Finding;

/// Names the file in which `cargo xtask test` counts what was skipped.
const LOG: &str = "NIXL_TEST_SKIP_LOG";

/// Notes it if the variant was skipped.
pub(crate) fn note(finding: &Finding) -> Result<()> {
    let (Some(reason), Some(log)) = (&finding.skipped, env::var_os(LOG)) else { return Ok(()) };
    let line = format!("SKIPPED({reason}): soak, {} ({})\n", finding.scenario, finding.variant);
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    // One write, so that the lines of programs that run at the same time stay whole.
    file.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", log.display()))
}

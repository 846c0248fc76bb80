//! The command line.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use nixl_executor::Costs;

/// Measures transfers between two processes of this machine over NIXL (suite `host`: our connector, and plain nixl-sys
/// beside it) and copies of blocks within a process (suite `local`: our executor, and plain CUDA calls beside it).
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// What to measure [default: host, and local where a GPU is there]
    #[arg(long, value_enum)]
    suite: Option<Suite>,
    /// Fewer iterations: under a minute for each suite
    #[arg(long)]
    pub(crate) quick: bool,
    /// Run only the cases whose name contains this, for instance `read/4KiB`
    #[arg(long, value_name = "SUBSTRING")]
    pub(crate) filter: Option<String>,
    /// Where the report goes; a table in Markdown goes beside it [default: target/bench/report.json]
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Print the differences from an earlier report
    #[arg(long, value_name = "PATH")]
    pub(crate) baseline: Option<PathBuf>,
    /// The costs by which the executor chooses, as `tune` wrote them
    #[arg(long, value_name = "FILE")]
    costs: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Suite {
    /// Transfers between two processes
    Host,
    /// Copies between memories of one process
    Local,
    /// Both
    All,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Role {
    /// Measures what each way to copy costs on this machine, for the executor to choose by
    #[command(name = "tune")]
    Tune {
        /// Fewer iterations
        #[arg(long)]
        quick: bool,
        /// Where the costs go
        #[arg(long, value_name = "FILE", default_value = "costs.json")]
        out: PathBuf,
    },
    /// The process at the other end; the benchmark starts it itself
    #[command(hide = true)]
    Target,
}

impl Args {
    /// Whether the suite `host` is to be measured, and whether `local` is.
    pub(crate) fn suites(&self, gpu: bool) -> (bool, bool) {
        match self.suite {
            Some(Suite::Host) => (true, false),
            Some(Suite::Local) => (false, true),
            Some(Suite::All) => (true, true),
            None => (true, gpu),
        }
    }

    /// The costs of the file that was named, else the executor's own.
    pub(crate) fn costs(&self) -> Result<Costs> {
        let Some(path) = &self.costs else { return Ok(Costs::default()) };
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Costs::from_json(&text)?)
    }

    /// Where the report goes.
    pub(crate) fn report_path(&self) -> PathBuf {
        let folder = || env::var_os("NIXL_BENCH_DIR").map_or("target/bench".into(), PathBuf::from);
        self.json.clone().unwrap_or_else(|| folder().join("report.json"))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn without_a_suite_the_gpu_decides() {
        let suites = |line: &[&str], gpu| Args::try_parse_from(line).unwrap().suites(gpu);
        assert_eq!(suites(&["bench"], false), (true, false));
        assert_eq!(suites(&["bench"], true), (true, true));
        assert_eq!(suites(&["bench", "--suite", "local"], false), (false, true));
        assert_eq!(suites(&["bench", "--suite", "host"], true), (true, false));
    }

    #[test]
    fn the_report_goes_where_it_is_told() {
        let args = Args::try_parse_from(["bench", "--quick", "--json", "a/b.json"]).unwrap();
        assert!(args.quick && args.role.is_none());
        assert_eq!(args.report_path(), PathBuf::from("a/b.json"));
    }
}

//! The command line.

use std::env;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Measures transfers between two processes of this machine over NIXL: our connector, and plain nixl-sys beside it.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Fewer iterations: under a minute
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
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Role {
    /// The process at the other end; the benchmark starts it itself
    #[command(hide = true)]
    Target,
}

impl Args {
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
    fn the_report_goes_where_it_is_told() {
        let args = Args::try_parse_from(["bench", "--quick", "--json", "a/b.json"]).unwrap();
        assert!(args.quick && args.role.is_none());
        assert_eq!(args.report_path(), PathBuf::from("a/b.json"));
    }
}

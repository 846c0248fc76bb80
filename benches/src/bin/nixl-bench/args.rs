//! The command line.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use nixl_executor::Costs;

use crate::files::FileArgs;
use crate::transport::Transport;

/// Measures transfers between two processes of this machine over NIXL (suite `host`: our connector, and plain nixl-sys
/// beside it; suite `remote`: between host, pinned and GPU memory, by every path; suite `blocks`: blocks read by tickets) and
/// copies of blocks within a process (suite `local`: our executor, and plain CUDA calls beside it), and blocks between files and
/// memory (suite `files`: our executor, and plain threads, io_uring and NIXL's POSIX plugin beside it).
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
    /// What UCX may use between the processes [default: what UCX_TLS says]
    #[arg(long, value_enum)]
    pub(crate) transport: Option<Transport>,
    /// Where the report goes; a table in Markdown goes beside it [default: target/bench/report.json]
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Print the differences from an earlier report
    #[arg(long, value_name = "PATH")]
    pub(crate) baseline: Option<PathBuf>,
    /// The costs by which the executor chooses, as `tune` wrote them
    #[arg(long, value_name = "FILE")]
    costs: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) files: FileArgs,
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Suite {
    /// Transfers between two processes
    Host,
    /// Transfers between memories of two processes, GPUs' included, by every path
    Remote,
    /// Copies between memories of one process
    Local,
    /// Blocks of a cache that another process has exported
    Blocks,
    /// Blocks between files and memory
    Files,
    /// All of them
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
    /// Prints the ratios of two builds, from the reports of several runs of each, made in turns
    Ratios {
        /// Reports of the earlier build
        #[arg(long, value_name = "PATH", num_args = 2.., required = true)]
        before: Vec<PathBuf>,
        /// Reports of the later build
        #[arg(long, value_name = "PATH", num_args = 2.., required = true)]
        after: Vec<PathBuf>,
    },
    /// The process at the other end; the benchmark starts it itself
    #[command(hide = true)]
    Target,
    /// The same of the suite `remote`
    #[command(hide = true)]
    RemoteTarget,
    /// The process whose blocks the suite `blocks` reads
    #[command(hide = true)]
    BlocksOwner,
    /// One of many processes that read such blocks
    #[command(hide = true)]
    BlocksReader,
}

impl Suite {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Remote => "remote",
            Self::Local => "local",
            Self::Blocks => "blocks",
            Self::Files => "files",
            Self::All => "all",
        }
    }
}

impl Args {
    /// The suites to be measured, in their order.
    pub(crate) fn suites(&self, gpu: bool) -> &'static [Suite] {
        match self.suite {
            Some(Suite::Host) => &[Suite::Host],
            Some(Suite::Remote) => &[Suite::Remote],
            Some(Suite::Local) => &[Suite::Local],
            Some(Suite::Blocks) => &[Suite::Blocks],
            Some(Suite::Files) => &[Suite::Files],
            Some(Suite::All) => {
                &[Suite::Host, Suite::Remote, Suite::Local, Suite::Blocks, Suite::Files]
            }
            None if gpu => &[Suite::Host, Suite::Local],
            None => &[Suite::Host],
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
        assert_eq!(suites(&["bench"], false), [Suite::Host]);
        assert_eq!(suites(&["bench"], true), [Suite::Host, Suite::Local]);
        assert_eq!(suites(&["bench", "--suite", "local"], false), [Suite::Local]);
        assert_eq!(suites(&["bench", "--suite", "host"], true), [Suite::Host]);
        assert_eq!(suites(&["bench", "--suite", "remote"], false), [Suite::Remote]);
        assert_eq!(suites(&["bench", "--suite", "all"], false).len(), 5);
    }

    #[test]
    fn a_transport_is_chosen_by_name() {
        let transport = |line: &[&str]| Args::try_parse_from(line).map(|args| args.transport);
        assert_eq!(transport(&["bench"]).unwrap(), None);
        assert_eq!(transport(&["bench", "--transport", "tcp"]).unwrap(), Some(Transport::Tcp));
        assert_eq!(transport(&["bench", "--transport", "shm"]).unwrap(), Some(Transport::Shm));
        assert_eq!(transport(&["bench", "--transport", "auto"]).unwrap(), Some(Transport::Auto));
        assert!(transport(&["bench", "--transport", "rdma"]).is_err());
    }

    #[test]
    fn the_report_goes_where_it_is_told() {
        let args = Args::try_parse_from(["bench", "--quick", "--json", "a/b.json"]).unwrap();
        assert!(args.quick && args.role.is_none());
        assert_eq!(args.report_path(), PathBuf::from("a/b.json"));
    }
}

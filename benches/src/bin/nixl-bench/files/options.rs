//! Options of the suite, by the names that nixlbench has for them.

use std::path::PathBuf;

use clap::Args;

/// Where the suite `files` puts its files, and a shape of one's own.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Suite files, in nixlbench's words")]
pub(crate) struct FileArgs {
    /// The folder of the files on disk [default: where the report goes]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) filepath: Option<PathBuf>,
    /// Measure blocks of so many bytes instead of the suite's own cases
    #[arg(long = "block_size", value_name = "BYTES")]
    pub(crate) block_size: Option<usize>,
    /// Blocks of that size in one operation
    #[arg(long = "batch_size", value_name = "NUMBER", default_value_t = 64)]
    pub(crate) batch_size: usize,
    /// Threads of the plain threads beside
    #[arg(long = "num_threads", value_name = "NUMBER", default_value_t = 4)]
    pub(crate) num_threads: usize,
    /// Blocks of that size past the page cache alone
    #[arg(long = "storage_enable_direct")]
    pub(crate) storage_enable_direct: bool,
}

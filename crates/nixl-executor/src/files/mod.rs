//! Transfers of blocks between files and memory.
//!
//! A [`FileExecutor`] reads blocks of a file into host memory and writes them, by the engine that is fastest for the file. Nothing
//! polls, and no call waits for a device: the kernel's answer wakes the waiter. The memory of a transfer comes back when the kernel
//! has answered its last call, also if the transfer was dropped, cancelled, or its deadline has passed.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use nixl_executor::Region;
//! use nixl_executor::files::{FileExecutor, FileIoOptions, FileLayout, FileOptions, FileRegion};
//! use nixl_executor::layout::Layout;
//!
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let executor = FileExecutor::new()?;
//! let memory = Layout::of_blocks(Region::zeroed(64 * 4096)?, 4096)?;
//! memory.copy_block_from_slice(5, &[7; 4096])?;
//!
//! let file = FileRegion::open(folder, "blocks", &FileOptions::read_write().create(1 << 20))?;
//! let choice = executor.prepare(&file).await?;
//! println!("{choice}");
//! let spilled = FileLayout::new(*memory.geometry(), file, 0)?;
//!
//! let options = FileIoOptions::new();
//! executor.write_blocks(&memory, &[5], &spilled, &[2], &options)?.wait_for_completion().await?;
//! executor.read_blocks(&spilled, &[2], &memory, &[9], &options)?.wait_for_completion().await?;
//! assert_eq!(memory.block_to_vec(9)?, [7; 4096]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

mod choice;
mod class;
mod device;
mod engine;
mod error;
mod execution;
mod executor;
mod io_kind;
mod operation;
mod probe;
mod queue;
mod schedule;
mod segment;
mod simulated;
pub mod store;
#[cfg(test)]
mod tests;
mod threads;
mod uring;
mod vectored;

pub use choice::EngineChoice;
pub use class::FileClass;
pub use engine::EngineKind;
pub use error::{FileIoError, FileTransferError};
pub use executor::{FileExecutor, FileIoOptions, FileOperation};
pub use io_kind::IoKind;
pub use nixl_descriptor::file::{
    FileAlignment, FileError, FileKind, FileLayout, FileLayoutError, FileLease, FileOptions,
    FileRegion, FileRegionId,
};
pub use simulated::SimulatedFiles;

//! Files as places of bytes: regions of files, their leases, and layouts of blocks in them.
//!
//! A [`FileRegion`] owns a descriptor of a regular file. It is no [`Region`](crate::Region): it has offsets and no address, and
//! no file is ever mapped, so a file that another process shortens is an error of an operation and no signal. A
//! [`FileLease`] keeps the operations of this process on one file apart, through whichever region they reach it. A
//! [`FileLayout`] places the blocks of a KV cache in a file, and pairs with every [`Layout`](crate::layout::Layout) of memory.
//!
//! ```
//! use nixl_descriptor::LeaseMode;
//! use nixl_descriptor::file::{FileOptions, FileRegion};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let file = FileRegion::open(folder, "blocks", &FileOptions::read_write().create(1 << 20))?;
//! assert_eq!(file.len()?, 1 << 20);
//!
//! // An operation writes some of it: no other reads or writes the same bytes meanwhile.
//! let lease = file.lease(&[0..4096], LeaseMode::Write)?;
//! assert!(file.lease(&[0..1], LeaseMode::Read).is_err());
//! drop(lease);
//! # Ok(())
//! # }
//! ```

mod alignment;
mod error;
mod kind;
mod layout;
mod lease;
mod open;
mod region;

pub use self::alignment::FileAlignment;
pub use self::error::FileError;
pub use self::kind::FileKind;
pub use self::layout::{FileLayout, FileLayoutError, FilePairs, FileRun, pair_file_blocks};
pub use self::lease::FileLease;
pub use self::open::FileOptions;
pub use self::region::{FileRegion, FileRegionId};

//! A store of blocks in one preallocated file: what was committed is found again after a crash, and nothing else is.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use nixl_executor::Region;
//! use nixl_executor::files::FileExecutor;
//! use nixl_executor::files::store::{BlockKey, BlockStore, StoreOptions};
//! use nixl_executor::layout::Layout;
//!
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let memory = Layout::of_blocks(Region::zeroed(8 * 4096)?, 4096)?;
//! memory.copy_block_from_slice(3, &[7; 4096])?;
//!
//! let options = StoreOptions::new(*memory.geometry(), 100).namespace(b"model-7b/fp16/shard 0 of 1");
//! let store = BlockStore::open(&FileExecutor::new()?, folder, options).await?;
//! let key = BlockKey::from([1; 32]);
//! store.put(key, &memory, 3).await?;
//! assert!(store.get(key, &memory, 5).await?);
//! assert_eq!(memory.block_to_vec(5)?, [7; 4096]);
//! assert!(!store.get(BlockKey::from([2; 32]), &memory, 5).await?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

mod block_store;
mod error;
mod eviction;
mod key;
mod options;
mod record;
mod slots;
mod syncs;

pub use block_store::BlockStore;
pub use error::StoreError;
pub use eviction::{Eviction, LeastRecentlyUsed};
pub use key::BlockKey;
pub use options::{Commit, StoreOptions};

//! A writer that is killed: each block that it committed is there, and no other is served.

#![cfg(feature = "files")]
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

use std::collections::HashMap;
use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use nixl_executor::Region;
use nixl_executor::files::FileExecutor;
use nixl_executor::files::store::{BlockKey, BlockStore, Commit, StoreError, StoreOptions};
use nixl_executor::layout::Layout;

const BLOCK: usize = 200_000;
const KEYS: u64 = 8;
/// Set in the process that writes.
const FOLDER: &str = "NIXL_TEST_STORE";

fn memory() -> Layout {
    Layout::of_blocks(Region::zeroed(BLOCK).unwrap(), BLOCK).unwrap()
}

/// The block of a number, which its first bytes are.
fn content(number: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..BLOCK as u64).map(|at| (at * 7 + number * 131) as u8).collect();
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn key(number: u64) -> BlockKey {
    BlockKey::from([(number % KEYS) as u8 + 1; 32])
}

async fn open(folder: &Path) -> Result<BlockStore, StoreError> {
    let options = StoreOptions::new(*memory().geometry(), 12).commit(Commit::Each);
    BlockStore::open(&FileExecutor::new()?, folder, options).await
}

/// The process that is killed: it writes blocks for ever, and their numbers once they are committed.
#[tokio::test]
async fn writer() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let (store, memory) = (open(folder.as_ref()).await.unwrap(), memory());
    let first: u64 = env::var("NIXL_TEST_FIRST").unwrap().parse().unwrap();
    for number in first.. {
        memory.copy_block_from_slice(0, &content(number)).unwrap();
        store.put(key(number), &memory, 0).await.unwrap();
        println!("\ncommitted {number}");
        std::io::stdout().flush().unwrap();
    }
}

#[tokio::test]
async fn blocks_of_a_writer_that_is_killed_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let (mut committed, mut next): (HashMap<u64, u64>, u64) = (HashMap::new(), 1);
    for life in 0..20 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture"])
            .env(FOLDER, folder.path())
            .env("NIXL_TEST_FIRST", next.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let numbers = lines.filter_map(|line| line.strip_prefix("committed ")?.parse::<u64>().ok());
        for number in numbers.take(1 + life * 7 % 30) {
            committed.insert(number % KEYS, number);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let (store, memory) = (open(folder.path()).await.unwrap(), memory());
        for (&of, &number) in &committed {
            assert!(store.get(key(of), &memory, 0).await.unwrap(), "block {number} is lost");
            let bytes = memory.block_to_vec(0).unwrap();
            let found = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(found % KEYS == of && found >= number, "{found} in the place of {number}");
            assert!(bytes == content(found), "block {found} has other bytes");
            next = next.max(found + 1);
        }
    }
}

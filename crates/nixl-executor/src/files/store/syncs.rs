//! The syncs of a store: one at a time, each for all writes that have ended before it.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use nixl_descriptor::file::FileRegion;
use nixl_device::locks::lock;
use nixl_device::named_thread;
use nixl_ops::{OperationError, contained};

use super::super::error::FileTransferError;
use super::super::executor::{FileExecutor, FileIoOptions};
use super::error::StoreError;

/// The syncs of one file.
///
/// The kernel reports that written bytes are lost to one sync alone, and later ones succeed. So the first failure is kept, also if
/// the future that asked for the sync was dropped, and ends all that wait.
pub(super) struct Syncs {
    executor: FileExecutor,
    file: FileRegion,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Syncs that were asked for, and how many of them have succeeded.
    asked: u64,
    done: u64,
    is_running: bool,
    failed: Option<FileTransferError>,
    wakers: Vec<Waker>,
}

impl Syncs {
    pub(super) fn new(executor: FileExecutor, file: FileRegion) -> Arc<Self> {
        Arc::new(Self { executor, file, state: Mutex::default() })
    }

    /// That no sync has failed.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        lock(&self.state).check()
    }

    /// Brings what was written to the disk.
    pub(super) async fn settle(self: &Arc<Self>) -> Result<(), StoreError> {
        let ticket = self.ask()?;
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            if let Err(error) = state.check() {
                return Poll::Ready(Err(error));
            }
            if state.done >= ticket {
                return Poll::Ready(Ok(()));
            }
            if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn ask(self: &Arc<Self>) -> Result<u64, StoreError> {
        let mut state = lock(&self.state);
        state.check()?;
        state.asked += 1;
        if !state.is_running {
            let syncs = Arc::clone(self);
            // It goes on when the future is dropped.
            named_thread("nixl-sync")
                .spawn(move || syncs.run())
                .map_err(|error| FileTransferError::Thread { error: error.into() })?;
            state.is_running = true;
        }
        Ok(state.asked)
    }

    /// Syncs until none is asked for.
    fn run(&self) {
        loop {
            let mut state = lock(&self.state);
            if state.failed.is_some() || state.done == state.asked {
                state.is_running = false;
                return;
            }
            let asked = state.asked;
            drop(state);
            let synced = contained("a sync of a store", || {
                let mut sync = self.executor.sync(&self.file, &FileIoOptions::new())?;
                Ok(sync.wait_blocking()?)
            });
            let synced = synced.unwrap_or_else(|panicked| {
                Err(FileTransferError::Operation(OperationError::Transport(panicked)))
            });
            let mut state = lock(&self.state);
            match synced {
                Ok(_) => state.done = asked,
                Err(error) => state.failed = Some(error),
            }
            let wakers = std::mem::take(&mut state.wakers);
            drop(state);
            // They are the callers': one that panics ends neither this thread nor the others' waits.
            for waker in wakers {
                let _panicked = contained("a waker", || waker.wake());
            }
        }
    }
}

impl State {
    fn check(&self) -> Result<(), StoreError> {
        match &self.failed {
            Some(error) => Err(StoreError::NotSynced { error: error.clone() }),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Syncs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Syncs").field("file", &self.file).finish_non_exhaustive()
    }
}

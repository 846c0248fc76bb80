//! UCX, below NIXL: how it is set up, what it says, and what it calls this machine.
//!
//! NIXL hands UCX settings without commas (its parameter `engine_config`). The rest goes to UCX itself, through functions of the
//! library that NIXL's plugin has loaded: environment variables cannot be set in a process that has threads.

mod choice;
mod files;
mod library;
mod lists;
mod log;
mod replies;
mod settings;

use std::fs;

pub(super) use choice::UcxDevices;
pub(super) use files::check as check_files;
pub(super) use library::Ucx;
pub(super) use settings::Plan;

/// What UCX calls this machine. `None` if it does not tell. To be called once UCX is loaded.
pub(super) fn machine() -> Option<u64> {
    Ucx::loaded()?.machine()
}

/// Whether a NIC of this machine may write memory for UCX.
pub(super) fn may_use_rdma() -> bool {
    fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some())
}

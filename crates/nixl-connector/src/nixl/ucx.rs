//! UCX, below NIXL: its settings, messages, and identity of this machine.
//!
//! NIXL passes settings without commas to UCX (its parameter `engine_config`). All others go to UCX itself, through functions
//! of the library that NIXL's plugin has loaded: a process with threads cannot set environment variables.

mod choice;
mod configured;
mod fatal;
mod files;
mod filter;
mod folders;
mod library;
mod lists;
mod log;
mod replies;
mod settings;
mod wakeups;

pub(super) use choice::{UcxDevices, may_use_rdma};
pub(super) use files::check as check_files;
pub(super) use filter::Filter;
pub(super) use library::Ucx;
pub(super) use settings::Plan;
pub(super) use wakeups::{WakeUps, close_on_exec};

/// UCX's identity of this machine, or `None` if UCX does not report it. Called after UCX is loaded.
pub(super) fn machine() -> Option<u64> {
    Ucx::loaded()?.machine()
}

//! Two processes, one machine: what transfers over NIXL cost with our connector and with plain nixl-sys.
//!
//! `cargo xtask bench` builds and runs it. The process that is started is the initiator; it starts itself once more as
//! the target.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod args;
mod baseline;
mod cases;
mod channel;
mod clock;
mod compare;
mod environment;
mod initiator;
mod measure;
mod memory;
mod messages;
mod pattern;
mod peer;
mod report;
mod samples;
mod table;
mod target;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Role};

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.role {
        Some(Role::Target) => target::run(),
        None => initiator::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

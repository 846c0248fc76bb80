//! The benchmark of transfers, with our crates and with plain calls beside them.
//!
//! `cargo xtask bench` builds and runs it. In the suite `host` two processes of one machine exchange memory over NIXL: the
//! process that is started is the initiator, and starts itself again as the target. In the suite `remote` they exchange
//! host, pinned and GPU memory by every path there is, in the suite `blocks` one reads blocks that the other has exported. In the
//! suite `local` one process copies blocks between such memories, and in the suite `files` between memory and files.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod args;
mod baseline;
mod blocks;
mod cases;
mod clock;
mod compare;
mod contents;
mod control;
mod files;
mod gpus;
mod initiator;
mod local;
mod measure;
mod memory;
mod messages;
mod offered;
mod pattern;
mod peer;
mod ratios;
mod remote;
mod report;
mod run;
mod samples;
mod table;
mod target;
mod transport;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use args::{Args, Role};
use cases::Effort;
use report::Report;
use transport::Transport;

fn main() -> ExitCode {
    let args = Args::parse();
    let adopted = args.transport.map_or(Ok(()), Transport::adopt);
    let result = adopted.and_then(|()| match &args.role {
        Some(Role::Target) => target::run(),
        Some(Role::RemoteTarget) => remote::run_target(),
        Some(Role::BlocksOwner) => blocks::run_owner(),
        Some(Role::BlocksReader) => blocks::run_reader(),
        Some(Role::Tune { quick, out }) => local::tune(Effort::new(*quick), out),
        Some(Role::Ratios { before, after }) => print_ratios(before, after),
        None => run::run(&args),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_ratios(before: &[PathBuf], after: &[PathBuf]) -> Result<()> {
    let read = |paths: &[PathBuf]| paths.iter().map(|path| Report::read(path)).collect();
    let (before, after): (Result<Vec<_>>, Result<Vec<_>>) = (read(before), read(after));
    println!("{}", ratios::table(&before?, &after?)?);
    Ok(())
}

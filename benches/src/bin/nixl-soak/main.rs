//! Real processes that exchange memory over NIXL for long, and are killed, stopped, cut off and ended in the middle of it:
//! what grows in those that live on?
//!
//! `cargo xtask soak` builds and runs it. The process that is started coordinates, and has no connector; the [nodes](node)
//! that it starts have one each, offer memory and use what other nodes offer.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod args;
mod bytes;
mod growth;
mod holdings;
mod messages;
mod node;
mod process;
mod report;
mod run;
mod sample;
mod scenarios;
mod side;
mod skip;
mod table;
mod tally;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Role};

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.role {
        Some(Role::Node) => node::run().map(|()| true),
        None => run::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

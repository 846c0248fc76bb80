//! Code of the four examples: arguments, memory, input and output.
#![allow(dead_code, reason = "each example uses a part of it")]

pub(crate) mod args;
pub(crate) mod input;
pub(crate) mod memory;
pub(crate) mod output;

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;

pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Runs an example: arguments in, exit code out, an error as one line on stderr.
pub(crate) fn run<A: Parser>(example: impl AsyncFnOnce(A) -> Result) -> ExitCode {
    let args = match A::try_parse() {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => error.exit(), // `--help`
        Err(error) => {
            let message = error.to_string();
            // The first paragraph says what is wrong; usage and tips follow.
            let message = message.split("\n\n").next().unwrap_or_default();
            return fail(2, message.trim_start_matches("error: "));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(example(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, error),
    }
}

fn fail(code: u8, error: impl Display) -> ExitCode {
    let error = error.to_string();
    let line = error.split_whitespace().collect::<Vec<_>>().join(" ");
    // Without stderr the exit code has to do.
    // In one piece: threads of NIXL's write there too.
    let _ = io::stderr().write_all(format!("error: {line}\n").as_bytes());
    ExitCode::from(code)
}

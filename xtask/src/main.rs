//! Set-up, tests, benchmark and checks of this workspace: `cargo xtask help`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod aarch64;
mod args;
mod bench;
mod bundle;
mod ci;
mod doctor;
mod env;
mod fuzz;
mod lanes;
mod loom;
mod miri;
mod mutants;
mod packages;
mod process;
mod programs;
mod ptx;
mod setup;
mod soak;
mod style;
mod tally;
mod test;
mod workspace;

use std::process::ExitCode;

use args::Command;
use workspace::Workspace;

fn main() -> ExitCode {
    let command = match args::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("error: {error}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match dispatch(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find;
    match command {
        Command::Help => println!("{}", args::USAGE),
        Command::Setup { interop } => setup::run(&workspace()?, interop)?,
        Command::Env { crate_root } => env::run(&workspace()?, crate_root.as_deref())?,
        Command::Doctor { json } => return doctor::run(json),
        Command::Test { cargo_args } => test::run(&workspace()?, &cargo_args)?,
        Command::Bench { args } => return bench::run(&workspace()?, &args),
        Command::Soak { args } => return soak::run(&workspace()?, &args),
        Command::Style => style::run(&workspace()?)?,
        Command::Bundle => bundle::run(&workspace()?)?,
        Command::Tune { args } => {
            let args: Vec<_> = ["tune".into()].into_iter().chain(args).collect();
            return bench::run(&workspace()?, &args);
        }
        Command::Ptx { check } => ptx::run(&workspace()?, check)?,
        Command::Loom => loom::run(&workspace()?)?,
        Command::Miri => miri::run(&workspace()?)?,
        Command::Mutants => mutants::run(&workspace()?)?,
        Command::Fuzz { seconds } => fuzz::run(&workspace()?, seconds)?,
        Command::Aarch64 { test } => aarch64::run(&workspace()?, test)?,
        Command::Ci => ci::run(&workspace()?)?,
        Command::Probe { paths } => return doctor::probe::child(&paths),
        Command::TestGpu { folder, args } => return bundle::run_gpu_tests(&folder, &args),
    }
    Ok(ExitCode::SUCCESS)
}

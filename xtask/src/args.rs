//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail};

pub(crate) const USAGE: &str = "\
Usage: cargo xtask <command>

  setup [--interop]    provide what is missing in target/nixl: the NIXL runtime and libclang;
                       with --interop also the Python peer of the interoperation tests
  env [--cargo-config DIR]
                       set-up, then print what a build outside this workspace needs, for
                       `eval \"$(cargo xtask env)\"`; with DIR, the folder of a crate, write it to
                       its .cargo/config.toml instead, unless another file is there
  doctor [--json]      say what was found, what is missing and what to do about it;
                       exit code 0 if transfers can work
  test [-- ARGS]       set-up, then every test and the quick soak test; with ARGS only
                       `cargo test ARGS`
  bench [ARGS]         set-up, then the benchmark; `cargo xtask bench --help` lists its flags
  soak [ARGS]          set-up, then real processes that restart, stop, end and abandon offers, to
                       see what fails or grows; `cargo xtask soak --help` lists its flags
  bundle               pack the benchmark, the GPU tests, the doctor and the NIXL runtime into one
                       archive in target/bundle, for machines without a toolchain or a network
  tune [ARGS]          measure what each way to copy costs on this machine and write costs.json for
                       `Costs::from_json` and `bench --costs`; `cargo xtask tune --help`
  ptx [--check]        compile the CUDA kernels to the PTX that is committed;
                       with --check only see whether it is up to date
  loom                 the models of what is shared without locks, under every interleaving
  miri                 the tests that hold the unsafe code, checked for undefined behaviour;
                       needs a nightly toolchain with miri
  mutants              the model of grants, which must fail for each wrong way to check a read
  fuzz [--seconds N]   every fuzz target for N seconds, 60 by default; needs nightly and cargo-fuzz
  style                counts of code and prose, beside published crates by the same rules
  aarch64 [--test]     the crates for aarch64: clippy, or with --test the unit tests in an emulator
  ci                   what CI checks with one stable toolchain: docs/CI.md has the list
  help                 this text";

/// Hidden: loads libraries in a child of `doctor`, so that one that crashes takes nothing with it.
pub(crate) const PROBE: &str = "__probe";
/// Hidden: `./run test-gpu` of a bundle.
const TEST_GPU: &str = "__test-gpu";

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Help,
    Setup { interop: bool },
    Env { crate_root: Option<PathBuf> },
    Doctor { json: bool },
    Test { cargo_args: Vec<OsString> },
    Bench { args: Vec<OsString> },
    Soak { args: Vec<OsString> },
    Bundle,
    Tune { args: Vec<OsString> },
    Ptx { check: bool },
    Loom,
    Miri,
    Mutants,
    Fuzz { seconds: u32 },
    Style,
    Aarch64 { test: bool },
    Ci,
    Probe { paths: Vec<PathBuf> },
    TestGpu { folder: PathBuf, args: Vec<OsString> },
}

pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Command> {
    let mut args = args;
    let Some(name) = args.next() else {
        return Ok(Command::Help);
    };
    let rest: Vec<OsString> = args.collect();
    let name = name.to_string_lossy();
    Ok(match &*name {
        "help" | "--help" | "-h" => Command::Help,
        // The benchmark explains its own flags, those of `tune` included, and so does the soak test.
        "bench" => Command::Bench { args: rest },
        "tune" => Command::Tune { args: rest },
        "soak" => Command::Soak { args: rest },
        PROBE => Command::Probe { paths: rest.into_iter().map(PathBuf::from).collect() },
        TEST_GPU => match rest.split_first() {
            Some((folder, args)) => Command::TestGpu { folder: folder.into(), args: args.to_vec() },
            None => bail!("`{TEST_GPU}` takes the folder of the test programs"),
        },
        "setup" | "env" | "doctor" | "test" | "bundle" | "ptx" | "loom" | "miri" | "mutants"
        | "fuzz" | "style" | "aarch64" | "ci"
            if asks_for_help(&rest) =>
        {
            Command::Help
        }
        "setup" => Command::Setup { interop: flag("setup", "--interop", &rest)? },
        "env" => match &*rest {
            [] => Command::Env { crate_root: None },
            [flag, root] if flag == "--cargo-config" => {
                Command::Env { crate_root: Some(root.into()) }
            }
            [flag] if flag == "--cargo-config" => {
                bail!("`--cargo-config` takes the folder of a crate")
            }
            [other, ..] => {
                bail!("`env` knows only `--cargo-config DIR`, found `{}`", other.display())
            }
        },
        "doctor" => Command::Doctor { json: flag("doctor", "--json", &rest)? },
        "ptx" => Command::Ptx { check: flag("ptx", "--check", &rest)? },
        "test" => match rest.split_first() {
            None => Command::Test { cargo_args: rest },
            Some((dashes, cargo_args)) if dashes == "--" => {
                Command::Test { cargo_args: cargo_args.to_vec() }
            }
            Some((other, _)) => bail!(
                "`test` takes arguments for `cargo test` after `--`, found `{}`",
                other.display()
            ),
        },
        "bundle" => alone("bundle", Command::Bundle, &rest)?,
        "loom" => alone("loom", Command::Loom, &rest)?,
        "miri" => alone("miri", Command::Miri, &rest)?,
        "mutants" => alone("mutants", Command::Mutants, &rest)?,
        "fuzz" => Command::Fuzz { seconds: seconds(&rest)? },
        "style" => alone("style", Command::Style, &rest)?,
        "aarch64" => Command::Aarch64 { test: flag("aarch64", "--test", &rest)? },
        "ci" => alone("ci", Command::Ci, &rest)?,
        _ => bail!("no such command: `{name}`"),
    })
}

fn asks_for_help(args: &[OsString]) -> bool {
    args.first().is_some_and(|arg| arg == "--help" || arg == "-h")
}

/// The command, which knows no arguments.
fn alone(name: &str, command: Command, args: &[OsString]) -> Result<Command> {
    if let Some(other) = args.first() {
        bail!("`{name}` takes no arguments, found `{}`", other.display());
    }
    Ok(command)
}

/// The value of `fuzz --seconds`.
fn seconds(args: &[OsString]) -> Result<u32> {
    match args {
        [] => Ok(60),
        [name, value] if name == "--seconds" => match value.to_str().map(str::parse) {
            Some(Ok(seconds)) => Ok(seconds),
            _ => bail!("`--seconds` takes a number, found `{}`", value.display()),
        },
        [other, ..] => bail!("`fuzz` knows only `--seconds N`, found `{}`", other.display()),
    }
}

/// Whether the only flag that `command` knows was given.
fn flag(command: &str, known: &str, args: &[OsString]) -> Result<bool> {
    if let Some(other) = args.iter().find(|arg| *arg != known) {
        bail!("`{command}` knows only `{known}`, found `{}`", other.display());
    }
    Ok(!args.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn commands_and_flags() {
        for (line, command) in [
            ("", Command::Help),
            ("help", Command::Help),
            ("ci --help", Command::Help),
            ("setup", Command::Setup { interop: false }),
            ("setup --interop", Command::Setup { interop: true }),
            ("env", Command::Env { crate_root: None }),
            ("env --cargo-config ../x", Command::Env { crate_root: Some("../x".into()) }),
            ("doctor", Command::Doctor { json: false }),
            ("doctor --json", Command::Doctor { json: true }),
            ("test", Command::Test { cargo_args: vec![] }),
            ("tune --quick", Command::Tune { args: vec!["--quick".into()] }),
            ("soak --quick", Command::Soak { args: vec!["--quick".into()] }),
            ("ptx", Command::Ptx { check: false }),
            ("ptx --check", Command::Ptx { check: true }),
            ("bundle", Command::Bundle),
            ("loom", Command::Loom),
            ("miri", Command::Miri),
            ("mutants", Command::Mutants),
            ("fuzz", Command::Fuzz { seconds: 60 }),
            ("fuzz --seconds 5", Command::Fuzz { seconds: 5 }),
            ("style", Command::Style),
            ("aarch64", Command::Aarch64 { test: false }),
            ("aarch64 --test", Command::Aarch64 { test: true }),
            ("ci", Command::Ci),
        ] {
            assert_eq!(parsed(line).unwrap(), command, "{line:?}");
        }
    }

    #[test]
    fn arguments_pass_through_untouched() {
        assert_eq!(
            parsed("bench --quick --help --json x.json").unwrap(),
            Command::Bench {
                args: ["--quick", "--help", "--json", "x.json"].map(OsString::from).to_vec()
            }
        );
        assert_eq!(
            parsed("test -- -p nixl-ops -- --nocapture").unwrap(),
            Command::Test {
                cargo_args: ["-p", "nixl-ops", "--", "--nocapture"].map(OsString::from).to_vec()
            }
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, word) in [
            ("stup", "stup"),
            ("setup --interopp", "--interopp"),
            ("setup interop", "interop"),
            ("env --config x", "--config"),
            ("env --cargo-config", "--cargo-config"),
            ("doctor --jsn", "--jsn"),
            ("ptx check", "check"),
            ("test -p nixl-ops", "-p"),
            ("bundle --quick", "--quick"),
            ("ci now", "now"),
            ("fuzz --seconds many", "many"),
            ("fuzz blob", "blob"),
        ] {
            let message = parsed(line).unwrap_err().to_string();
            assert!(message.contains(&format!("`{word}`")), "{line:?}: {message}");
        }
    }
}

//! Programs that print when they are ready, such as the examples.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A program where cargo built it, `env!("CARGO_BIN_EXE_name")`, or beside this test, if both were copied to another machine.
///
/// # Panics
///
/// If it is in neither place.
#[must_use]
pub fn program(built: &str) -> PathBuf {
    let built = Path::new(built);
    let name = built.file_name().expect("the path of a program");
    let beside = env::current_exe().expect("the test knows its own path").with_file_name(name);
    let places = [built, &beside];
    let there = places.into_iter().find(|path| path.is_file());
    there.unwrap_or_else(|| panic!("none of {places:?} is there")).to_owned()
}

/// A program that is ready. Killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    said: String,
    _stdout: BufReader<ChildStdout>,
}

impl Program {
    /// Starts a program and waits for a line that begins so, or for its end.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn run(program: impl AsRef<Path>, args: &[&str], beginning: &str) -> Option<Self> {
        let mut command = Command::new(program.as_ref());
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut lines = stdout.by_ref().lines().map_while(Result::ok);
        let said = lines.find(|line| line.starts_with(beginning));
        let mut program = Self { child, said: String::new(), _stdout: stdout };
        program.said = said?;
        Some(program)
    }

    /// The same of one that does not end.
    ///
    /// # Panics
    ///
    /// If it ends.
    pub fn start(program: impl AsRef<Path>, args: &[&str], beginning: &str) -> Self {
        let started = Self::run(program, args, beginning);
        started.unwrap_or_else(|| panic!("{args:?} does not say {beginning:?}"))
    }

    /// The line.
    #[must_use]
    pub fn said(&self) -> &str {
        &self.said
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

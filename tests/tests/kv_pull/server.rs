//! The servers of the channels: the example's own for HTTP and TCP, and those of NATS and etcd.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use nixl_tests::eventually;
use tokio::runtime::Runtime;

use crate::process::{self, Process};
use crate::{EXAMPLE, LONG};

/// A server that can be killed and started anew at the same address.
pub(crate) struct Server {
    /// The name of the channel.
    pub(crate) channel: &'static str,
    pub(crate) at: String,
    runs: Runs,
}

enum Runs {
    Hub(Option<Program>),
    Process(Process, Runtime),
}

impl Server {
    /// Starts it, or notes that the test is skipped where it is not installed.
    pub(crate) fn start(channel: &'static str, test: &str) -> Option<Self> {
        let runtime = Runtime::new().unwrap();
        let (process, scheme) = match channel {
            "nats" => (runtime.block_on(Process::nats(test, process::nats))?, "nats"),
            "etcd" => {
                let arguments = |folder: &Path, ports: &_| process::etcd("http", folder, ports);
                (runtime.block_on(Process::etcd(test, arguments))?, "http")
            }
            _ => {
                let any = if channel == "http" { "http://127.0.0.1:0" } else { "127.0.0.1:0" };
                let hub = Program::start(&["hub", "--channel", channel, "--at", any], "");
                return Some(Self { channel, at: hub.said.clone(), runs: Runs::Hub(Some(hub)) });
            }
        };
        let at = format!("{scheme}://{}", process.address());
        Some(Self { channel, at, runs: Runs::Process(process, runtime) })
    }

    pub(crate) fn kill(&mut self) {
        match &mut self.runs {
            Runs::Hub(hub) => drop(hub.take()),
            Runs::Process(process, _) => process.kill(),
        }
    }

    pub(crate) fn restart(&mut self) {
        match &mut self.runs {
            Runs::Hub(hub) => {
                let args = ["hub", "--channel", self.channel, "--at", &self.at];
                *hub = Some(eventually("a free address", LONG, || Program::run(&args, "")));
            }
            Runs::Process(process, runtime) => runtime.block_on(process.restart()),
        }
    }

    /// The arguments that name the channel.
    pub(crate) fn args(&self) -> [&str; 4] {
        ["--channel", self.channel, "--at", &self.at]
    }
}

/// The example, as a process that has said its first word. Killed when dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) said: String,
    _stdout: BufReader<ChildStdout>,
}

impl Program {
    pub(crate) fn start(args: &[&str], word: &str) -> Self {
        Self::run(args, word).unwrap_or_else(|| panic!("{args:?} says nothing"))
    }

    /// Starts it and waits for a line that begins so, or for its end.
    pub(crate) fn run(args: &[&str], word: &str) -> Option<Self> {
        let mut child = Command::new(EXAMPLE).args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let said =
            stdout.by_ref().lines().map_while(Result::ok).find(|line| line.starts_with(word));
        let Some(said) = said else {
            child.wait().unwrap();
            return None;
        };
        Some(Self { child, said, _stdout: stdout })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

//! The servers of the channels: the example's own for HTTP and TCP, and those of NATS and etcd.

use std::path::Path;

use nixl_tests::{Program, eventually};
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
                let hub = Program::start(EXAMPLE, &["hub", "--channel", channel, "--at", any], "");
                return Some(Self {
                    channel,
                    at: hub.said().to_owned(),
                    runs: Runs::Hub(Some(hub)),
                });
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
                *hub =
                    Some(eventually("a free address", LONG, || Program::run(EXAMPLE, &args, "")));
            }
            Runs::Process(process, runtime) => runtime.block_on(process.restart()),
        }
    }

    /// The arguments that name the channel.
    pub(crate) fn args(&self) -> [&str; 4] {
        ["--channel", self.channel, "--at", &self.at]
    }
}

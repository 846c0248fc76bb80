//! A network of two hosts on one: a pair of virtual Ethernet devices, one in the namespace of each process.
//!
//! The namespaces have no names and no files: they end with the processes.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::geteuid;

#[derive(Debug)]
pub(super) struct Network {
    owner: u32,
}

impl Network {
    /// Why there can be none here.
    pub(super) fn available() -> Result<(), String> {
        if !geteuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let silent = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        for (program, args) in [("ip", &["-V"][..]), ("nsenter", &["-V"]), ("unshare", &["-V"])] {
            if !silent(program, args) {
                return Err(format!("`{program}` is missing"));
            }
        }
        let inside = "mount -t sysfs soak /sys && ip link add soak0 type veth peer name soak1";
        match silent("unshare", &["--net", "--mount", "sh", "-c", inside]) {
            true => Ok(()),
            false => Err("the system refuses network namespaces or virtual Ethernet".to_owned()),
        }
    }

    /// Connects two processes, each in a namespace of its own.
    pub(super) fn between(owner: u32, reader: u32) -> Result<Self> {
        await_namespace(owner)?;
        await_namespace(reader)?;
        let peer = reader.to_string();
        ip(
            owner,
            &["link", "add", "soak0", "type", "veth", "peer", "name", "soak1", "netns", &peer],
        )?;
        for (pid, device, address) in
            [(owner, "soak0", "10.77.0.1/24"), (reader, "soak1", "10.77.0.2/24")]
        {
            ip(pid, &["address", "add", address, "dev", device])?;
            ip(pid, &["link", "set", "lo", "up"])?;
            ip(pid, &["link", "set", device, "up"])?;
        }
        // The devices carry nothing until the kernel has noticed that both are up.
        for (pid, device) in [(owner, "soak0"), (reader, "soak1")] {
            eventually("a virtual Ethernet device did not come up", || {
                Ok(ip(pid, &["link", "show", "dev", device])?.contains("state UP"))
            })?;
        }
        Ok(Self { owner })
    }

    /// Lets packets through, or not.
    pub(super) fn set(&self, up: bool) -> Result<()> {
        ip(self.owner, &["link", "set", "soak0", if up { "up" } else { "down" }]).map(drop)
    }
}

/// Waits until the process has left the namespace of this one.
fn await_namespace(pid: u32) -> Result<()> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
    let ours = namespace("self").context("no network namespaces")?;
    eventually("a node did not enter its network namespace", || {
        Ok(namespace(&pid.to_string()).context("a node has ended early")? != ours)
    })
}

/// Waits until something is so; the error says that it did not come to be.
fn eventually(error: &'static str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..1000 {
        if is_so()? {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(5));
    }
    bail!(error)
}

/// Runs `ip` in the namespace of a process. Returns what it prints.
fn ip(pid: u32, args: &[&str]) -> Result<String> {
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string(), "--net", "ip"]).args(args);
    let output = command.output().context("cannot start nsenter")?;
    if !output.status.success() {
        bail!("`ip {}` failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

//! The example `kv_pull` as two processes over real NIXL: blocks by ticket, cancelled requests, and an owner that is started anew.
#![allow(clippy::unwrap_used, reason = "a test says so, by failing too")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use nixl_tests::skip;

const EXAMPLE: &str = env!("CARGO_BIN_EXE_example-kv_pull");

/// The side that owns the cache. Killed when dropped.
struct Prefill {
    child: Child,
    url: String,
}

impl Prefill {
    fn start(listen: &str) -> Self {
        let mut child = Command::new(EXAMPLE)
            .args(["prefill", "--listen", listen, "--blocks", "64"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        assert!(url.starts_with("http://127.0.0.1:"), "{url:?}");
        Self { child, url: url.trim().to_owned() }
    }

    fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    fn kill(mut self) -> ExitStatus {
        self.child.kill().unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Prefill {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn decode(mut program: Command, url: &str, requests: &str) -> Child {
    program
        .args(["decode", "--prefill", url, "--requests", requests, "--blocks", "4"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The example in a PID namespace of its own: nothing of the other process can be mapped, so the engine reads bytes and words.
fn apart() -> Option<Command> {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    let mut probe = Command::new("unshare");
    probe.args(["--pid", "--fork", "--mount-proc", "true"]).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success()).then(|| {
        command.arg(EXAMPLE);
        command
    })
}

/// The number after a word of the last line.
fn figure(ended: &Output, word: &str) -> u64 {
    let text = String::from_utf8_lossy(&ended.stdout);
    let mut words = text.lines().last().unwrap_or_default().split_whitespace();
    words.find(|found| *found == word);
    words.next().and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{word}: {ended:?}"))
}

fn pulls(program: Command) {
    let prefill = Prefill::start("127.0.0.1:0");
    let ended = decode(program, &prefill.url, "60").wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let found = ["read", "stale", "imports", "wrong"].map(|word| figure(&ended, word));
    assert_eq!(found, [54, 6, 1, 0], "{ended:?}");
}

#[test]
fn blocks_are_pulled_and_cancelled_requests_are_stale() {
    pulls(Command::new(EXAMPLE));
}

#[test]
fn blocks_are_pulled_by_the_engine_where_nothing_can_be_mapped() {
    let name = "blocks_are_pulled_by_the_engine_where_nothing_can_be_mapped";
    match apart() {
        Some(program) => pulls(program),
        None => skip("the right to make PID namespaces", name),
    }
}

#[test]
fn an_owner_that_is_started_anew_is_imported_anew() {
    let first = Prefill::start("127.0.0.1:0");
    let mut reader = decode(Command::new(EXAMPLE), &first.url, "400");
    let address = first.address().to_owned();
    let mut said = BufReader::new(reader.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line == "import 1"));
    // Some requests are read from each, unless the machine is slow.
    std::thread::sleep(std::time::Duration::from_millis(300));
    first.kill();
    let _second = Prefill::start(&address);
    let rest = said.collect::<Vec<_>>().join("\n");
    let mut ended = reader.wait_with_output().unwrap();
    ended.stdout = rest.into_bytes();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!([figure(&ended, "wrong"), figure(&ended, "imports")], [0, 2], "{ended:?}");
    assert_eq!(figure(&ended, "read") + figure(&ended, "stale"), 400, "{ended:?}");
}

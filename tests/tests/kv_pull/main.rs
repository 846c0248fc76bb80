//! The example `kv_pull` as two processes over real NIXL and each channel: blocks by ticket, cancelled requests, an owner that is
//! started anew, and a channel whose server is.
#![allow(clippy::unwrap_used, reason = "a test says so, by failing too")]

#[path = "../../../crates/nixl-metadata/tests/channels/process.rs"]
mod process;
mod server;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nixl_tests::{Program, skip};

use crate::server::Server;

const EXAMPLE: &str = env!("CARGO_BIN_EXE_example-kv_pull");

/// More than a start takes on a machine that is busy.
const LONG: Duration = Duration::from_secs(30);

/// How long a server is gone.
const OUTAGE: Duration = Duration::from_secs(5);

/// The side that owns the cache.
fn prefill(server: &Server) -> Program {
    Program::start(EXAMPLE, &[&["prefill", "--blocks", "64"], &server.args()[..]].concat(), "ready")
}

fn decode(mut program: Command, server: &Server, requests: &str) -> Child {
    program
        .args(["decode", "--requests", requests, "--blocks", "4"])
        .args(server.args())
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

fn pulls(program: Command, server: &Server) {
    let _prefill = prefill(server);
    let ended = decode(program, server, "60").wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let found = ["read", "stale", "imports", "wrong"].map(|word| figure(&ended, word));
    assert_eq!(found, [54, 6, 1, 0], "{ended:?}");
}

fn pulls_over(channel: &'static str, test: &str) {
    if let Some(server) = Server::start(channel, test) {
        pulls(Command::new(EXAMPLE), &server);
    }
}

#[test]
fn blocks_are_pulled_and_cancelled_requests_are_stale_over_http() {
    pulls_over("http", "blocks_are_pulled_and_cancelled_requests_are_stale_over_http");
}

#[test]
fn blocks_are_pulled_and_cancelled_requests_are_stale_over_tcp() {
    pulls_over("tcp", "blocks_are_pulled_and_cancelled_requests_are_stale_over_tcp");
}

#[test]
fn blocks_are_pulled_and_cancelled_requests_are_stale_over_nats() {
    pulls_over("nats", "blocks_are_pulled_and_cancelled_requests_are_stale_over_nats");
}

#[test]
fn blocks_are_pulled_and_cancelled_requests_are_stale_over_etcd() {
    pulls_over("etcd", "blocks_are_pulled_and_cancelled_requests_are_stale_over_etcd");
}

#[test]
fn blocks_are_pulled_by_the_engine_where_nothing_can_be_mapped() {
    let name = "blocks_are_pulled_by_the_engine_where_nothing_can_be_mapped";
    let Some(program) = apart() else { return skip("the right to make PID namespaces", name) };
    if let Some(server) = Server::start("tcp", name) {
        pulls(program, &server);
    }
}

/// Has something happen to the servers in the middle of 120 requests, and returns what the reader said in the end.
fn disturbed(server: &mut Server, disturb: impl FnOnce(&mut Server, &mut Child)) -> Output {
    let mut reader = decode(Command::new(EXAMPLE), server, "120");
    let mut said = BufReader::new(reader.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line == "request 20"), "{:?}", reader.wait_with_output());
    disturb(server, &mut reader);
    let rest = said.collect::<Vec<_>>().join("\n");
    let mut ended = reader.wait_with_output().unwrap();
    ended.stdout = rest.into_bytes();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(figure(&ended, "wrong"), 0, "{ended:?}");
    assert_eq!(figure(&ended, "read") + figure(&ended, "stale"), 120, "{ended:?}");
    ended
}

#[test]
fn an_owner_that_is_started_anew_is_imported_anew() {
    let mut server =
        Server::start("tcp", "an_owner_that_is_started_anew_is_imported_anew").unwrap();
    let first = prefill(&server);
    let mut second = None;
    let ended = disturbed(&mut server, |server, _| {
        drop(first);
        second = Some(prefill(server));
    });
    assert_eq!(figure(&ended, "imports"), 2, "{ended:?}");
}

/// Reads under way finish and requests wait while the server of the channel is gone; then they go on with what was imported.
fn waits_over(channel: &'static str, test: &str) {
    let Some(mut server) = Server::start(channel, test) else { return };
    let _prefill = prefill(&server);
    let ended = disturbed(&mut server, |server, reader| {
        server.kill();
        std::thread::sleep(OUTAGE);
        assert_eq!(reader.try_wait().unwrap(), None, "it ended without the channel");
        server.restart();
    });
    assert_eq!(figure(&ended, "imports"), 1, "{ended:?}");
}

#[test]
fn requests_wait_for_a_server_that_is_killed_and_started_anew_over_http() {
    waits_over("http", "requests_wait_for_a_server_that_is_killed_and_started_anew_over_http");
}

#[test]
fn requests_wait_for_a_server_that_is_killed_and_started_anew_over_tcp() {
    waits_over("tcp", "requests_wait_for_a_server_that_is_killed_and_started_anew_over_tcp");
}

#[test]
fn requests_wait_for_a_server_that_is_killed_and_started_anew_over_nats() {
    waits_over("nats", "requests_wait_for_a_server_that_is_killed_and_started_anew_over_nats");
}

#[test]
fn requests_wait_for_a_server_that_is_killed_and_started_anew_over_etcd() {
    waits_over("etcd", "requests_wait_for_a_server_that_is_killed_and_started_anew_over_etcd");
}

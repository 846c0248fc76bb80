//! Processes that end, over real NIXL: none crashes, and none logs an error.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so, by failing too")]

use std::env;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

const ENDING: &str = env!("CARGO_BIN_EXE_ending");

/// How each ends: by its exit code, or a signal.
const ENDS: [(&str, Result<i32, i32>); 11] = [
    ("return", Ok(0)),
    ("exit", Ok(0)),
    ("busy", Ok(0)),
    ("panic", Ok(3)),
    ("term", Err(15)),
    ("handled", Ok(0)),
    ("runtime", Ok(0)),
    ("blocked", Ok(0)),
    ("waker", Ok(0)),
    ("building", Ok(0)),
    ("quick", Ok(0)),
];

/// What is wrong with it, if anything: another end, or a line that tells of an error of these crates, UCX or NIXL.
fn fault(output: &Output, expected: Result<i32, i32>) -> Option<String> {
    let ended = output.status.code().ok_or(output.status.signal().unwrap_or(0));
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    let is_bad = |line: &&str| {
        let of_nixl =
            line.starts_with('E') && line.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        of_nixl || ["ERROR", "FATAL", "Fatal"].iter().any(|word| line.contains(word))
    };
    let bad: Vec<_> = text.lines().filter(is_bad).collect();
    (ended != expected || !bad.is_empty()).then(|| format!("{ended:?}: {bad:?}\n{text}"))
}

fn number(variable: &str) -> Option<usize> {
    env::var(variable).ok()?.parse().ok()
}

/// Has `count` processes of each kind end, some at a time.
fn end(count: usize) {
    let processors = thread::available_parallelism().map_or(2, usize::from);
    let at_once = number("NIXL_TEST_ENDS_JOBS").unwrap_or(processors.clamp(2, 16)).max(1);
    for executor in ["default", "path"] {
        for (end, expected) in ENDS {
            let (next, faults) = (AtomicUsize::new(0), AtomicUsize::new(0));
            thread::scope(|scope| {
                for _ in 0..at_once.min(count) {
                    scope.spawn(|| {
                        while next.fetch_add(1, Ordering::Relaxed) < count {
                            let mut command = Command::new(ENDING);
                            command.args([end, executor]).stdin(Stdio::null());
                            let output = command.output().unwrap();
                            if let Some(fault) = fault(&output, expected) {
                                println!("{end} {executor}: {fault}");
                                faults.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                }
            });
            let faults = faults.into_inner();
            println!("{end:8} {executor:8} {count} processes, {faults} faults");
            assert_eq!(faults, 0, "{end} {executor}");
        }
    }
}

#[test]
fn processes_end_without_a_fault() {
    end(2);
}

#[test]
#[ignore = "11,000 processes: cargo test --release -p nixl-tests --test ends -- --ignored --nocapture; NIXL_TEST_ENDS sets the number of each kind, NIXL_TEST_ENDS_JOBS how many run at once"]
fn five_hundred_processes_of_each_kind_end_without_a_fault() {
    end(number("NIXL_TEST_ENDS").unwrap_or(500));
}

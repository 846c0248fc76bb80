//! The examples with memory of every kind, and with kinds that are none.
#![allow(clippy::unwrap_used, reason = "a test says so, by failing too")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Output, Stdio};

use nixl_tests::{crc32, pattern, skip};

const READABLE: &str = env!("CARGO_BIN_EXE_example-readable");
const READ: &str = env!("CARGO_BIN_EXE_example-read");
const WRITABLE: &str = env!("CARGO_BIN_EXE_example-writable");
const WRITE: &str = env!("CARGO_BIN_EXE_example-write");
const KV_PULL: &str = env!("CARGO_BIN_EXE_example-kv_pull");
const TENSOR_SERVER: &str = env!("CARGO_BIN_EXE_example-tensor_server");
const FRONTEND: &str = env!("CARGO_BIN_EXE_example-media_frontend");
const WORKER: &str = env!("CARGO_BIN_EXE_example-media_worker");
const SLICES: &str = env!("CARGO_BIN_EXE_example-cuda_slices");

/// Bytes of the operations: several, and odd.
const BYTES: usize = 100_003;

/// Each example, with the arguments that it needs.
const EXAMPLES: [(&str, &[&str]); 10] = [
    (READABLE, &["--bytes", "1"]),
    (WRITABLE, &["--bytes", "1"]),
    (READ, &[]),
    (WRITE, &[]),
    (KV_PULL, &["prefill"]),
    (KV_PULL, &["decode"]),
    (TENSOR_SERVER, &["serve", "--file", "/dev/null"]),
    (TENSOR_SERVER, &["read"]),
    (FRONTEND, &[]),
    (WORKER, &[]),
];

fn ended(example: &str, args: &[&str], memory: &str) -> Output {
    let mut command = Command::new(example);
    command.args(args).args(["--memory", memory]).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn every_example_refuses_other_memory_in_one_sentence() {
    for (example, args) in EXAMPLES {
        for (memory, sentence) in [
            ("gpu:0", "\"gpu:0\" is none of host, shared, pinned, cuda:N, pool:N, vmm:N, vmmfd:N"),
            ("pool", "\"pool\" is memory of a GPU, whose number follows it, as in pool:0"),
            ("vmmfd:x", "\"x\" after vmmfd: is no number of a GPU, such as 0"),
        ] {
            let ended = ended(example, args, memory);
            let stderr = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.code(), Some(2), "{example} {args:?}: {stderr}");
            assert!(stderr.contains(sentence) && ended.stdout.is_empty(), "{example}: {stderr}");
            assert!(!stderr.contains("panicked"), "{example}: {stderr}");
        }
    }
}

#[test]
fn memory_of_a_gpu_that_is_not_there_is_an_error_with_the_reason() {
    for (example, args) in [EXAMPLES[0], EXAMPLES[1], EXAMPLES[4], EXAMPLES[5], EXAMPLES[6]] {
        for memory in ["cuda:4000000000", "vmmfd:4000000000"] {
            let ended = ended(example, args, memory);
            let stderr = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.code(), Some(1), "{example} {args:?}: {stderr}");
            assert!(stderr.contains(&format!("bytes of {memory}: there is no GPU")), "{stderr}");
        }
    }
    if gpus() == 0 {
        for side in ["offer", "read"] {
            // Without a driver, where cudarc would panic.
            let mut command = Command::new(SLICES);
            let ended = command.arg(side).stdin(Stdio::null()).output().unwrap();
            let stderr = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.code(), Some(1), "{side}: {stderr}");
            assert!(!stderr.contains("panicked"), "{stderr}");
        }
    }
}

fn gpus() -> u32 {
    nixl_device::cuda::probe().as_ref().map_or(0, |driver| driver.device_count())
}

/// The kinds that this machine has.
fn kinds(test: &str) -> Vec<&'static str> {
    let mut kinds = vec!["host", "shared"];
    match gpus() {
        0 => skip("a GPU", test),
        _ => kinds.extend(["pinned", "cuda:0", "pool:0", "vmm:0", "vmmfd:0", "managed:0"]),
    }
    kinds
}

#[test]
fn each_pair_of_memories_holds_the_same_bytes() {
    let kinds = kinds("memories::each_pair_of_memories_holds_the_same_bytes");
    let expected = format!("complete crc32={}\n", crc32(&pattern(0, BYTES)));
    for (offers, takes) in [(READABLE, READ), (WRITABLE, WRITE)] {
        for offered in &kinds {
            for taken in &kinds {
                let bytes = BYTES.to_string();
                let mut offer = Command::new(offers)
                    .args(["--bytes", &bytes, "--memory", offered])
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut lines = BufReader::new(offer.stdout.take().unwrap());
                let mut line = String::new();
                lines.read_line(&mut line).unwrap();
                let mut take = Command::new(takes)
                    .args(["--memory", taken])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                take.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
                let ended = take.wait_with_output().unwrap();
                let mut rest = String::new();
                lines.read_to_string(&mut rest).unwrap();
                assert!(offer.wait().unwrap().success(), "{offered} {taken}");
                assert!(ended.status.success(), "{offered} {taken}");
                assert_eq!(String::from_utf8_lossy(&ended.stdout), expected, "{offered} {taken}");
                assert_eq!(rest, expected, "{offered} {taken}");
            }
        }
    }
}

#[test]
fn a_slice_of_cudarc_is_read_by_another_process() {
    if gpus() == 0 {
        return skip("a GPU", "memories::a_slice_of_cudarc_is_read_by_another_process");
    }
    let elements = 1 << 22;
    let mut offer = Command::new(SLICES);
    let offer = offer.args(["offer", "--elements", &elements.to_string()]).stdout(Stdio::piped());
    let mut offer = offer.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(offer.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut read = Command::new(SLICES);
    let read = read.arg("read").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut read = read.spawn().unwrap();
    read.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    let ended = read.wait_with_output().unwrap();
    assert!(ended.status.success() && offer.wait().unwrap().success());
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(said.contains(&format!("read {elements} numbers by ")), "{said}");
}

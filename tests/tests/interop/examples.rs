//! The examples, as programs: with each other, with Python, and with input that is no good.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nixl_tests::{crc32, pattern, skip};
use rustix::process::{Pid, Signal, kill_process};

use crate::child::{Child, Ended};
use crate::peer::{How, Python};

/// Those that offer, each with the one that takes the offer.
const PAIRS: [(&str, &str); 2] = [("readable", "read"), ("writable", "write")];

fn example(name: &str) -> Command {
    Command::new(match name {
        "readable" => env!("CARGO_BIN_EXE_example-readable"),
        "writable" => env!("CARGO_BIN_EXE_example-writable"),
        "read" => env!("CARGO_BIN_EXE_example-read"),
        "write" => env!("CARGO_BIN_EXE_example-write"),
        _ => panic!("there is no example {name}"),
    })
}

fn start(name: &str, args: &[&str]) -> Child {
    Child::spawn(example(name).args(args))
}

/// Runs an example on some input.
fn run(name: &str, args: &[&str], input: &[&str]) -> Ended {
    let mut child = start(name, args);
    input.iter().for_each(|line| child.send(line));
    child.finish()
}

/// What an example prints for each operation that moved the pattern of the seed.
fn complete(seed: u64, bytes: usize) -> String {
    format!("complete crc32={}", crc32(&pattern(seed, bytes)))
}

fn succeeded(ended: &Ended, lines: &[String]) {
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.lines, lines, "{ended:?}");
}

/// It failed, printed nothing but one error, and that error says this.
fn failed(ended: &Ended, saying: &str) {
    assert!(ended.status.code().is_some_and(|code| code > 0), "{ended:?}");
    assert_eq!(ended.lines, [""; 0], "{ended:?}");
    let mut errors = ended.stderr.lines().filter(|line| line.starts_with("error:"));
    assert!(errors.next().is_some_and(|error| error.contains(saying)), "{saying}: {ended:?}");
    assert_eq!(errors.next(), None, "{ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
}

#[test]
fn each_pair_moves_the_pattern() {
    // The sizes of the descriptors, how many bytes that is, and how many operations.
    let shapes =
        [("1", 1, 1), ("1048577", 1_048_577, 3), ("1,4096,37", 4134, 5), ("67108864", 64 << 20, 1)];
    for (offers, takes) in PAIRS {
        for (bytes, total, count) in shapes {
            let mut one =
                start(offers, &["--bytes", bytes, "--count", &count.to_string(), "--seed", "7"]);
            let offered: Vec<String> = (0..count).map(|_| one.line().unwrap()).collect();
            let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
            let expected: Vec<_> = (7..7 + count).map(|seed| complete(seed, total)).collect();
            succeeded(&run(takes, &["--seed", "7"], &offered), &expected);
            succeeded(&one.finish(), &expected);
        }
    }
}

#[test]
fn each_pair_works_in_a_pipe() {
    for (offers, takes) in PAIRS {
        let mut one = example(offers)
            .args(["--bytes", "4096", "--count", "2"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pipe = one.stdout.take().unwrap();
        let two = example(takes).stdin(pipe).output().unwrap();
        assert!(two.status.success() && one.wait().unwrap().success());
        let expected = format!("{}\n{}\n", complete(0, 4096), complete(1, 4096));
        assert_eq!(String::from_utf8(two.stdout).unwrap(), expected);
    }
}

#[test]
fn another_seed_is_seen_in_the_sum() {
    for (offers, takes) in PAIRS {
        let mut one = start(offers, &["--bytes", "4096", "--seed", "1"]);
        let line = one.line().unwrap();
        let two = run(takes, &["--seed", "2"], &[&line]);
        // The side that is the source has its way.
        let expected = [complete(if takes == "write" { 2 } else { 1 }, 4096)];
        succeeded(&two, &expected);
        succeeded(&one.finish(), &expected);
    }
    assert_ne!(complete(1, 4096), complete(2, 4096));
}

#[test]
fn an_operation_that_fails_does_not_undo_those_before() {
    let mut one = start("readable", &["--bytes", "4096"]);
    let line = one.line().unwrap();
    let two = run("read", &[], &[&line, "no metadata"]);
    assert_eq!(two.lines, [complete(0, 4096)]);
    assert_eq!(two.status.code(), Some(1), "{two:?}");
    succeeded(&one.finish(), &[complete(0, 4096)]);
}

#[test]
fn input_that_is_no_good_is_one_error() {
    let mut readable = start("readable", &["--bytes", "4096"]);
    let readable_line = readable.line().unwrap();
    let mut writable = start("writable", &["--bytes", "4096"]);
    let writable_line = writable.line().unwrap();
    let unknown_field = readable_line.replacen('{', r#"{"more":1,"#, 1);
    let too_large = readable_line.replace(r#""size":4096"#, &format!(r#""size":{}"#, 1u64 << 62));
    // Beyond the largest slab of the pool, which is registered as a whole.
    let not_offered = readable_line.replace(r#""size":4096"#, r#""size":33554432"#);
    let garbled = readable_line.replace("b64:", "b64:AAAA");
    for (takes, input, saying) in [
        ("read", "garbage", "not JSON"),
        ("write", "{}", "missing"),
        ("read", "[1, 2]", "must be"),
        ("read", unknown_field.as_str(), "more"),
        ("read", too_large.as_str(), "bytes"),
        ("read", not_offered.as_str(), "not registered"),
        ("read", garbled.as_str(), "nixl_metadata"),
        ("read", writable_line.as_str(), "offers a WRITE"),
        ("write", readable_line.as_str(), "offers a READ"),
    ] {
        failed(&run(takes, &[], &[input]), saying);
    }
    for takes in ["read", "write"] {
        failed(&run(takes, &[], &[]), "stdin has no line");
        let mut child = start(takes, &["--timeout", "1"]);
        // Stdin stays open, so it is the time that ends this one.
        assert_eq!(child.line(), None);
        failed(&child.finish(), "within 1s");
    }
    // The offers are none the worse for it.
    let ended = run("read", &[], &[&readable_line]);
    succeeded(&ended, &[complete(0, 4096)]);
}

#[test]
fn arguments_that_are_no_good_are_one_error() {
    for args in [
        &[][..],
        &["--bytes", "0"],
        &["--bytes", "many"],
        &["--bytes", "-1"],
        &["--bytes", "18446744073709551615"],
        &["--bytes", "18446744073709551615,1"],
        &["--bytes", "1", "--count", "0"],
        &["--bytes", "1", "--timeout", "0"],
        &["--bytes", "1", "--seed", "x"],
        &["--bytes", "1", "--unknown"],
        &["--bytes", "1", "superfluous"],
    ] {
        for (offers, _) in PAIRS {
            failed(&run(offers, args, &[]), "");
        }
    }
    failed(&run("read", &["--bytes", "1"], &[]), "--bytes");
}

#[test]
fn without_a_peer_the_time_runs_out() {
    for (offers, _) in PAIRS {
        let since = Instant::now();
        let mut child = start(offers, &["--bytes", "4096", "--timeout", "1"]);
        assert!(child.line().unwrap().starts_with('{'));
        failed(&child.finish(), "within 1s");
        let took = since.elapsed();
        assert!((Duration::from_secs(1)..Duration::from_secs(20)).contains(&took), "{took:?}");
    }
}

#[test]
fn a_peer_that_is_gone_is_an_error() {
    for (offers, takes) in PAIRS {
        let mut one = start(offers, &["--bytes", "4096"]);
        let line = one.line().unwrap();
        one.kill();
        failed(&run(takes, &["--timeout", "60"], &[&line]), "gone");
    }
}

#[test]
fn a_closed_stdout_is_an_error() {
    for (offers, _) in PAIRS {
        let mut child = example(offers)
            .args(["--bytes", "1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr, "error: cannot write to stdout: Broken pipe (os error 32)\n");
    }
}

#[test]
fn an_interrupt_ends_it_at_once() {
    for (offers, _) in PAIRS {
        // A shell's job in the background ignores the signal, and so do the children of its children.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT").arg(example(offers).get_program());
        let mut child = Child::spawn(command.args(["--bytes", "4096", "--timeout", "600"]));
        child.line().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        let ended = child.finish();
        assert_eq!(ended.status.signal(), Some(Signal::INT.as_raw()), "{ended:?}");
    }
}

#[test]
fn without_nixl_the_error_says_where_it_was_looked_for() {
    let nowhere = tempfile::tempdir().unwrap();
    let (prefix, runtime) = (nowhere.path().join("prefix"), nowhere.path().join("runtime"));
    let mut child = Child::spawn(
        example("readable")
            .args(["--bytes", "1", "--timeout", "1"])
            .env("NIXL_PREFIX", &prefix)
            .env("NIXL_RUNTIME_DIR", &runtime)
            .env_remove("LD_LIBRARY_PATH"),
    );
    if child.line().is_some() {
        return skip("a machine without NIXL in the system", "without_nixl_the_error_says_where");
    }
    let ended = child.finish();
    failed(&ended, prefix.to_str().unwrap());
    failed(&ended, runtime.to_str().unwrap());
}

#[test]
fn python_is_a_peer_of_every_example() {
    let mut python = Python::start();
    for (kind, takes) in [("READ", "read"), ("WRITE", "write")] {
        for sizes in [&[(1 << 20) + 1][..], &[1, 4096, 37]] {
            let (id, line) = python.offer(kind, sizes, 5, How::default());
            let expected = complete(5, sizes.iter().sum());
            succeeded(&run(takes, &["--seed", "5"], &[&line]), std::slice::from_ref(&expected));
            assert_eq!(format!("complete crc32={}", python.wait(id)), expected);
        }
    }
    for (offers, _) in PAIRS {
        let mut one = start(offers, &["--bytes", "1,1048577", "--count", "2", "--seed", "5"]);
        let lines = [one.line().unwrap(), one.line().unwrap()];
        let expected = [complete(5, 1_048_578), complete(6, 1_048_578)];
        for ((seed, line), expected) in (5..).zip(&lines).zip(&expected) {
            let crc32 = python.transfer(line, seed);
            assert_eq!(&format!("complete crc32={crc32}"), expected);
        }
        succeeded(&one.finish(), &expected);
    }
}

//! A program that is linked with `nixl-connector`, on a machine that has neither NIXL nor CUDA.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so, by failing too")]

use std::process::Command;

use nixl_tests::skip;

#[test]
fn both_are_missing_and_the_simulated_transport_works() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_no-engine"))
        .env("NIXL_PREFIX", empty.path())
        .env("NIXL_RUNTIME_DIR", empty.path())
        .env("CUDA_VISIBLE_DEVICES", "-1")
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", output.status);
    let line = |what: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(what));
        line.unwrap_or_else(|| panic!("nothing about {what}")).trim()
    };

    // Each missing part is an error value.
    assert!(line("cuda:").starts_with("error "), "{said}");
    assert_eq!(line("simulated:"), "verified");
    if !line("nixl:").starts_with("error ") {
        return skip(
            "a machine on which NIXL is not installed",
            "both_are_missing_and_the_simulated_transport_works",
        );
    }
    assert!(line("nixl:").starts_with("error Nixl(NotFound"), "{said}");
    // And the message says where was looked, and what to do.
    let advice = line("advice:");
    assert!(advice.contains(&*empty.path().to_string_lossy()), "{advice}");
    assert!(advice.contains("NIXL_PREFIX"), "{advice}");
}

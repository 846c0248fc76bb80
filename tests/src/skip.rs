//! Tests that cannot run on this machine say so.
#![allow(clippy::print_stdout, reason = "a skip is part of the output of the test")]

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;

/// Says, where `cargo xtask test` counts it, that the test `name` was skipped for want of something.
pub fn skip(wanted: &str, name: &str) {
    let line = format!("SKIPPED({wanted}): {name}\n");
    print!("{line}");
    if let Some(log) = env::var_os("NIXL_TEST_SKIP_LOG") {
        // One write, so that the lines of tests that run at the same time stay whole.
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        assert!(written.is_ok(), "cannot note in {} that {name} was skipped", log.display());
    }
}

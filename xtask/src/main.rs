//! Set-up, tests, benchmark and checks.

fn main() {}

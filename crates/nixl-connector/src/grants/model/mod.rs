//! A model of an owner and its readers on a stepped network: every read is right, or ends with the reason.
//!
//! The network moves one chunk of one request at a time, in any order. Between two chunks the owner grants, ends and overwrites
//! blocks and slots are granted anew; readers are stopped, cut off, killed and started anew, and so is the owner. A read that
//! succeeds has the bytes that were granted, under a grant that had not ended when it began. A read is stale only if its grant may
//! have ended, and fails otherwise only if a process was killed.
//!
//! `cargo xtask mutants` sees that it fails for each wrong way to check a read.

mod clock;
mod owner;
mod reader;
mod world;

use std::collections::BTreeMap;

use world::World;

/// A sequence that a seed gives.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }

    /// Once in so many times.
    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

fn run(seed: u64, steps: usize) -> BTreeMap<&'static str, usize> {
    let mut world = World::new(seed);
    while world.steps() < steps {
        world.step();
    }
    world.settle()
}

#[test]
fn reads_are_right_or_stale() {
    let counts = run(1, 6_000);
    for outcome in ["right", "stale"] {
        let count = counts.get(outcome).copied().unwrap_or(0);
        assert!(count >= 20, "{outcome}: {counts:?}");
    }
}

#[test]
#[ignore = "a minute: cargo test --release -p nixl-connector --lib -- --ignored --nocapture a_million_steps"]
#[allow(clippy::print_stdout, reason = "figures for the reader")]
fn a_million_steps_of_reads_are_right_or_stale() {
    println!("{:?}", run(2, 1_000_000));
}

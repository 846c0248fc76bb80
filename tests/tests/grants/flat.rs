//! Cycles of a grant, a read and its end: memory, files and threads stay as they are.

use std::fs;
use std::time::{Duration, Instant};

use nixl_metadata::{ExportMetadata, Ticket};
use nixl_tests::{
    Cache, Peer, Resources, alone_within, block_of, bytes_of, eventually, resources, within,
};

use super::{By, PEER, local, start};

const SEED: u64 = 5;
const LIMIT: Duration = Duration::from_secs(1_800);
/// What comes and goes.
const ALLOWED: usize = 4 << 20;

/// What the system says of a process.
fn held_by(pid: u32) -> [usize; 3] {
    let count = |what| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let pages = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
    [pages * rustix::param::page_size(), count("fd"), count("task")]
}

fn held_here() -> [usize; 3] {
    let Resources { resident, files, threads, .. } = resources();
    [resident, files, threads]
}

fn cycles(name: &str, by: By, cycles: usize) {
    alone_within(LIMIT, name, &local(), || {
        within(LIMIT, async {
            let mut owner = match by {
                By::Engine => Peer::start(PEER, &[]),
                By::Paths => start(by, 16),
            };
            let export = owner.ask(&format!("export {SEED}")).unwrap();
            let export = ExportMetadata::decode(&bytes_of(&export).unwrap()).unwrap();
            let pid = export.peer().host().pid();
            let connector = by.builder().build().await.unwrap();
            let import = connector.import(&export).await.unwrap();
            let cache = Cache::of_pages(&connector, 16).unwrap();
            let (began, warm) = (Instant::now(), cycles / 4);
            let mut before = None;
            let mut last = None;
            for cycle in 0..cycles {
                if cycle == warm {
                    before = Some((held_here(), held_by(pid)));
                }
                let blocks = [cycle % 64, (cycle + 7) % 64, (cycle + 31) % 64];
                let [a, b, c] = blocks;
                // Both at once, to wait for the owner half as often.
                if let Some(last) = &last {
                    owner.tell(&format!("end {last}")).unwrap();
                }
                owner.tell(&format!("grant {a},{b},{c}")).unwrap();
                if last.is_some() {
                    owner.answer("end").unwrap();
                }
                let answer = owner.answer("grant").unwrap();
                let (number, ticket) = answer.split_once(' ').unwrap();
                let ticket = Ticket::decode(&bytes_of(ticket).unwrap()).unwrap();
                import.read_blocks(&ticket, &cache.layout, &[1, 0, 5]).await.unwrap();
                if cycle % 97 == 0 {
                    let found = [1, 0, 5].map(|block| cache.block(block).unwrap());
                    assert!(found == blocks.map(|block| block_of(SEED, block)), "wrong bytes");
                }
                // By its reader's message, or by its owner.
                if cycle % 8 == 0 {
                    import.done(&ticket).await.unwrap();
                }
                last = Some(number.to_owned());
            }
            let (here, there) = before.unwrap();
            let took = began.elapsed();
            let is_flat = |before: [usize; 3], now: [usize; 3]| {
                now[0] <= before[0] + ALLOWED && now[1] <= before[1] && now[2] <= before[2]
            };
            println!(
                "{by:?}: {cycles} cycles in {took:.1?}; resident, files, threads here {here:?} -> {:?}, of the owner {there:?} -> {:?}",
                held_here(),
                held_by(pid),
            );
            eventually("both hold what they held", Duration::from_secs(20), || {
                (is_flat(here, held_here()) && is_flat(there, held_by(pid))).then_some(())
            });
        });
    });
}

#[test]
fn cycles_leave_nothing_behind_by_the_engine() {
    cycles("flat::cycles_leave_nothing_behind_by_the_engine", By::Engine, 2_000);
}

#[test]
fn cycles_leave_nothing_behind_by_paths() {
    cycles("flat::cycles_leave_nothing_behind_by_paths", By::Paths, 2_000);
}

#[test]
#[ignore = "minutes: cargo test --release -p nixl-tests --test grants -- --ignored --nocapture a_million_cycles"]
fn a_million_cycles_leave_nothing_behind() {
    cycles("flat::a_million_cycles_leave_nothing_behind", By::Paths, 1_000_000);
}

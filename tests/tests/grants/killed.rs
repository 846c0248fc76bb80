//! Initiators that are killed at random steps: their blocks come back.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nixl_connector::{
    Connector, ConnectorError, Export, GrantOptions, RevokeOutcome, WriteGrant, WriteGrantOptions,
};
use nixl_descriptor::leaked;
use nixl_tests::{Cache, Peer, Random, alone_within, eventually, hex_line, within};

use super::{By, PEER, local, start};

/// Tokens of a page: blocks have 1 MiB.
const PAGE: usize = 4096;
/// Blocks of a grant.
const COUNT: usize = 4;
/// The first half of the cache is read, and the second written.
const HALF: usize = Cache::BLOCKS / 2;
const TIME_TO_LIVE: Duration = Duration::from_secs(2);
/// How long blocks may take to come back by proof.
const PROOF: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(1_200);

/// One initiator's life, up to a random step.
fn live_and_die(by: By, random: &mut Random, export: &str, command: &str) {
    let mut peer = start(by, PAGE);
    let pause = |random: &mut Random, most| {
        thread::sleep(Duration::from_micros(random.below(most)));
    };
    match random.below(8) {
        0 => {}
        1 => {
            peer.tell(&format!("import {export}")).unwrap();
            pause(random, 5_000);
        }
        step => {
            peer.ask(&format!("import {export}")).unwrap();
            peer.tell(command).unwrap();
            match step == 2 {
                true => drop(peer.answer(command)),
                false => pause(random, 4_000),
            }
        }
    }
    peer.kill().unwrap();
}

async fn is_free(export: &Export, block: u32) -> Result<(), ConnectorError> {
    let options = GrantOptions::new().time_to_live(TIME_TO_LIVE);
    drop(export.grant(0, &[block], options)?);
    let options = WriteGrantOptions::new().time_to_live(TIME_TO_LIVE);
    let mut write = export.grant_write(0, &[block], options).await?;
    write.revoke();
    Ok(())
}

/// The blocks of a round's grant, in their half of the cache.
fn blocks_of(round: usize, half: usize) -> Vec<u32> {
    (0..COUNT).map(|at| (half * HALF + (round * COUNT + at) % HALF) as u32).collect()
}

/// Grants to write, once the blocks' grant of before has ended and they are quiet.
async fn grant_write(export: &Export, blocks: &[u32]) -> WriteGrant {
    let until = Instant::now() + TIME_TO_LIVE + PROOF;
    loop {
        let options = WriteGrantOptions::new().time_to_live(TIME_TO_LIVE);
        match export.grant_write(0, blocks, options).await {
            Ok(write) => return write,
            Err(error) => assert!(Instant::now() < until, "blocks {blocks:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn killed(connector: &Connector, by: By, each: usize) {
    let mut random = Random::new(20_261_129);
    let cache = Cache::of_pages(connector, PAGE).unwrap();
    let export = connector.export([("cache", cache.layout.clone())]).await.unwrap();
    let metadata = hex_line(&export.metadata().encode().unwrap());
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    let (mut written, mut held) = (0, 0);
    let mut over = Instant::now();
    for round in 0..each {
        let options = GrantOptions::new().time_to_live(TIME_TO_LIVE);
        let read = export.grant(0, &blocks_of(round, 0), options).unwrap();
        let ticket = hex_line(&read.ticket().encode());
        reads.push(read);
        live_and_die(by, &mut random, &metadata, &format!("blocks {ticket}"));
        let mut write = grant_write(&export, &blocks_of(round, 1)).await;
        over = Instant::now() + TIME_TO_LIVE;
        let ticket = hex_line(&write.ticket().encode());
        live_and_die(by, &mut random, &metadata, &format!("put {ticket}"));
        // Some grants are revoked at once, and the others live as long as they may.
        match round % 2 == 0 {
            true => match write.revoke() {
                RevokeOutcome::Held => held += 1,
                RevokeOutcome::AlreadyEnded(_) => written += 1,
                _ => {}
            },
            false => writes.push(write),
        }
    }
    for block in 0..Cache::BLOCKS as u32 {
        while let Err(error) = is_free(&export, block).await {
            assert!(Instant::now() < over + PROOF, "block {block}: {error}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let free = Instant::now().saturating_duration_since(over);
    eventually("nothing is held for writers", PROOF, || {
        (connector.stats().quarantined().offers() == 0).then_some(())
    });
    let quiet = Instant::now().saturating_duration_since(over);
    assert_eq!(leaked(), Default::default());
    for block in 0..Cache::BLOCKS {
        cache.fill(block, 1).unwrap();
    }
    println!(
        "{by:?}: {each} grants to read and {each} to write; of {} that were revoked, {held} were being written and {written} \
         had been; after the time to live of the last, all blocks were free in {free:?} and nothing was held in {quiet:?}",
        each.div_ceil(2),
    );
}

/// A reader whose parent is a shell, so that it is no child of this process. It ends with its input.
fn start_by_shell() -> Peer {
    let (name, value) = By::STAGED;
    let mut command = Command::new("sh");
    let mut reader =
        Peer::spawn_by(command.args(["-c", "\"$0\"; :", PEER]).env(name, value)).unwrap();
    reader.answer("start").unwrap();
    reader.ask(&format!("pages {PAGE}")).unwrap();
    reader
}

/// A reader that is younger than a killed writer's grant has the same memory mapped. It is no child of the writer.
async fn killed_beside_a_younger_reader(connector: &Connector) {
    let mut random = Random::new(20_261_130);
    let cache = Cache::of_pages(connector, PAGE).unwrap();
    let export = connector.export([("cache", cache.layout.clone())]).await.unwrap();
    let metadata = hex_line(&export.metadata().encode().unwrap());
    let blocks = blocks_of(0, 1);
    for _ in 0..200 {
        let mut write = grant_write(&export, &blocks).await;
        let ticket = hex_line(&write.ticket().encode());
        let mut writer = start(By::Paths, PAGE);
        writer.ask(&format!("import {metadata}")).unwrap();
        writer.tell(&format!("put {ticket}")).unwrap();
        thread::sleep(Duration::from_micros(random.below(4_000)));
        writer.kill().unwrap();
        // It reads after the kill, so it has begun after the grant.
        let mut reader = start_by_shell();
        reader.ask(&format!("import {metadata}")).unwrap();
        let read = export.grant(0, &blocks_of(0, 0), GrantOptions::new()).unwrap();
        reader.ask(&format!("blocks {}", hex_line(&read.ticket().encode()))).unwrap();
        if write.revoke() == RevokeOutcome::Held {
            drop(grant_write(&export, &blocks).await);
            assert!(reader.kill().is_ok(), "the reader has lived until then");
            return;
        }
    }
    panic!("no writer was killed at its write");
}

#[test]
fn blocks_come_back_while_a_younger_reader_has_the_cache() {
    let name = "killed::blocks_come_back_while_a_younger_reader_has_the_cache";
    alone_within(LIMIT, name, &local(), || {
        within(LIMIT, async {
            let connector = By::Paths.builder().build().await.unwrap();
            killed_beside_a_younger_reader(&connector).await;
        });
    });
}

fn run(name: &str, by: By, each: usize) {
    alone_within(LIMIT, name, &local(), || {
        within(LIMIT, async {
            let connector = by.builder().build().await.unwrap();
            killed(&connector, by, each).await;
        });
    });
}

#[test]
fn blocks_come_back_from_killed_initiators_by_the_engine() {
    run("killed::blocks_come_back_from_killed_initiators_by_the_engine", By::Engine, 8);
}

#[test]
fn blocks_come_back_from_killed_initiators_by_paths() {
    run("killed::blocks_come_back_from_killed_initiators_by_paths", By::Paths, 8);
}

#[test]
#[ignore = "minutes: cargo test --release -p nixl-tests --test grants -- --ignored --nocapture a_hundred_and_fifty"]
fn a_hundred_and_fifty_of_each_are_killed_by_the_engine() {
    run("killed::a_hundred_and_fifty_of_each_are_killed_by_the_engine", By::Engine, 150);
}

#[test]
#[ignore = "minutes: cargo test --release -p nixl-tests --test grants -- --ignored --nocapture a_hundred_and_fifty"]
fn a_hundred_and_fifty_of_each_are_killed_by_paths() {
    run("killed::a_hundred_and_fifty_of_each_are_killed_by_paths", By::Paths, 150);
}

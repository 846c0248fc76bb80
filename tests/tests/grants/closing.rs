//! Owners that close their exports while readers are at work, and give the memory back to the system, and once readers are done or
//! gone.

use std::path::Path;
use std::time::Duration;

use nixl_connector::{DriverConfig, GrantOptions};
use nixl_descriptor::leaked;
use nixl_tests::{By, Cache, Peer, PeerError, Random, alone_within, crc32, hex_line, within};

use super::start;

/// Tokens of a page: blocks have 256 KiB.
const PAGE: usize = 1024;
const READERS: usize = 3;
const ROUNDS: u64 = 4;
const BLOCKS: usize = 16;
const TIME_TO_LIVE: Duration = Duration::from_secs(1);
/// Of processes of one host.
const SKEW: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(300);

/// UCX's TCP checks no registration: a late read of memory that is gone ends the owner.
fn tcp() -> [(&'static str, &'static Path); 2] {
    [("UCX_TLS", Path::new("tcp")), ("UCX_MEM_EVENTS", Path::new("no"))]
}

#[test]
fn exports_close_with_readers_at_work_over_tcp() {
    let name = "closing::exports_close_with_readers_at_work_over_tcp";
    alone_within(LIMIT, name, &tcp(), || within(LIMIT, closed_with_readers_at_work()));
}

async fn closed_with_readers_at_work() {
    let driver = DriverConfig::default().clock_skew(SKEW);
    let connector = By::Engine.builder().driver(driver).build().await.unwrap();
    let mut random = Random::new(20_261_130);
    let mut readers: Vec<Peer> = (0..READERS).map(|_| start(By::Engine, PAGE)).collect();
    let (mut right, mut stale) = (0, 0);
    for round in 0..ROUNDS {
        let cache = Cache::of_own_pages(PAGE).unwrap();
        let mut expected = Vec::new();
        for block in 0..BLOCKS {
            cache.fill(block, round * 1000 + block as u64).unwrap();
            expected.extend(cache.block(block).unwrap());
        }
        let expected = crc32(&expected);
        let export = connector.export([("cache", cache.layout.clone())]).await.unwrap();
        let metadata = hex_line(&export.metadata().encode().unwrap());
        for reader in &mut readers {
            reader.ask(&format!("import {metadata}")).unwrap();
        }
        let ids: Vec<u32> = (0..BLOCKS as u32).collect();
        let options = GrantOptions::new()
            .time_to_live(TIME_TO_LIVE)
            .readers((READERS as u32).try_into().unwrap());
        let grant = export.grant(0, &ids, options).unwrap();
        let command = format!("blocks {}", hex_line(&grant.ticket().encode()));
        readers.iter_mut().for_each(|reader| reader.tell(&command).unwrap());
        tokio::time::sleep(Duration::from_micros(random.below(40_000))).await;
        assert!(export.close(LIMIT).await, "it is quiet some time");
        drop((grant, cache));
        for reader in &mut readers {
            match reader.answer(&command) {
                Ok(crc) => {
                    assert_eq!(crc, expected);
                    right += 1;
                }
                Err(PeerError::Refused(said)) => {
                    assert!(said.contains("Stale"), "{said}");
                    stale += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert_eq!(connector.stats().retained().offers(), 0);
    assert_eq!(leaked(), Default::default());
    println!("{right} reads were right, and {stale} stale");
}

/// What a reader of a closed export does. Its ticket lives on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reader {
    Done,
    /// Only after the export was closed.
    DoneLate,
    Silent,
    Killed,
}

#[test]
fn exports_close_when_their_readers_are_done_or_gone() {
    let name = "closing::exports_close_when_their_readers_are_done_or_gone";
    alone_within(LIMIT, name, &tcp(), || within(LIMIT, closed_by_readers()));
}

async fn closed_by_readers() {
    const TIME_TO_LIVE: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(1500);
    for by in [By::Engine, By::Paths] {
        let connector = by.builder().build().await.unwrap();
        let is_free = async || {
            while connector.stats().retained().offers() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        for does in [Reader::Done, Reader::DoneLate, Reader::Silent, Reader::Killed] {
            let cache = Cache::of_own_pages(PAGE).unwrap();
            let export = connector.export([("cache", cache.layout.clone())]).await.unwrap();
            let mut reader = start(by, PAGE);
            let metadata = hex_line(&export.metadata().encode().unwrap());
            reader.ask(&format!("import {metadata}")).unwrap();
            let options = GrantOptions::new().time_to_live(TIME_TO_LIVE);
            let grant = export.grant(0, &[0, 1], options).unwrap();
            let ticket = hex_line(&grant.ticket().encode());
            reader.ask(&format!("blocks {ticket}")).unwrap();
            let done = format!("done {ticket}");
            match does {
                Reader::Done => {
                    reader.ask(&done).unwrap();
                    assert!(export.close(LIMIT).await, "{by:?}");
                }
                Reader::DoneLate => {
                    assert!(!export.close(SHORT).await, "{by:?}: it may be reading");
                    reader.ask(&done).unwrap();
                    is_free().await;
                }
                Reader::Silent => {
                    assert!(!export.close(SHORT).await, "{by:?}: it may be reading");
                    assert_eq!(connector.stats().retained().offers(), 1);
                    drop(reader);
                    is_free().await;
                }
                Reader::Killed => {
                    drop(reader);
                    assert!(export.close(LIMIT).await, "{by:?}");
                }
            }
            drop((grant, cache));
            println!("{by:?}: {does:?}");
        }
    }
    assert_eq!(leaked(), Default::default());
}

/// The rest of an answer waits in the engine, which reads it from the memory once its reader takes it.
#[test]
fn memory_stays_while_an_answer_to_a_stopped_reader_is_under_way() {
    let name = "closing::memory_stays_while_an_answer_to_a_stopped_reader_is_under_way";
    alone_within(LIMIT, name, &tcp(), || within(LIMIT, closed_amid_an_answer()));
}

async fn closed_amid_an_answer() {
    /// Blocks of 16 MiB: more than sockets hold.
    const PAGE: usize = 65_536;
    /// In which an export without reads under way is closed: its time, the skew, and two looks.
    const CLOSES: Duration = Duration::from_secs(4);
    let driver = DriverConfig::default().clock_skew(SKEW);
    let connector = By::Engine.builder().driver(driver).build().await.unwrap();
    let (mut amid, mut delay) = (0, Duration::from_millis(1));
    // A delay that is too long finds the read at its end.
    for round in 0..12 {
        let cache = Cache::of_own_pages(PAGE).unwrap();
        (0..4).for_each(|block| cache.fill(block, round + block as u64).unwrap());
        let expected: Vec<u8> = (0..4).flat_map(|block| cache.block(block).unwrap()).collect();
        let expected = crc32(&expected);
        let export = connector.export([("cache", cache.layout.clone())]).await.unwrap();
        let mut reader = start(By::Engine, PAGE);
        let metadata = hex_line(&export.metadata().encode().unwrap());
        reader.ask(&format!("import {metadata}")).unwrap();
        let options = GrantOptions::new().time_to_live(TIME_TO_LIVE);
        let grant = export.grant(0, &[0, 1, 2, 3], options).unwrap();
        let command = format!("blocks {}", hex_line(&grant.ticket().encode()));
        reader.tell(&command).unwrap();
        tokio::time::sleep(delay).await;
        reader.stop().unwrap();
        let is_free = export.close(CLOSES).await;
        drop((grant, cache));
        if is_free {
            delay = delay.mul_f64(0.7);
        } else {
            assert_eq!(connector.stats().retained().offers(), 1);
            amid += 1;
        }
        reader.resume().unwrap();
        match reader.answer(&command) {
            Ok(crc) => assert_eq!(crc, expected),
            Err(PeerError::Refused(said)) => {
                assert!(["Stale", "Expired"].iter().any(|why| said.contains(why)), "{said}");
            }
            Err(error) => panic!("{error}"),
        }
        while connector.stats().retained().offers() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if amid == 2 {
            break;
        }
        delay += Duration::from_millis(2);
    }
    assert!(amid > 0, "no read was stopped amid its answer");
    assert_eq!(leaked(), Default::default());
}

//! Waits of another process for layers.

use std::thread;
use std::time::{Duration, Instant};

use nixl_connector::GrantOptions;
use nixl_tests::{Cache, PeerError, alone_within, hex_line, within};

use super::{By, local, start};

const LIMIT: Duration = Duration::from_secs(120);
const PAGE: usize = 16;
const ROUNDS: usize = 21;
/// The peer has asked by then, mostly.
const PAUSE: Duration = Duration::from_millis(20);

fn waits(name: &str, by: By) {
    alone_within(LIMIT, name, &local(), || {
        within(LIMIT, async {
            let connector = by.builder().build().await.unwrap();
            let cache = Cache::of_pages(&connector, PAGE).unwrap();
            let export = connector.export([("cache", cache.layout.clone())]).await.unwrap();
            let mut peer = start(by, PAGE);
            let metadata = hex_line(&export.metadata().encode().unwrap());
            peer.ask(&format!("import {metadata}")).unwrap();
            let mut times = Vec::new();
            for round in 0..ROUNDS {
                let grant = export.grant(0, &[3], GrantOptions::new().ready(0)).unwrap();
                let ticket = hex_line(&grant.ticket().encode());
                for layers in 1..=2 {
                    peer.tell(&format!("ready {ticket} {layers}")).unwrap();
                    thread::sleep(PAUSE);
                    let begun = Instant::now();
                    grant.ready_through(layers).unwrap();
                    assert_eq!(peer.answer("ready").unwrap(), layers.to_string());
                    times.push(begun.elapsed());
                }
                // Of the first grant, the connection to the reader.
                if round == 0 {
                    println!("{by:?}: the first waits ended after {times:?}");
                    times.clear();
                }
            }
            times.sort_unstable();
            println!("{by:?}: median of {}: {:?}", times.len(), times[times.len() / 2]);
            let grant = export.grant(0, &[3], GrantOptions::new().ready(0)).unwrap();
            let ticket = hex_line(&grant.ticket().encode());
            peer.tell(&format!("ready {ticket} 2")).unwrap();
            thread::sleep(PAUSE);
            grant.end();
            let refused = peer.answer("ready");
            let Err(PeerError::Refused(said)) = refused else { panic!("{refused:?}") };
            assert!(said.contains("Stale"), "{said}");
        });
    });
}

#[test]
fn another_process_waits_for_layers_by_the_engine() {
    waits("waits::another_process_waits_for_layers_by_the_engine", By::Engine);
}

#[test]
fn another_process_waits_for_layers_by_paths() {
    waits("waits::another_process_waits_for_layers_by_paths", By::Paths);
}

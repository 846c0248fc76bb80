//! Offers that end, over real NIXL: used once, abandoned, raced for, and left behind by initiators that die.
//!
//! Each test runs in a process of its own, in which nothing else is offered, leaked or counted.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::path::Path;
use std::thread;
use std::time::Duration;

use nixl_connector::{ClaimDemand, Connector, ConnectorError, OperationOptions, RevokeOutcome};
use nixl_descriptor::{Region, SharedMemory, leaked};
use nixl_metadata::{NativeVersion, RdmaMetadata};
use nixl_ops::RecentCheck;
use nixl_tests::{
    By, Memory, Offer, Peer, PeerError, alone, crc32, eventually, hex_line, local, metadata,
    native_line, pattern, resources, within,
};

const PEER: &str = env!("CARGO_BIN_EXE_peer");
const LIMIT: Duration = Duration::from_secs(100);
/// How long memory may take to come back by proof.
const PROOF: Duration = Duration::from_secs(10);
const LEN: usize = 100_000;
const LARGE: usize = 64 << 20;

type Variables = [(&'static str, &'static Path)];

/// As between machines.
fn tcp() -> [(&'static str, &'static Path); 2] {
    [("UCX_TLS", Path::new("tcp")), ("UCX_MEM_EVENTS", Path::new("no"))]
}

/// One use of an offer of `len` bytes. Returns what was read.
async fn used(
    connector: &Connector,
    kind: &str,
    remote: &RdmaMetadata,
) -> Result<Vec<u8>, ConnectorError> {
    let region = Region::try_from(pattern(99, LEN)).unwrap();
    if kind == "readable" {
        connector.begin_read(remote, region.clone()).await?.wait_for_completion().await?;
    } else {
        connector.begin_write(region.clone(), remote).await?.wait_for_completion().await?;
    }
    Ok(region.to_vec().unwrap())
}

/// One use by a process.
fn used_by(peer: &mut Peer, kind: &str, line: &str) -> Result<String, PeerError> {
    let number = match kind {
        "readable" => peer.ask(&format!("read {line}"))?,
        _ => peer.ask(&format!("write 99 {line}"))?,
    };
    peer.ask(&format!("wait {number}"))
}

// ---- Used again ----

/// Each connector that has used an offer, or has its message, tries it again.
struct Again {
    first: Connector,
    second: Connector,
    other: Peer,
}

impl Again {
    async fn refused(&mut self, what: &str, kind: &str, line: &str, is_native: bool) {
        let remote = metadata(line).unwrap();
        for connector in [&self.first, &self.second] {
            let again = used(connector, kind, &remote).await;
            assert!(again.is_err(), "{what}: used twice by one process");
        }
        // Dynamo's profile says nothing that another process could know it by.
        if is_native {
            let again = used_by(&mut self.other, kind, line);
            assert!(matches!(again, Err(PeerError::Refused(_))), "{what}: {again:?}");
        }
    }
}

fn used_again(name: &str, variables: &Variables, by: By) {
    alone(name, variables, || {
        within(LIMIT, async {
            let mut target = by.start(PEER);
            let mut again = Again {
                first: by.builder().build().await.unwrap(),
                second: by.builder().build().await.unwrap(),
                other: by.start(PEER),
            };
            let mut seed = 0;
            for memory in [Memory::Host, Memory::Shared] {
                target.ask(&format!("memory {memory}")).unwrap();
                for (kind, profile) in [
                    ("readable", "native"),
                    ("writable", "native"),
                    ("readable", "dynamo"),
                    ("writable", "dynamo"),
                ] {
                    let what = format!("{memory} {kind} {profile}");
                    target.ask(&format!("profile {profile}")).unwrap();
                    seed += 2;
                    let Offer { id, json: line, .. } = target.offer(kind, LEN, seed).unwrap();
                    let bytes = used(&again.first, kind, &metadata(&line).unwrap()).await.unwrap();
                    let expected = if kind == "readable" { seed } else { 99 };
                    assert!(bytes == pattern(expected, LEN), "{what}");

                    // Its owner has the memory back, and uses it for something else.
                    target.ask(&format!("reuse {id} {}", seed + 1)).unwrap();
                    again.refused(&what, kind, &line, profile == "native").await;
                    let found = target.ask(&format!("look {id}")).unwrap();
                    assert_eq!(found, crc32(&pattern(seed + 1, LEN)), "{what}: overwritten");

                    target.ask(&format!("free {id}")).unwrap();
                    again.refused(&what, kind, &line, profile == "native").await;
                    target.ask("stats").unwrap();
                }
            }
            assert_eq!(leaked(), Default::default());
        });
    });
}

#[test]
fn used_again_by_the_engine() {
    used_again("used_again_by_the_engine", &local(), By::Engine);
}

#[test]
fn used_again_over_tcp() {
    used_again("used_again_over_tcp", &tcp(), By::Engine);
}

#[test]
fn used_again_by_paths() {
    used_again("used_again_by_paths", &local(), By::Paths);
}

// ---- Abandoned ----

#[test]
fn abandoned_readable_offers_are_free_to_overwrite_at_once() {
    alone("abandoned_readable_offers_are_free_to_overwrite_at_once", &local(), || {
        within(LIMIT, async {
            for by in [By::Engine, By::Paths] {
                let builder = by.builder().clock_skew(Duration::ZERO);
                let connector = builder.build().await.unwrap();
                let life = Duration::from_secs(2);
                for round in 0..300 {
                    let region = by.memory(&pattern(round, LEN));
                    let options = OperationOptions::new().life_time(life);
                    let offer = connector.create_readable_with(region.clone(), options);
                    let offer = offer.await.unwrap();
                    offer.metadata().to_native_bytes().unwrap();
                    drop(offer);
                    region.copy_from_slice(0, &[1; LEN]).unwrap();
                }
                assert!(connector.stats().retained().offers() > 0, "none is freed yet");
                eventually("their memory is freed", PROOF, || {
                    let stats = connector.stats();
                    (stats.retained().offers() == 0 && stats.passive() == 0).then_some(())
                });
            }
            assert_eq!(leaked(), Default::default());
        });
    });
}

#[test]
fn abandoned_writable_offers_that_demand_claims_come_back_at_once() {
    alone("abandoned_writable_offers_that_demand_claims_come_back_at_once", &local(), || {
        within(LIMIT, async {
            for by in [By::Engine, By::Paths] {
                let connector = by.builder().build().await.unwrap();
                for round in 0..300 {
                    let region = by.memory(&pattern(round, LEN));
                    let options = OperationOptions::new().claims(ClaimDemand::Everywhere);
                    let offer = connector.create_writable_with(region.clone(), options);
                    let mut offer = offer.await.unwrap();
                    offer.metadata().to_native_bytes().unwrap();
                    assert_eq!(offer.revoke(), RevokeOutcome::Free);
                    drop(offer);
                    assert!(region.to_vec().unwrap() == pattern(round, LEN));
                    region.copy_from_slice(0, &[1; LEN]).unwrap();
                }
                let stats = connector.stats();
                assert_eq!((stats.passive(), stats.quarantined().offers()), (0, 0));
            }
            assert_eq!(leaked(), Default::default());
        });
    });
}

// ---- Initiators that die ----

/// A claimed write whose initiator is killed before it has said that it is done: the memory comes back by proof.
fn killed_while_it_writes(name: &str, variables: &Variables, by: By) {
    alone(name, variables, || {
        within(LIMIT, async {
            let connector = by.builder().build().await.unwrap();
            // The write may be over, or not have begun, when its process is killed.
            for _ in 0..20 {
                let mut peer = by.start(PEER);
                peer.ask("profile native").unwrap();
                let region = by.memory(&vec![0; LARGE]);
                let mut offer = connector.create_writable(region.clone()).await.unwrap();
                peer.ask(&format!("write 7 {}", native_line(offer.metadata()))).unwrap();
                peer.kill().unwrap();
                let outcome = offer.revoke();
                drop(offer);
                eventually("the memory comes back", PROOF, || region.to_vec().ok());
                if outcome == RevokeOutcome::Held {
                    eventually("nothing is left", PROOF, || {
                        (connector.stats().quarantined().offers() == 0).then_some(())
                    });
                    assert_eq!(leaked(), Default::default());
                    return;
                }
            }
            panic!("no write was killed in time");
        });
    });
}

#[test]
fn killed_while_it_writes_by_the_engine() {
    killed_while_it_writes("killed_while_it_writes_by_the_engine", &local(), By::Engine);
}

#[test]
fn killed_while_it_writes_over_tcp() {
    killed_while_it_writes("killed_while_it_writes_over_tcp", &tcp(), By::Engine);
}

#[test]
fn killed_while_it_writes_by_paths() {
    killed_while_it_writes("killed_while_it_writes_by_paths", &local(), By::Paths);
}

/// Initiators of 32 MiB writes that are killed one after another: what they held is given back to the system.
#[test]
fn memory_of_killed_initiators_goes_back_to_the_system() {
    const LEN: usize = 32 << 20;
    alone("memory_of_killed_initiators_goes_back_to_the_system", &local(), || {
        within(LIMIT, async {
            let connector = Connector::builder().build().await.unwrap();
            let round = async || {
                let mut peer = By::Engine.start(PEER);
                peer.ask("profile native").unwrap();
                let region = By::Engine.memory(&vec![1; LEN]);
                let mut offer = connector.create_writable(region.clone()).await.unwrap();
                peer.ask(&format!("write 7 {}", native_line(offer.metadata()))).unwrap();
                peer.kill().unwrap();
                offer.revoke()
            };
            let nothing_is_held = || {
                eventually("nothing is held", PROOF, || {
                    (connector.stats().quarantined().offers() == 0).then_some(())
                });
            };
            round().await;
            nothing_is_held();
            let before = resources();
            let mut held = 0;
            for _ in 0..24 {
                held += usize::from(round().await == RevokeOutcome::Held);
            }
            nothing_is_held();
            assert!(held > 0, "none was killed in the middle");
            // A thread of its own frees it.
            let grown = eventually("the memory goes back to the system", PROOF, || {
                let grown = resources().resident.saturating_sub(before.resident);
                (grown < LEN).then_some(grown)
            });
            println!("{held} of 24 held their memory; {} KiB more are resident", grown >> 10);
            assert_eq!(leaked(), Default::default());
        });
    });
}

// ---- Races ----

/// Two processes with one message: one of them writes, and the other hears that it came too late.
#[test]
fn one_of_two_initiators_writes() {
    alone("one_of_two_initiators_writes", &local(), || {
        within(LIMIT, async {
            for by in [By::Engine, By::Paths] {
                let connector = by.builder().build().await.unwrap();
                let mut peers = [by.start(PEER), by.start(PEER)];
                for round in 0..20 {
                    let len = if round % 2 == 0 { LEN } else { 4 << 20 };
                    let region = by.memory(&vec![0; len]);
                    let mut offer = connector.create_writable(region.clone()).await.unwrap();
                    let line = native_line(offer.metadata());
                    let commands = [0, 1].map(|seed| format!("write {seed} {line}"));
                    for (peer, command) in peers.iter_mut().zip(&commands) {
                        peer.tell(command).unwrap();
                    }
                    let mut won = Vec::new();
                    for (seed, (peer, command)) in peers.iter_mut().zip(&commands).enumerate() {
                        let begun = peer.answer(command);
                        match begun.and_then(|number| peer.ask(&format!("wait {number}"))) {
                            Ok(_) => won.push(seed as u64),
                            Err(PeerError::Refused(error)) => {
                                assert!(error.contains("OfferEnded"), "{error}");
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                    offer.wait_for_completion().await.unwrap();
                    let [seed] = won[..] else { panic!("written by {won:?}") };
                    assert!(region.to_vec().unwrap() == pattern(seed, len), "not the winner's");
                }
                assert_eq!(connector.stats().second_completions(), 0);
            }
        });
    });
}

/// One message in the owner's process and in another one: a copy inside the process is a use like any other.
#[test]
fn the_owner_s_process_and_another_one_do_not_both_write() {
    alone("the_owner_s_process_and_another_one_do_not_both_write", &local(), || {
        within(LIMIT, async {
            let [owner, near] = [By::Paths.builder(), By::Paths.builder()];
            let (owner, near) = (owner.build().await.unwrap(), near.build().await.unwrap());
            let mut peer = By::Paths.start(PEER);
            let mut won = [0; 2];
            for round in 0..20 {
                let len = if round % 2 == 0 { LEN } else { LARGE };
                let region = Region::shared(len).unwrap();
                let mut offer = owner.create_writable(region.clone()).await.unwrap();
                let line = native_line(offer.metadata());
                let ours = Region::try_from(pattern(1, len)).unwrap();
                let number = peer.ask(&format!("write 2 {line}")).unwrap();
                let here = match near.begin_write(ours, &metadata(&line).unwrap()).await {
                    Ok(mut write) => write.wait_for_completion().await.is_ok(),
                    Err(_) => false,
                };
                let there = peer.ask(&format!("wait {number}")).is_ok();
                assert_ne!(here, there, "round {round}: written by both, or by neither");
                offer.wait_for_completion().await.unwrap();
                let seed = if here { 1 } else { 2 };
                assert!(region.to_vec().unwrap() == pattern(seed, len), "not the winner's");
                won[usize::from(here)] += 1;
            }
            assert!(won[0] > 0, "{won:?}");
        });
    });
}

// ---- Shares that vanish ----

/// A late initiator finds the share gone, and does not have the engine reach for its address: a process that had
/// the share open, even if the message says nothing of the offer's state, and one that had not.
#[test]
fn a_share_that_has_vanished_is_not_reached_by_the_engine() {
    alone("a_share_that_has_vanished_is_not_reached_by_the_engine", &local(), || {
        within(LIMIT, async {
            let connector = By::Paths.builder().build().await.unwrap();
            let [mut opened, mut first, mut fresh] = [(); 3].map(|()| By::Paths.start(PEER));
            for kind in ["readable", "writable"] {
                // A file of its own, which goes with the region.
                let region = Region::try_from(SharedMemory::new(LEN).unwrap()).unwrap();
                let mut old = String::new();
                let mut new = String::new();
                for peer in [&mut opened, &mut first] {
                    let line = |remote: &RdmaMetadata| {
                        let old = remote.to_native_bytes_as(NativeVersion::V3).unwrap();
                        (hex_line(&old), native_line(remote))
                    };
                    if kind == "readable" {
                        let mut offer = connector.create_readable(region.clone()).await.unwrap();
                        (old, new) = line(offer.metadata());
                        used_by(peer, kind, &new).unwrap();
                        offer.wait_for_completion().await.unwrap();
                    } else {
                        let mut offer = connector.create_writable(region.clone()).await.unwrap();
                        (old, new) = line(offer.metadata());
                        used_by(peer, kind, &new).unwrap();
                        offer.wait_for_completion().await.unwrap();
                    }
                }
                let name = region.shared_name().unwrap();
                drop(region);
                // The driver may hold the ended offer for a moment longer than its waiter.
                eventually("the share is gone", LIMIT, || (!name.is_there()).then_some(()));
                // What a process has seen a moment ago, it does not look at again.
                thread::sleep(2 * RecentCheck::TTL);
                for (peer, line) in [(&mut opened, &old), (&mut fresh, &new)] {
                    let refused = used_by(peer, kind, line).unwrap_err().to_string();
                    let gone = "OfferEnded { why: OwnerGone }";
                    assert!(refused.contains(gone), "{kind}: {refused}");
                }
            }
            assert_eq!(leaked(), Default::default());
        });
    });
}

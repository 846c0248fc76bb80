//! Tests of the table of peers.

mod model;

use std::ops::Range;
use std::time::Duration;

use nixl_device::{Device, ProcessExits};
use proptest::prelude::*;

use super::*;

fn metadata(text: &str) -> AgentMetadata {
    AgentMetadata::compress(text.as_bytes()).unwrap()
}

fn to(name: &str) -> Connected {
    Connected::to(PeerId::new(name))
}

/// The peers that are disconnected to make room, if those of `busy` cannot be.
fn disconnected(table: &PeerTable, busy: &[&str]) -> Vec<String> {
    let mut disconnected = Vec::new();
    table.make_room(|peer| {
        let is_idle = !busy.contains(&peer.as_str());
        disconnected.extend(is_idle.then(|| peer.to_string()));
        is_idle
    });
    disconnected
}

#[test]
fn the_least_recently_used_makes_room() {
    let table = PeerTable::new(2);
    assert!(table.insert(metadata("a"), &to("a")));
    assert!(table.insert(metadata("b"), &to("b")));
    assert!(table.get(&metadata("a"), None).is_some());
    assert!(disconnected(&table, &[]).is_empty());
    assert!(table.insert(metadata("c"), &to("c")));
    assert_eq!(disconnected(&table, &[]), ["b"]);
    assert!(disconnected(&table, &[]).is_empty());
    assert_eq!(table.get(&metadata("b"), None), None);
    assert_eq!(table.len(), 2);
}

#[test]
fn a_busy_peer_stays_with_its_watch_and_another_makes_room() {
    let table = PeerTable::new(1);
    table.insert(metadata("a"), &to("a"));
    let pid = std::process::id();
    let watch = ProcessExits::global().watch(pid, None, || ()).unwrap();
    table.watch(&PeerId::new("a"), watch);
    table.insert(metadata("b"), &to("b"));
    assert!(disconnected(&table, &["a"]).is_empty(), "the latest stays, too");
    table.insert(metadata("c"), &to("c"));
    assert_eq!(disconnected(&table, &["a"]), ["b"]);
    assert!(table.get(&metadata("a"), None).is_some());
    assert!(table.lock().known_mut(&PeerId::new("a")).is_some_and(|known| known.exit.is_some()));
    assert_eq!(disconnected(&table, &[]), ["c"], "a was used since");
    assert_eq!(table.len(), 1);
}

#[test]
fn the_process_of_a_lost_peer_is_watched_on() {
    let table = PeerTable::new(4);
    let (peers, pid) = (["a", "b"].map(PeerId::new), std::process::id());
    for peer in &peers {
        table.insert(metadata(peer.as_str()), &to(peer.as_str()));
        table.watch(peer, ProcessExits::global().watch(pid, None, || ()).unwrap());
    }
    assert!(peers.iter().all(|peer| table.remove_lost(peer)));
    assert!(!table.remove_lost(&peers[0]) && table.len() == 0);
    assert_eq!(table.lock().lost.len(), 1, "once for all of its agents");
    table.unwatch_lost(pid);
    assert!(table.lock().lost.is_empty());
}

#[test]
fn a_peer_that_has_ended_meanwhile_is_not_inserted_again() {
    let table = PeerTable::new(2);
    assert!(!table.insert_if_known(metadata("a"), &to("a")));
    table.insert(metadata("a"), &to("a"));
    assert!(table.insert_if_known(metadata("b"), &to("a")));
    assert!(table.remove(&PeerId::new("a")));
    assert!(!table.insert_if_known(metadata("b"), &to("a")));
    assert!(table.get(&metadata("b"), None).is_none() && table.len() == 0);
}

#[test]
fn a_peer_that_could_not_be_watched_is_due_again_once_a_second() {
    let table = PeerTable::new(2);
    let (peer, pid) = (PeerId::new("a"), std::process::id());
    let due = |second| table.due_watch(|| Duration::from_secs(second));
    table.insert(metadata("a"), &to("a"));
    assert_eq!(due(9), None);
    table.watch_later(&peer, pid);
    assert_eq!(due(9), Some((peer.clone(), pid)));
    table.watch_later(&peer, pid);
    assert_eq!(due(9), None);
    assert_eq!(due(10), Some((peer.clone(), pid)));
    table.watch(&peer, ProcessExits::global().watch(pid, None, || ()).unwrap());
    assert_eq!(due(99), None);
    table.watch_later(&peer, pid);
    table.remove(&peer);
    assert_eq!(due(999), None);
}

#[test]
fn superseding_voids_what_was_loaded_before() {
    let table = PeerTable::new(8);
    table.insert(metadata("a1"), &to("a"));
    table.insert(metadata("b"), &to("b"));
    table.insert(metadata("a2"), &to("a").superseding());
    assert_eq!(table.get(&metadata("a1"), None), None);
    assert!(table.get(&metadata("b"), None).is_some());
    assert!(table.remove(&PeerId::new("a")));
    assert!(!table.remove(&PeerId::new("a")));
    assert_eq!(table.len(), 1);
}

#[test]
fn what_was_loaded_in_part_is_not_taken_for_the_whole() {
    let table = PeerTable::new(2);
    let range = |ptr, size| SerializedDescriptor::new(Device::HOST, ptr, size).unwrap();
    let part = |start, end| Vec::from([Range { start, end }]);
    let (first, second) = ([range(100, 10)], [range(205, 5)]);
    let is_loaded = |needed| table.get(&metadata("a"), needed).is_some();
    let loaded = || [Some(&first[..]), Some(&second[..]), None].map(is_loaded);
    table.insert(metadata("a"), &to("a").in_part(part(100, 110)));
    assert_eq!(loaded(), [true, false, false]);
    table.insert(metadata("a"), &to("a").in_part(part(200, 210)));
    assert_eq!(loaded(), [true, true, false], "the parts add up");
    table.insert(metadata("b"), &to("a").in_part(part(100, 110)));
    table.insert(metadata("a"), &to("a"));
    assert_eq!(loaded(), [true; 3]);
    table.insert(metadata("a"), &to("a").in_part(part(100, 110)));
    assert_eq!(loaded(), [true; 3], "what was loaded stays so");
    table.insert(metadata("a"), &to("a").superseding().in_part(part(200, 210)));
    assert_eq!(loaded(), [false, true, false]);
    assert!(table.get(&metadata("b"), Some(&first)).is_none(), "it was superseded");
}

proptest! {
    #[test]
    fn what_is_found_was_inserted_last_for_its_peer(
        uses in proptest::collection::vec((0u8..5, 0u8..40, any::<bool>()), 0..200),
    ) {
        let table = PeerTable::new(3);
        for (peer, data, superseding) in uses {
            let text = format!("{peer} {data}");
            let connected = to(&peer.to_string());
            let connected = if superseding { connected.superseding() } else { connected };
            table.insert(metadata(&text), &connected);
            table.make_room(|_| true);
            prop_assert_eq!(table.get(&metadata(&text), None), Some(connected.into_peer()));
            let state = table.lock();
            prop_assert!(state.known <= 3);
            let kept: usize = state.all_known().map(|(_, known)| known.metadata.len()).sum();
            prop_assert_eq!(kept, state.by_metadata.len());
            prop_assert!(state.all_known().all(|(_, k)| k.metadata.len() <= State::METADATA));
        }
    }
}

#[test]
fn the_announced_ends_that_are_remembered_are_bounded() {
    let table = PeerTable::new(2);
    for name in 0..=State::LEFT + 1 {
        let name = name.to_string();
        table.insert(metadata(&name), &to(&name));
        assert!(table.note_leaving(&PeerId::new(&*name)) && table.remove(&PeerId::new(&*name)));
    }
    assert_eq!(table.lock().peers.len(), State::LEFT);
    let announces = |name: &str| {
        table.insert(metadata(name), &to(name));
        table.note_leaving(&PeerId::new(name))
    };
    assert!(announces("0") && !announces("9"));
}

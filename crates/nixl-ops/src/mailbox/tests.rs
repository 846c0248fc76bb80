//! Senders and the owner of one page: against a model, in parallel, and with a third process that misuses the page.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::VecDeque;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;

use nixl_descriptor::{SharedMemory, SharedName};
use nixl_metadata::SlotAddress;
use proptest::collection::vec;
use proptest::prelude::*;

use super::lane::{Inbox, Lane, free_lanes_of, free_lanes_of_ended_foreign};
use super::ring::Ring;
use super::{Mailbox, Mailboxes};
use crate::slots::{OfferPage, RemoteSlots};
use crate::{PeerId, TransportError};

fn page() -> SharedMemory {
    SharedMemory::new(SlotAddress::LENGTH_WITH_MAILBOX).unwrap()
}

fn claimed(memory: &SharedMemory) -> Lane {
    let lane = Lane::default();
    assert!(lane.claim(memory, None));
    lane
}

/// What arrives, as text of the sender and payload.
fn taken(inbox: &mut Inbox, memory: &SharedMemory) -> Vec<(String, Vec<u8>)> {
    let mut messages = Vec::new();
    inbox.take(memory, &mut |message| {
        messages.push((message.from.to_owned(), message.payload.to_vec()));
    });
    messages
}

#[derive(Clone, Debug)]
enum Step {
    Post { sender: usize, name: usize, len: usize, fill: u8 },
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => 0usize..40, 1 => 0usize..8000];
    prop_oneof![
        3 => (0usize..3, 1usize..30, len, any::<u8>())
            .prop_map(|(sender, name, len, fill)| Step::Post { sender, name, len, fill }),
        1 => Just(Step::Take),
    ]
}

proptest! {
    /// Each sender's messages arrive whole, in order and once; one that does not fit leaves no trace.
    #[test]
    fn letters_arrive_as_they_were_posted(steps in vec(step(), 0..200)) {
        let memory = page();
        let lanes: Vec<_> = (0..3).map(|_| claimed(&memory)).collect();
        let mut inbox = Inbox::default();
        let mut waiting: Vec<VecDeque<(String, Vec<u8>)>> = vec![VecDeque::new(); 3];
        for step in steps.into_iter().chain([Step::Take, Step::Take, Step::Take, Step::Take]) {
            match step {
                Step::Post { sender, name, len, fill } => {
                    let from = format!("{sender}{}", "n".repeat(name));
                    let payload = vec![fill; len];
                    prop_assert!(Lane::fits(&from, &payload));
                    if lanes[sender].post(&memory, &from, &payload).is_some() {
                        waiting[sender].push_back((from, payload));
                    }
                }
                Step::Take => {
                    for message in taken(&mut inbox, &memory) {
                        let sender = message.0[..1].parse::<usize>().unwrap();
                        prop_assert_eq!(waiting[sender].pop_front(), Some(message));
                    }
                }
            }
        }
        prop_assert!(waiting.iter().all(VecDeque::is_empty), "messages are lost");
        prop_assert_eq!(inbox.garbage(), 0);
    }

    /// A process that writes anything anywhere costs messages, and no more: the owner's work is bounded, and once it stops, messages
    /// arrive again.
    #[test]
    fn a_page_of_anything_costs_letters_only(
        words in vec((0usize..2100, prop_oneof![any::<u64>(), 0u64..5000, Just(head())]), 0..60),
        bits in any::<u64>(),
    ) {
        let memory = page();
        let lane = claimed(&memory);
        let mut inbox = Inbox::default();
        prop_assert!(lane.post(&memory, "before", b"1").is_some());
        for (word, value) in words {
            if let Some(word) = memory.word(Ring::of_page(0).word(word)) {
                word.store(value, Ordering::Relaxed);
            }
        }
        memory.word(SlotAddress::MAILBOX).unwrap().fetch_or(bits, Ordering::Relaxed);
        for _ in 0..40 {
            let mut count = 0;
            inbox.take(&memory, &mut |_| count += 1);
            prop_assert!(count <= 64 * SlotAddress::LANES);
        }
        prop_assert!(taken(&mut inbox, &memory).is_empty(), "the owner never catches up");
        // The sender knows its own count, the owner its own; a message that they disagree on is skipped as garbage.
        let mut arrived = false;
        for _ in 0..3 {
            arrived |= lane.post(&memory, "after", b"2").is_some()
                && taken(&mut inbox, &memory) == [("after".to_owned(), b"2".to_vec())];
        }
        prop_assert!(arrived, "messages of an honest sender do not arrive again");
    }
}

/// The first word of a message.
fn head() -> u64 {
    u64::from(SlotAddress::MESSAGE_MARK) << 48 | 5 << 32 | 40
}

#[test]
fn a_full_ring_takes_letters_again_once_the_owner_has_read() {
    let memory = page();
    let lane = claimed(&memory);
    let mut inbox = Inbox::default();
    let payload = [7; 1000];
    let posted = (0..).take_while(|_| lane.post(&memory, "a", &payload).is_some()).count();
    assert_eq!(posted, (SlotAddress::LANE_WORDS - 16) / 127);
    assert_eq!(taken(&mut inbox, &memory).len(), posted);
    assert!(lane.post(&memory, "a", &payload).is_some());
}

#[test]
fn what_is_too_long_is_known_beforehand() {
    assert!(Mailbox::fits("a", &[0; 8 * (Ring::LONGEST - 2)]));
    assert!(!Mailbox::fits("a", &[0; 8 * (Ring::LONGEST - 2) + 1]));
    assert!(!Mailbox::fits(&"a".repeat(1 << 16), b""));
}

#[test]
fn letters_under_names_that_no_agent_has_are_skipped() {
    let memory = page();
    let lane = claimed(&memory);
    let mut inbox = Inbox::default();
    let long = "x".repeat(255);
    let names = ["a\nb", "\u{7}", &format!("{long}x"), &long, "after"];
    for name in names {
        assert!(lane.post(&memory, name, b"1").is_some());
    }
    let expected = [&*long, "after"].map(|name| (name.to_owned(), b"1".to_vec()));
    assert_eq!(taken(&mut inbox, &memory), expected);
    assert_eq!(inbox.garbage(), 3);
    let fits = names.map(|name| Mailbox::fits(name, b"1"));
    assert_eq!(fits, [false, false, false, true, true]);
}

#[test]
fn letters_arrive_while_more_are_posted() {
    const LETTERS: u32 = 20_000;
    let memory = page();
    thread::scope(|scope| {
        for sender in 0..2 {
            let memory = &memory;
            scope.spawn(move || {
                let lane = claimed(memory);
                for number in 0..LETTERS {
                    let payload = number.to_ne_bytes().repeat(1 + number as usize % 7);
                    while lane.post(memory, &sender.to_string(), &payload).is_none() {
                        thread::yield_now();
                    }
                }
            });
        }
        let (mut inbox, mut next) = (Inbox::default(), [0; 2]);
        while next != [LETTERS; 2] {
            for (from, payload) in taken(&mut inbox, &memory) {
                let number = &mut next[from.parse::<usize>().unwrap()];
                assert_eq!(payload, number.to_ne_bytes().repeat(1 + *number as usize % 7));
                *number += 1;
            }
        }
        assert_eq!(inbox.garbage(), 0);
    });
}

#[test]
fn a_lane_goes_from_a_sender_that_has_ended_to_the_next() {
    let memory = page();
    let mut child = Command::new("true").spawn().unwrap();
    let ended = u64::from(child.id());
    child.wait().unwrap();
    let claim = |index| memory.word(Ring::of_page(index).word(0)).unwrap();
    let held: Vec<_> = (0..SlotAddress::LANES - 1).map(|_| claimed(&memory)).collect();
    claim(SlotAddress::LANES - 1).store(ended | 5 << 22, Ordering::Relaxed);
    let last = claimed(&memory);
    let none = Lane::default();
    assert!(!none.claim(&memory, None), "all are taken");
    let mut inbox = Inbox::default();
    assert!(last.post(&memory, "last", b"1").is_some());
    // What was sent before the lane was given back arrives.
    last.release(&memory);
    assert!(none.claim(&memory, None));
    assert!(none.post(&memory, "next", b"2").is_some());
    let expected = [("last", b"1"), ("next", b"2")].map(|(n, p)| (n.to_owned(), p.to_vec()));
    assert_eq!(taken(&mut inbox, &memory), expected);
    drop(held);
}

/// Two connections of this process: each finds the other's mailbox by a name, and answers by the name beside a message.
#[test]
fn a_letter_can_be_answered() {
    let [a, b] = [(); 2].map(|()| {
        let page = Arc::new(OfferPage::default());
        let slots = Arc::new(RemoteSlots::default());
        (Mailboxes::new(slots, Arc::clone(&page)), page)
    });
    let name = b.1.or_make().unwrap().name();
    assert!(a.0.get(&name).is_none() && !a.0.knows(&name));
    a.0.open(&name);
    let to_b = a.0.get(&name).unwrap();
    assert!(to_b.post(&PeerId::new("b"), "a", b"question").is_ready());
    b.1.take_messages(&mut |message| b.0.note(message.from, message.reply.unwrap()));
    let reply = b.0.page_of("a").unwrap();
    assert!(reply == a.1.or_make().unwrap().name());
    b.0.open(&reply);
    let to_a = b.0.get(&reply).unwrap();
    assert!(to_a.post(&PeerId::new("a"), "b", b"answer").is_ready());
    let mut answers = Vec::new();
    a.1.take_messages(&mut |message| answers.push(message.payload.to_vec()));
    assert_eq!(answers, [b"answer".to_vec()]);
    // A page that is gone is said so.
    drop(b);
    let gone = TransportError::PeerGone { name: "b".to_owned() };
    let posted = to_b.post(&PeerId::new("b"), "a", b"more");
    assert_eq!(posted, std::task::Poll::Ready(Err(gone)));
}

#[test]
fn a_letter_in_the_name_of_an_agent_does_not_lead_its_answers_elsewhere() {
    let page = Arc::new(OfferPage::default());
    let mailboxes = Mailboxes::new(Arc::default(), page);
    let [first, second] =
        [(); 2].map(|()| SharedMemory::new(SlotAddress::LENGTH_WITH_MAILBOX).unwrap());
    mailboxes.note("a", first.name());
    mailboxes.note("a", second.name());
    assert!(mailboxes.page_of("a").is_some_and(|page| page == first.name()));
    drop(first);
    mailboxes.note("a", second.name());
    assert!(mailboxes.page_of("a").is_some_and(|page| page == second.name()));
}

#[test]
fn a_page_without_a_mailbox_has_none() {
    let old = SharedMemory::new(SlotAddress::LENGTH).unwrap();
    assert!(!Lane::default().claim(&old, None));
    let mailboxes = Mailboxes::new(Arc::default(), Arc::default());
    let name: SharedName = old.name();
    mailboxes.open(&name);
    assert!(mailboxes.get(&name).is_none());
}

#[test]
fn the_lanes_of_a_process_that_has_ended_are_free() {
    let (memory, pid) = (page(), std::process::id());
    let lanes: Vec<_> = (0..SlotAddress::LANES).map(|_| claimed(&memory)).collect();
    assert!(lanes[0].post(&memory, "agent", b"last").is_some());
    assert!(!Lane::default().claim(&memory, None));
    free_lanes_of(&memory, pid ^ 1);
    assert!(!Lane::default().claim(&memory, None));
    free_lanes_of(&memory, pid);
    assert!(Lane::default().claim(&memory, None));
    let letter = ("agent".to_owned(), b"last".to_vec());
    assert_eq!(taken(&mut Inbox::default(), &memory), [letter], "what was written arrives");
}

#[test]
fn the_lanes_of_containers_are_free_once_none_has_the_page() {
    let memory = page();
    let lanes: Vec<_> = (0..SlotAddress::LANES).map(|_| claimed(&memory)).collect();
    // As senders in other PID namespaces claim, which was given the file of none of them here.
    for at in 1..SlotAddress::LANES {
        let claim = memory.word(Ring::of_page(at).word(0)).unwrap();
        claim.store(5 << Lane::PID_BITS | 1, Ordering::Release);
    }
    free_lanes_of_ended_foreign(&memory);
    let is_free =
        |at: &usize| memory.word(Ring::of_page(*at).word(0)).unwrap().load(Ordering::Acquire) == 0;
    assert_eq!((0..SlotAddress::LANES).filter(is_free).count(), SlotAddress::LANES - 1);
    drop(lanes);
}

#[test]
fn the_page_of_an_agent_that_has_ended_is_forgotten() {
    let (page, memory) = (Arc::<OfferPage>::default(), page());
    let mailboxes = Mailboxes::new(Arc::<RemoteSlots>::default(), page);
    mailboxes.note("agent", memory.name());
    assert_eq!(mailboxes.page_of("agent"), Some(memory.name()));
    mailboxes.forget("agent");
    assert_eq!(mailboxes.page_of("agent"), None);
}

#[test]
fn an_agent_that_introduces_itself_comes_with_the_process_of_its_page() {
    let mailboxes = Mailboxes::new(Arc::<RemoteSlots>::default(), Arc::<OfferPage>::default());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    mailboxes.set_on_introduced(move |agent, pid| noted.lock().unwrap().push((agent.clone(), pid)));
    let (memory, agent) = (page(), PeerId::new("agent"));
    mailboxes.introduced(&agent);
    mailboxes.note("agent", memory.name());
    mailboxes.introduced(&agent);
    // Its page is gone: the number may be another process's.
    drop(memory);
    mailboxes.introduced(&agent);
    assert_eq!(*seen.lock().unwrap(), [(agent, std::process::id())]);
}

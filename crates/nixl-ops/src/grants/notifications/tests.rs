//! Lost, duplicate, overtaken and excess notifications.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use proptest::collection::vec;
use proptest::prelude::*;

use super::inbox::{Amount, Bounds};
use super::*;

fn sender(number: u8) -> NotificationSender {
    NotificationSender::new("importer", [number; 16])
}

/// What has arrived by now.
fn try_recv(receiver: &mut NotificationReceiver) -> Option<ExportNotification> {
    let poll = pin!(receiver.recv()).poll(&mut Context::from_waker(Waker::noop()));
    match poll {
        Poll::Ready(next) => next,
        Poll::Pending => None,
    }
}

fn all(receiver: &mut NotificationReceiver) -> Vec<(u8, u64)> {
    let next = || try_recv(receiver).map(|next| (next.payload[0], next.lost));
    std::iter::from_fn(next).collect()
}

const SENDERS: usize = 3;

proptest! {
    /// Each sender sends 1 to `sent`; the network delivers the copies of each in any order, between which some are received.
    #[test]
    fn they_come_in_order_at_most_once_and_what_is_lost_is_counted(
        sent in 1..40u64,
        arrivals in vec((0..SENDERS as u8, 1..40u64, 0..4usize), 0..300),
    ) {
        let inbox = NotificationInbox::new();
        let mut receiver = inbox.subscribe().unwrap();
        // Of each sender, what has arrived and is not received, and the last one that was received.
        let mut model = vec![(BTreeSet::new(), 0); SENDERS];
        let mut receive = |model: &mut Vec<(BTreeSet<u64>, u64)>, most: usize| {
            for _ in 0..most {
                let Some(next) = try_recv(&mut receiver) else {
                    prop_assert!(model.iter().all(|(arrived, _)| arrived.is_empty()));
                    break;
                };
                let of = (0..SENDERS as u8).find(|of| next.sender == sender(*of)).unwrap();
                let (arrived, last) = &mut model[usize::from(of)];
                let sequence = u64::from_le_bytes((&*next.payload).try_into().unwrap());
                prop_assert_eq!(arrived.pop_first(), Some(sequence));
                prop_assert_eq!(next.lost, sequence - *last - 1);
                *last = sequence;
            }
            Ok(())
        };
        // Their last ones arrive at the end, which tells of all that were lost.
        let last = (0..SENDERS as u8).map(|of| (of, sent + 1, usize::MAX));
        let arrivals = arrivals.into_iter().filter(|(_, sequence, _)| *sequence <= sent);
        for (of, sequence, most) in arrivals.chain(last) {
            inbox.deliver(sender(of), sequence, &sequence.to_le_bytes());
            let (arrived, last) = &mut model[usize::from(of)];
            if sequence > *last {
                arrived.insert(sequence);
            }
            receive(&mut model, most)?;
            inbox.kept();
        }
        prop_assert!(model.iter().all(|(_, last)| *last == sent + 1));
    }

    /// Hostile numbers and sizes: the bounds hold.
    #[test]
    fn the_bounds_hold(
        arrivals in vec((0..9u8, prop_oneof![0..20u64, any::<u64>()], 0..40usize, 0..3usize), 0..200),
    ) {
        let each = Amount { messages: 4, bytes: 100 };
        let most = Amount { messages: 10, bytes: 200 };
        let inbox = NotificationInbox::with_bounds(Bounds { senders: 5, each, all: most });
        let mut receiver = inbox.subscribe().unwrap();
        for (of, sequence, len, receive) in arrivals {
            inbox.deliver(sender(of), sequence, &vec![of; len]);
            for _ in 0..receive {
                try_recv(&mut receiver);
            }
            let (senders, kept) = inbox.kept();
            prop_assert!(senders <= 5 && kept.messages <= 10 && kept.bytes <= 200);
        }
    }
}

fn bounded() -> Arc<NotificationInbox> {
    let each = Amount { messages: 2, bytes: 100 };
    let most = Amount { messages: 3, bytes: 150 };
    NotificationInbox::with_bounds(Bounds { senders: 2, each, all: most })
}

#[test]
fn what_is_over_a_bound_is_told_as_lost() {
    let inbox = bounded();
    let mut receiver = inbox.subscribe().unwrap();
    for sequence in 1..=3 {
        inbox.deliver(sender(1), sequence, &[sequence as u8]);
        inbox.deliver(sender(2), sequence, &[sequence as u8 + 10]);
    }
    let said = format!("{receiver:?}");
    assert!(said.contains("senders: 2, unreceived: 3, unreceived_bytes: 3"), "{said}");
    // Two of the first, and the third of all; senders take turns.
    assert_eq!(all(&mut receiver), [(1, 0), (11, 0), (2, 0)]);
    inbox.deliver(sender(1), 4, &[4]);
    inbox.deliver(sender(2), 4, &[14]);
    assert_eq!(all(&mut receiver), [(4, 1), (14, 2)]);
    // By bytes.
    inbox.deliver(sender(1), 5, &[5; 60]);
    inbox.deliver(sender(1), 6, &[6; 60]);
    inbox.deliver(sender(1), 7, &[7; 40]);
    assert_eq!(all(&mut receiver), [(5, 0), (7, 1)]);
}

#[test]
fn numbers_and_sizes_that_make_no_sense_change_nothing() {
    let inbox = NotificationInbox::new();
    let mut receiver = inbox.subscribe().unwrap();
    inbox.deliver(sender(1), 0, b"zero");
    inbox.deliver(sender(1), 1, &[1; ExportNotification::MAX_BYTES + 1]);
    assert_eq!(all(&mut receiver), []);
    inbox.deliver(sender(1), 1 << 63, &[1]);
    inbox.deliver(sender(1), u64::MAX, &[2]);
    assert_eq!(all(&mut receiver), [(1, (1 << 63) - 1), (2, (1 << 63) - 2)]);
    inbox.deliver(sender(1), u64::MAX, &[3]);
    inbox.deliver(sender(1), 1, &[4]);
    assert_eq!(all(&mut receiver), []);
    // It jumped for itself alone.
    inbox.deliver(sender(2), 1, &[5]);
    inbox.deliver(NotificationSender::new("another", [1; 16]), 1, &[6]);
    assert_eq!(all(&mut receiver), [(5, 0), (6, 0)]);
}

#[test]
fn the_sender_that_is_silent_the_longest_makes_room_and_none_that_waits() {
    let inbox = bounded();
    let mut receiver = inbox.subscribe().unwrap();
    inbox.deliver(sender(1), 1, &[1]);
    inbox.deliver(sender(2), 1, &[2]);
    inbox.deliver(sender(3), 1, &[3]);
    assert_eq!(all(&mut receiver), [(1, 0), (2, 0)]);
    inbox.deliver(sender(3), 2, &[3]);
    // The first made room, the second did not.
    inbox.deliver(sender(2), 1, &[2]);
    assert_eq!(all(&mut receiver), [(3, 1)]);
    assert_eq!(inbox.kept().0, 2);
}

#[test]
fn without_a_receiver_all_is_lost_and_the_next_one_is_told() {
    let inbox = NotificationInbox::new();
    inbox.deliver(sender(1), 1, &[1]);
    let mut receiver = inbox.subscribe().unwrap();
    assert!(inbox.subscribe().is_none());
    inbox.deliver(sender(1), 2, &[2]);
    assert_eq!(all(&mut receiver), [(2, 1)]);
    inbox.deliver(sender(1), 3, &[3]);
    inbox.deliver(sender(2), 1, &[7]);
    drop(receiver);
    assert_eq!(inbox.kept().1.messages, 0);
    inbox.deliver(sender(1), 4, &[4]);
    let mut receiver = inbox.subscribe().unwrap();
    // Not twice, to whichever receiver.
    inbox.deliver(sender(1), 2, &[2]);
    inbox.deliver(sender(1), 5, &[5]);
    assert_eq!(all(&mut receiver), [(5, 2)]);
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_task_that_waits_is_woken_by_an_arrival_and_by_the_end() {
    let inbox = NotificationInbox::new();
    let mut receiver = inbox.subscribe().unwrap();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    for (count, payload) in [(1, Some(1)), (2, None)] {
        let mut recv = Box::pin(receiver.recv());
        assert!(recv.as_mut().poll(&mut cx).is_pending());
        assert!(inbox.is_awaited());
        match payload {
            Some(payload) => inbox.deliver(sender(1), 1, &[payload]),
            None => inbox.close(),
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), count);
        assert!(!inbox.is_awaited());
        let Poll::Ready(next) = recv.as_mut().poll(&mut cx) else { panic!("it was woken") };
        assert_eq!(next.map(|next| next.payload[0]), payload);
    }
    inbox.deliver(sender(1), 2, &[2]);
    assert_eq!(all(&mut receiver), []);
}

#[test]
fn a_wait_that_is_given_up_is_none() {
    let inbox = NotificationInbox::new();
    let mut receiver = inbox.subscribe().unwrap();
    assert!(try_recv(&mut receiver).is_none());
    assert!(!inbox.is_awaited());
    inbox.deliver(sender(1), 1, &[1]);
    inbox.close();
    // What had arrived is received.
    assert_eq!(all(&mut receiver), [(1, 0)]);
}

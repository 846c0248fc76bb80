//! Tests of notices to readers: layers in the order in which they become ready.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{LayerHints, Watcher, Watchers};

fn is_ready(hint: &mut (impl Future<Output = ()> + Unpin)) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    std::pin::Pin::new(hint).poll(&mut cx) == Poll::Ready(())
}

#[test]
fn a_wait_ends_by_a_later_message_that_says_enough() {
    let hints = Arc::<LayerHints>::default();
    let watch = hints.watch([1; 16], 7);
    assert!(!hints.are_awaited());
    let mut first = pin!(watch.hinted(0, 2));
    let mut second = pin!(watch.hinted(0, 3));
    assert!(hints.are_awaited() && !is_ready(&mut first));
    for (reader, generation) in [(&[1; 16][..], 8), (&[2; 16], 7), (&[1; 15], 7)] {
        assert!(!hints.receive(reader, generation, 9));
    }
    assert!(hints.receive(&[1; 16], 7, 2));
    assert!(is_ready(&mut first) && !is_ready(&mut second));
    // An overtaken one takes nothing back.
    assert!(hints.receive(&[1; 16], 7, 1));
    assert!(is_ready(&mut first) && !is_ready(&mut second));
    assert!(hints.receive(&[1; 16], 7, super::ENDED));
    assert!(is_ready(&mut second));
    assert!(!is_ready(&mut pin!(watch.hinted(watch.messages(), 1))));
}

#[test]
fn a_watch_that_is_gone_takes_no_messages() {
    let hints = Arc::<LayerHints>::default();
    let first = hints.watch([1; 16], 7);
    let second = hints.watch([1; 16], 7);
    drop(first);
    assert!(hints.receive(&[1; 16], 7, 1));
    assert_eq!(second.messages(), 1);
    drop(second);
    assert!(!hints.receive(&[1; 16], 7, 1) && !hints.are_awaited());
}

#[test]
fn the_owner_is_asked_again_after_a_time() {
    let hints = Arc::<LayerHints>::default();
    let watch = hints.watch([1; 16], 7);
    let at = Duration::from_millis;
    let asks = [0, 5, 9, 10, 11, 20].map(|now| watch.is_to_be_asked(at(now), at(10)));
    assert_eq!(asks, [true, false, false, true, false, true]);
}

#[test]
fn readers_of_a_grant_and_their_agents_are_bounded() {
    let (mut watchers, readers) = (Watchers::default(), 3);
    let watcher = |agent: &str, reader: u8| Watcher::new(agent, [reader; 16], |_| {});
    let added = (0..20).filter(|&agent| watchers.add(watcher(&agent.to_string(), agent), readers));
    assert_eq!(added.count(), 7);
    for reader in 50..200 {
        assert!(watchers.add(watcher("0", reader), readers));
        assert!(watchers.add(watcher("0", reader), readers), "again");
    }
    assert_eq!(watchers.told(1).count(), 7);
    assert!(!watchers.add(watcher("7", 7), readers));
}

//! A page that processes write by the fuzzer's input, within the protocol and outside it, while its owner polls it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nixl_descriptor::SharedMemory;
use nixl_metadata::{NotificationKey, OperationKind, SlotAddress};

use crate::mailbox::Lane;
use crate::slots::{OfferPage, OfferSlot, ring};

/// Words before the first message of a lane.
const HEAD: usize = 16;
/// What the owner takes of one lane at a time.
const BURST: usize = 64;

/// What the owner takes is bounded for each look, and every message has what messages have. Once nothing more is written, a few looks
/// take all there is; a message of an honest sender then arrives, unless its send reports a full ring.
pub fn mailbox(input: &[u8]) {
    let page = Arc::new(OfferPage::default());
    let (key, honest) = (NotificationKey::random(), Lane::default());
    let slots = [OperationKind::Read, OperationKind::Write].map(|kind| page.arm(&key, kind));
    let Some(memory) = page.or_make() else { return };
    assert!(honest.claim(memory, Some(memory.name())));

    let mut steps = Steps(input);
    while let Some(step) = steps.byte() {
        match step % 6 {
            0 => _ = look(&page, &slots),
            1 => {
                let (from, payload) = (steps.byte().unwrap_or(0), steps.byte().unwrap_or(0));
                let payload = vec![step; usize::from(payload) * 8];
                honest.post(memory, &"n".repeat(from.into()), &payload);
            }
            2 => {
                let at = SlotAddress::MAILBOX
                    + 8
                    + steps.byte().map_or(0, usize::from) * SlotAddress::LANE_WORDS;
                steps.store(memory, at);
            }
            3 => steps.store(memory, SlotAddress::MAILBOX),
            // The words that lead to slots, and the first slots.
            4 => steps.store(memory, 0),
            _ => {
                // A state of an offer that is there: the token stays.
                let (slot, [a, b, c]) = (step & 1, [(); 3].map(|()| steps.byte().unwrap_or(0)));
                if let Some(word) = memory.word(65 + usize::from(slot)) {
                    let token = word.load(Ordering::Relaxed) & !0xff_ffff;
                    word.store(
                        token | u64::from(u32::from_le_bytes([a, b, c, 0])),
                        Ordering::Release,
                    );
                }
                let _ = ring(memory, slot.into());
            }
        }
    }

    let looks = SlotAddress::LANE_WORDS / BURST + 2;
    assert!((0..looks).any(|_| !look(&page, &slots)), "the owner never catches up");
    // The sender knows its own count, the owner its own: what they disagree on is skipped once.
    let mut arrived = false;
    for _ in 0..2 {
        if honest.post(memory, "honest", b"message").is_none() {
            return;
        }
        for _ in 0..looks {
            page.take_messages(&mut |message| {
                arrived |= (message.from, message.payload) == ("honest", b"message");
            });
        }
    }
    assert!(arrived, "messages of an honest sender do not arrive again");
}

/// Returns whether there was something, or may be more.
fn look(page: &OfferPage, slots: &[Option<OfferSlot>]) -> bool {
    let mut ended = 0;
    let any_ended = page.poll(&mut |_, event| {
        ended += 1;
        assert!(event.uses > 0);
    });
    assert!(ended <= slots.len());
    let (mut messages, unreadable) = (0, page.unreadable_messages());
    let any = page.take_messages(&mut |message| {
        messages += 1;
        let words = 1 + message.from.len().div_ceil(8) + message.payload.len().div_ceil(8);
        assert!(!message.from.is_empty() && words <= SlotAddress::LANE_WORDS - HEAD);
        let reply = message.reply.map_or(1, |name| name.len);
        assert!((1..=SlotAddress::LENGTH_WITH_MAILBOX as u64).contains(&reply));
    });
    let taken = messages + (page.unreadable_messages() - unreadable);
    assert!(taken <= (BURST * SlotAddress::LANES) as u64);
    any_ended || any
}

/// The rest of the input.
struct Steps<'a>(&'a [u8]);

impl Steps<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<u64> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*word))
    }

    /// Stores words by the bits of a byte, from the one after `base` on.
    fn store(&mut self, memory: &SharedMemory, base: usize) {
        let (skipped, count) = (self.byte().unwrap_or(0), self.byte().unwrap_or(0));
        for at in 0..count {
            let (Some(word), Some(value)) =
                (memory.word(base + usize::from(skipped) + usize::from(at)), self.word())
            else {
                return;
            };
            word.store(value, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn message() -> u64 {
        u64::from(SlotAddress::MESSAGE_MARK) << 48 | 5 << 32 | 40
    }

    /// Words that mean something to a lane, and others.
    fn words() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            any::<u64>(),
            0..5000u64,
            Just(message()),
            (0..64u32).prop_map(|bit| 1 << bit)
        ];
        vec(word, 0..20).prop_map(|words| words.into_iter().flat_map(u64::to_le_bytes).collect())
    }

    fn step() -> impl Strategy<Value = Vec<u8>> {
        let store = (2..6u8, 0..3u8, 0..20u8, 0..20u8, words()).prop_map(
            |(step, lane, skipped, count, words)| {
                let head = [step, lane, skipped, count];
                // Only a lane has a number.
                let head =
                    if step == 2 { head.to_vec() } else { [&head[..1], &head[2..]].concat() };
                [head, words].concat()
            },
        );
        prop_oneof![
            1 => Just(vec![0]),
            2 => (any::<u8>(), any::<u8>()).prop_map(|(from, payload)| vec![1, from, payload]),
            3 => store,
        ]
    }

    proptest! {
        #[test]
        fn pages_that_are_misused(steps in vec(step(), 0..30)) {
            mailbox(&steps.concat());
        }

        #[test]
        fn pages_of_noise(noise in vec(any::<u8>(), 0..600)) {
            mailbox(&noise);
        }
    }
}

//! The ring of one lane: messages of one sender to one owner, in shared memory that a third process may change.

use std::sync::atomic::Ordering;

use nixl_metadata::SlotAddress;

use crate::sync::SharedMemory;

/// Words that two processes access atomically.
pub(super) trait Words {
    fn load(&self, word: usize, order: Ordering) -> u64;
    fn store(&self, word: usize, value: u64, order: Ordering);
}

impl Words for SharedMemory {
    /// 0 beyond the end.
    fn load(&self, word: usize, order: Ordering) -> u64 {
        self.word(word).map_or(0, |word| word.load(order))
    }

    fn store(&self, word: usize, value: u64, order: Ordering) {
        if let Some(word) = self.word(word) {
            word.store(value, order);
        }
    }
}

/// The place of a lane, and the length of its ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    base: usize,
    len: usize,
}

/// The result of taking a message from a ring.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Taken {
    /// No message.
    Nothing,
    /// The name of the sender, and the payload, are in the buffer from here to there.
    MailboxMessage { from: usize, payload: usize },
    /// Invalid content, all of which was skipped.
    Garbage,
}

impl Ring {
    const WRITTEN: usize = 1;
    pub(super) const REPLY: usize = 2;
    const READ: usize = 8;
    const WORDS: usize = 16;
    /// The longest message. Half the ring, so one always fits once the owner has caught up.
    pub(super) const LONGEST: usize = (SlotAddress::LANE_WORDS - Self::WORDS) / 2;

    /// Lane `index` of a page with a mailbox.
    pub(super) const fn of_page(index: usize) -> Self {
        let base = SlotAddress::MAILBOX + 8 + index * SlotAddress::LANE_WORDS;
        Self { base, len: SlotAddress::LANE_WORDS - Self::WORDS }
    }

    #[cfg(all(test, loom))]
    pub(super) const fn small(len: usize) -> Self {
        Self { base: 0, len }
    }

    /// The number of a word of the lane.
    pub(super) const fn word(self, index: usize) -> usize {
        self.base + index
    }

    /// The words of a message, its first one included.
    pub(super) const fn words_of(from: &str, payload: &[u8]) -> usize {
        1 + from.len().div_ceil(8) + payload.len().div_ceil(8)
    }

    /// The total of words written.
    pub(super) fn written(self, memory: &impl Words) -> u64 {
        memory.load(self.word(Self::WRITTEN), Ordering::Acquire)
    }

    /// Writes a message after the `written` words before it, if the owner has read enough of those. Returns whether it did.
    pub(super) fn put(
        self,
        memory: &impl Words,
        written: &mut u64,
        from: &str,
        payload: &[u8],
    ) -> bool {
        let words = Self::words_of(from, payload) as u64;
        // Acquire: the owner has loaded the words that are overwritten.
        let read = memory.load(self.word(Self::READ), Ordering::Acquire);
        let mut at = *written;
        if at.wrapping_sub(read) > self.len as u64 {
            // A third process has changed a count. The owner's count holds, and messages in between are lost.
            at = read;
        }
        if at.wrapping_sub(read) + words > self.len as u64 {
            return false;
        }
        let mut put = |value| {
            memory.store(self.place(at), value, Ordering::Relaxed);
            at = at.wrapping_add(1);
        };
        put(head(from.len(), payload.len()));
        for bytes in from.as_bytes().chunks(8).chain(payload.chunks(8)) {
            let mut word = [0; 8];
            word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            put(u64::from_ne_bytes(word));
        }
        *written = at;
        // Release: a reader that sees the count sees the message.
        memory.store(self.word(Self::WRITTEN), at, Ordering::Release);
        true
    }

    /// Takes the message after the `read` words before it into `buffer`.
    pub(super) fn take(self, memory: &impl Words, read: &mut u64, buffer: &mut Vec<u8>) -> Taken {
        let written = self.written(memory);
        let there = written.wrapping_sub(*read);
        if there == 0 {
            return Taken::Nothing;
        }
        let first = memory.load(self.place(*read), Ordering::Relaxed);
        let (from, payload) = lengths(first).unwrap_or((0, 0));
        let words = 1 + from.div_ceil(8) + payload.div_ceil(8);
        if from == 0 || words as u64 > there || there > self.len as u64 {
            self.acknowledge(memory, read, written);
            return Taken::Garbage;
        }
        buffer.clear();
        let mut at = read.wrapping_add(1);
        for len in [from, payload] {
            let end = buffer.len() + len;
            while buffer.len() < end {
                let word = memory.load(self.place(at), Ordering::Relaxed).to_ne_bytes();
                let some = word.iter().take(end - buffer.len());
                buffer.extend(some);
                at = at.wrapping_add(1);
            }
        }
        self.acknowledge(memory, read, at);
        Taken::MailboxMessage { from, payload }
    }

    fn acknowledge(self, memory: &impl Words, read: &mut u64, now: u64) {
        *read = now;
        // Release: the words were loaded before they are overwritten.
        memory.store(self.word(Self::READ), now, Ordering::Release);
    }

    fn place(self, at: u64) -> usize {
        self.base + Self::WORDS + (at % self.len as u64) as usize
    }
}

fn head(from: usize, payload: usize) -> u64 {
    u64::from(SlotAddress::MESSAGE_MARK) << 48
        | (from as u64 & 0xffff) << 32
        | payload as u64 & 0xffff_ffff
}

fn lengths(head: u64) -> Option<(usize, usize)> {
    let is_message = head >> 48 == u64::from(SlotAddress::MESSAGE_MARK);
    is_message.then_some(((head >> 32) as usize & 0xffff, head as usize & 0xffff_ffff))
}

/// Run by `cargo xtask loom`.
#[cfg(all(test, loom))]
mod loom_model {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64;
    use loom::thread;

    use super::*;

    struct Page(Vec<AtomicU64>);

    impl Words for Page {
        fn load(&self, word: usize, order: Ordering) -> u64 {
            self.0[word].load(order)
        }

        fn store(&self, word: usize, value: u64, order: Ordering) {
            self.0[word].store(value, order);
        }
    }

    /// A ring of one message's length and one word more: the second message wraps around, once the first was read.
    #[test]
    fn loom_letters_arrive_whole_in_order_and_once() {
        let mut model = loom::model::Builder::new();
        // All orders of the accesses of both take minutes.
        model.preemption_bound = Some(3);
        model.check(|| {
            let ring = Ring::small(4);
            let page = Arc::new(Page((0..Ring::WORDS + 4).map(|_| AtomicU64::new(0)).collect()));
            let bits = Arc::new(AtomicU64::new(0));
            let sender = {
                let (page, bits) = (Arc::clone(&page), Arc::clone(&bits));
                thread::spawn(move || {
                    let (mut written, mut sent) = (0, 0);
                    for payload in [b"1", b"2"] {
                        sent += u64::from(ring.put(&*page, &mut written, "a", payload));
                        bits.fetch_or(1, Ordering::AcqRel);
                    }
                    sent
                })
            };
            let (mut read, mut buffer, mut got) = (0, Vec::new(), Vec::new());
            let mut drain = |got: &mut Vec<u8>| {
                while let Taken::MailboxMessage { .. } = ring.take(&*page, &mut read, &mut buffer) {
                    assert_eq!(buffer[0], b'a');
                    got.push(buffer[1]);
                }
            };
            if bits.swap(0, Ordering::AcqRel) != 0 {
                drain(&mut got);
            }
            let sent = sender.join().unwrap();
            // What was sent and not taken has left its bit.
            if bits.swap(0, Ordering::AcqRel) != 0 {
                drain(&mut got);
            }
            assert_eq!(got.len() as u64, sent);
            assert!(got.is_sorted(), "{got:?}");
        });
    }
}

//! Pages of the target that holders of its offers can write.

use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use nixl_metadata::{SharedFile, SlotAddress};
use nixl_tests::{Random, metadata};

use crate::pace::Pace;
use crate::scene::Outcome;
use crate::target::Target;

/// The part of the page that is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// By which offers are ended, and the owner is woken.
    Doorbells,
    /// Lanes of messages.
    Mailbox,
}

impl Part {
    fn bytes(self, length: u64) -> Range<u64> {
        let mailbox = 8 * SlotAddress::MAILBOX as u64;
        match self {
            Self::Doorbells => 0..mailbox,
            Self::Mailbox => mailbox..length,
        }
    }
}

/// Writes what a holder likes to the page of the target's offers.
pub(crate) fn pages(part: Part, target: &Target, seed: u64, count: usize) -> Outcome {
    let file = metadata(&target.offer).unwrap().slot_address().unwrap().file();
    let place = part.bytes(file.length());
    let (mut random, mut pace) = (Random::new(seed), Pace::new());
    for _ in 0..count {
        let (at, bytes) = match part {
            Part::Mailbox if random.below(2) == 0 => lane(&mut random),
            _ => word(&mut random, &place),
        };
        pace.wait();
        write_to(file, &bytes, at).unwrap();
        if matches!(part, Part::Mailbox) && random.below(2) == 0 {
            // The owner looks at the lanes that have bits here.
            write_to(file, &u64::MAX.to_le_bytes(), place.start).unwrap();
        }
    }
    Outcome { sent: count, refused: None, accepted: None }
}

/// Any word of the place, or some bytes of one.
fn word(random: &mut Random, place: &Range<u64>) -> (u64, Vec<u8>) {
    let kind = random.below(4);
    let len = if kind == 0 { 1 + random.below(8) } else { 8 };
    let at = random.below(place.end - place.start - len + 1) & !(if kind == 0 { 0 } else { 7 });
    let bytes = match kind {
        // Counters, lengths and places are small, or the largest.
        1 => random.below(20_000).to_le_bytes(),
        2 => [0, 1, u64::from(u32::MAX), u64::MAX][random.below(4) as usize].to_le_bytes(),
        _ => random.below(u64::MAX).to_le_bytes(),
    };
    (place.start + at, bytes[..len as usize].to_vec())
}

/// The counts of one lane, or the head of a message in it.
fn lane(random: &mut Random) -> (u64, Vec<u8>) {
    const LANES: u64 = SlotAddress::LANES as u64;
    let lane =
        SlotAddress::MAILBOX as u64 + 8 + random.below(LANES) * SlotAddress::LANE_WORDS as u64;
    let (word, value) = match random.below(3) {
        0 => (random.below(16), random.below(4096)),
        1 => (1, random.below(u64::MAX)),
        _ => {
            let head = random.below(300) << 32 | random.below(9000);
            (16 + random.below(64), u64::from(SlotAddress::MESSAGE_MARK) << 48 | head)
        }
    };
    (8 * (lane + word), value.to_le_bytes().to_vec())
}

/// Writes to a file that a process has open.
pub(crate) fn write_to(file: SharedFile, bytes: &[u8], at: u64) -> io::Result<()> {
    let path = format!("/proc/{}/fd/{}", file.pid(), file.fd());
    OpenOptions::new().read(true).write(true).open(path)?.write_all_at(bytes, at)
}

//! Honest metadata for attackers to change.

use nixl_metadata::RdmaMetadata;
use nixl_tests::forge::Blob;
use nixl_tests::{Random, crc32};

use crate::forge::{Forge, bomb};
use crate::scene::Outcome;
use crate::target::Target;

/// A peer of the target's whose metadata is damaged on its way. It may end itself by what it is then asked for.
pub(crate) struct Bait {
    pub(crate) target: Target,
    pub(crate) offers: Vec<RdmaMetadata>,
    blob: Blob,
}

impl Bait {
    pub(crate) fn new() -> Self {
        let target = Target::new();
        let mut offers = Vec::new();
        for memory in ["host", "shared", "cuda"] {
            target.ask(&format!("memory {memory}")).unwrap();
            offers.push(target.offer("readable 64 5").unwrap().1);
        }
        let blob = Blob::of(&offers[0]);
        Self { target, offers, blob }
    }

    pub(crate) fn forge<'a>(&'a self, seed: u64, bomb: &'a [u8]) -> Forge<'a> {
        Forge {
            random: Random::new(seed),
            key: b"key",
            token: 0,
            introduction: self.offers[0].agent_metadata().compressed(),
            blob: &self.blob,
            bomb,
            ticket: None,
        }
    }
}

/// Makes inputs, `count` that are given to the target. A bait that has ended is followed by another, and so is one of long ago.
pub(crate) fn with_baits(
    seed: u64,
    count: usize,
    mut input: impl FnMut(&Bait, &mut Forge<'_>, &mut Outcome),
) -> Outcome {
    const OF_ONE: usize = 5_000;
    const BETWEEN_LOOKS: usize = 200;
    let (bomb, mut outcome) = (bomb(), Outcome::none());
    while outcome.sent < count {
        let bait = Bait::new();
        let mut forge = bait.forge(seed + outcome.sent as u64, &bomb);
        for number in 0..OF_ONE {
            if outcome.sent == count || number % BETWEEN_LOOKS == 0 && !bait.target.is_there() {
                break;
            }
            input(&bait, &mut forge, &mut outcome);
        }
    }
    outcome
}

/// In its envelope, so that it is read further than that.
pub(crate) fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    const HEADER: usize = 16;
    let Some((head, payload)) = bytes.split_at_mut_checked(HEADER) else { return bytes };
    head[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let crc = crc32(&[&head[..12], payload].concat());
    head[12..].copy_from_slice(&u32::from_str_radix(&crc, 16).unwrap().to_le_bytes());
    bytes
}

//! Patterns, layouts, and transfers that are checked byte for byte.

use std::thread;
use std::time::{Duration, Instant};

use nixl_descriptor::{Descriptor, Region};
use nixl_metadata::RdmaMetadata;

use super::failure::ensure;
use super::{Failure, Harness};
use crate::{Connector, OperationKind};

/// The connectors of a case.
pub(super) struct Pair {
    pub(super) target: Connector,
    pub(super) initiator: Connector,
}

impl Pair {
    pub(super) async fn new(harness: &dyn Harness) -> Result<Self, Failure> {
        let [target, initiator] = harness.pair();
        Ok(Self { target: target.build().await?, initiator: initiator.build().await? })
    }
}

/// The content of destinations before a case.
pub(super) const POISON: u8 = 0xa5;

/// Bytes that depend on their position and on `seed`.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mix = |i: u64| (i ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..len as u64).map(|i| (mix(i + 1) >> 56) as u8).collect()
}

pub(super) fn patterned(seed: u64, len: usize) -> Result<Region, Failure> {
    Ok(Region::try_from(pattern(seed, len))?)
}

pub(super) fn poisoned(len: usize) -> Result<Region, Failure> {
    Ok(Region::try_from(vec![POISON; len])?)
}

/// One pair of descriptors: region and offset of the source, region and offset of the destination, length.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) from: (usize, usize),
    pub(super) to: (usize, usize),
    pub(super) len: usize,
}

/// Sources with patterns, destinations with poison, and the transfers between them.
pub(super) struct Scene {
    pub(super) sources: Vec<Region>,
    pub(super) destinations: Vec<Region>,
    images: Vec<Vec<u8>>,
    expected: Vec<Vec<u8>>,
    pieces: Vec<Piece>,
}

impl Scene {
    pub(super) fn new(
        seed: u64,
        sources: &[usize],
        destinations: &[usize],
        pieces: Vec<Piece>,
    ) -> Result<Self, Failure> {
        let images: Vec<_> =
            sources.iter().zip(seed * 64..).map(|(len, seed)| pattern(seed, *len)).collect();
        let mut expected: Vec<_> = destinations.iter().map(|len| vec![POISON; *len]).collect();
        for Piece { from, to, len } in &pieces {
            let source = images.get(from.0).and_then(|i| i.get(from.1..from.1 + len));
            let target = expected.get_mut(to.0).and_then(|e| e.get_mut(to.1..to.1 + len));
            let (Some(source), Some(target)) = (source, target) else {
                return Err(Failure::new("a piece of the scene is outside its memory"));
            };
            target.copy_from_slice(source);
        }
        Ok(Self {
            sources: images
                .iter()
                .map(|i| Region::try_from(i.clone()))
                .collect::<Result<_, _>>()?,
            destinations: destinations
                .iter()
                .map(|len| poisoned(*len))
                .collect::<Result<_, _>>()?,
            images,
            expected,
            pieces,
        })
    }

    /// One piece with guard bytes around the destination.
    pub(super) fn contiguous(seed: u64, len: usize) -> Result<Self, Failure> {
        const GUARD: usize = 64;
        let piece = Piece { from: (0, 0), to: (0, GUARD), len };
        Self::new(seed, &[len], &[len + 2 * GUARD], vec![piece])
    }

    pub(super) fn from(&self) -> Result<Vec<Descriptor>, Failure> {
        self.pieces.iter().map(|p| slice(&self.sources, p.from, p.len)).collect()
    }

    pub(super) fn to(&self) -> Result<Vec<Descriptor>, Failure> {
        self.pieces.iter().map(|p| slice(&self.destinations, p.to, p.len)).collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len as u64).sum()
    }

    /// Checks that destinations have the expected bytes, and that all bytes around them and the sources are unchanged.
    pub(super) fn check(&self) -> Result<(), Failure> {
        compare(&self.destinations, &self.expected, "destination")?;
        compare(&self.sources, &self.images, "source")
    }
}

fn slice(
    regions: &[Region],
    (index, offset): (usize, usize),
    len: usize,
) -> Result<Descriptor, Failure> {
    let region = regions.get(index).ok_or_else(|| Failure::new("no such region in the scene"))?;
    Ok(region.descriptor(offset..offset + len)?)
}

fn compare(regions: &[Region], images: &[Vec<u8>], what: &str) -> Result<(), Failure> {
    for (index, (region, image)) in regions.iter().zip(images).enumerate() {
        let found = region.to_vec()?;
        if let Some(at) = found.iter().zip(image).position(|(found, image)| found != image) {
            let (found, image) = (found.get(at).copied(), image.get(at).copied());
            return Err(Failure::new(format!(
                "byte {at} of {what} {index} is {found:02x?} and should be {image:02x?}"
            )));
        }
    }
    Ok(())
}

/// Moves a scene and checks it and both completions.
pub(super) async fn play(pair: &Pair, kind: OperationKind, scene: &Scene) -> Result<(), Failure> {
    play_through(pair, kind, scene, |metadata| Ok(metadata.clone())).await
}

/// As [`play`]; the metadata reaches the initiator through `carry`.
pub(super) async fn play_through(
    pair: &Pair,
    kind: OperationKind,
    scene: &Scene,
    carry: impl FnOnce(&RdmaMetadata) -> Result<RdmaMetadata, Failure>,
) -> Result<(), Failure> {
    let (here, there) = match kind {
        OperationKind::Read => {
            let mut offer = pair.target.create_readable(scene.from()?).await?;
            let remote = carry(offer.metadata())?;
            let mut read = pair.initiator.begin_read(&remote, scene.to()?).await?;
            (read.wait_for_completion().await?, offer.wait_for_completion().await?)
        }
        OperationKind::Write => {
            let mut offer = pair.target.create_writable(scene.to()?).await?;
            let remote = carry(offer.metadata())?;
            let mut write = pair.initiator.begin_write(scene.from()?, &remote).await?;
            (write.wait_for_completion().await?, offer.wait_for_completion().await?)
        }
    };
    ensure(here.bytes() == scene.bytes(), "the initiator counts the bytes that were moved")?;
    ensure(there.bytes() == scene.bytes(), "the target counts the bytes that were moved")?;
    ensure(here.path().is_some(), "the initiator reports the path")?;
    scene.check()
}

/// How long what has ended may take to be found so.
const PATIENCE: Duration = Duration::from_secs(5);

/// The connection still works after the case.
pub(super) async fn still_works(pair: &Pair) -> Result<(), Failure> {
    for kind in [OperationKind::Read, OperationKind::Write] {
        play(pair, kind, &Scene::contiguous(99, 4 << 10)?).await?;
    }
    // The driver may be about to find the last one ended.
    let patience = Instant::now() + PATIENCE;
    while pair.initiator.stats().active() > 0 && Instant::now() < patience {
        thread::yield_now();
    }
    ensure(pair.initiator.stats().active() == 0, "no transfer is left over")
}

/// Takes the memory of a region back; an engine may need a moment to become quiet.
pub(super) fn take_back(mut region: Region) -> Result<Vec<u8>, Failure> {
    const TRIES: u32 = 20_000;
    const PAUSE: Duration = Duration::from_micros(500);
    for _ in 0..TRIES {
        match region.try_into_vec() {
            Ok(bytes) => return Ok(bytes),
            Err(refused) => region = refused.into_region(),
        }
        thread::sleep(PAUSE);
    }
    Err(Failure::new("the memory does not come back"))
}

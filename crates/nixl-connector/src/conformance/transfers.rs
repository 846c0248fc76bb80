//! Conformance of transfers: all bytes arrive at their destination and nowhere else.

use super::Failure;
use super::failure::ensure;
use super::support::{Pair, Piece, Scene, play};
use crate::OperationKind;

const BOTH: [OperationKind; 2] = [OperationKind::Read, OperationKind::Write];

pub(super) async fn contiguous(pair: &Pair, len: usize) -> Result<(), Failure> {
    for kind in BOTH {
        play(pair, kind, &Scene::contiguous(1, len)?).await?;
    }
    Ok(())
}

/// Adjacent descriptors on both sides, which an engine may merge.
pub(super) async fn neighbours(pair: &Pair) -> Result<(), Failure> {
    const LEN: usize = 4 << 10;
    let piece = |i: usize| Piece { from: (0, i * LEN), to: (0, (i + 1) * LEN), len: LEN };
    for kind in BOTH {
        let pieces = (0..64).map(piece).collect();
        play(pair, kind, &Scene::new(2, &[64 * LEN], &[66 * LEN], pieces)?).await?;
    }
    Ok(())
}

/// Descriptors adjacent on one side only, in another order, of all sizes: none may be merged.
pub(super) async fn scattered(pair: &Pair) -> Result<(), Failure> {
    const STRIDE: usize = 1000;
    let reversed = |i: usize| Piece { from: (0, i * 100), to: (0, (31 - i) * 100), len: 100 };
    let with_gaps = |i: usize| Piece { from: (0, i * 37), to: (0, i * STRIDE + 1), len: 37 };
    let of_all_sizes =
        |i: usize| Piece { from: (0, i * STRIDE), to: (0, (i + 1) * STRIDE), len: i * 31 + 1 };
    let layouts: [&dyn Fn(usize) -> Piece; 3] = [&reversed, &with_gaps, &of_all_sizes];
    for kind in BOTH {
        for (layout, seed) in layouts.into_iter().zip(10..) {
            let pieces = (0..32).map(layout).collect();
            play(pair, kind, &Scene::new(seed, &[33 * STRIDE], &[34 * STRIDE], pieces)?).await?;
        }
    }
    Ok(())
}

/// Neither side's descriptors lie in one region.
pub(super) async fn several_regions(pair: &Pair) -> Result<(), Failure> {
    let piece = |i: usize| Piece { from: (i % 3, i * 64), to: (i % 2, i * 80 + 8), len: 64 };
    for kind in BOTH {
        let pieces = (0..24).map(piece).collect();
        play(pair, kind, &Scene::new(3, &[2000; 3], &[2000; 2], pieces)?).await?;
    }
    Ok(())
}

/// Many operations in flight at once.
pub(super) async fn concurrent(pair: &Pair) -> Result<(), Failure> {
    let scenes: Vec<_> =
        (0..16).map(|i| Scene::contiguous(20 + i, 20_000)).collect::<Result<_, _>>()?;
    let mut offers = Vec::new();
    for scene in &scenes {
        offers.push(pair.target.create_readable(scene.from()?).await?);
    }
    let mut reads = Vec::new();
    for (offer, scene) in offers.iter().zip(&scenes) {
        reads.push(pair.initiator.begin_read(offer.metadata(), scene.to()?).await?);
    }
    // In an order other than that of their begin.
    for read in reads.iter_mut().rev() {
        read.wait_for_completion().await?;
    }
    for offer in &mut offers {
        offer.wait_for_completion().await?;
    }
    scenes.iter().try_for_each(Scene::check)
}

/// Each side is target and initiator at the same time.
pub(super) async fn both_directions(pair: &Pair) -> Result<(), Failure> {
    let Pair { target: a, initiator: b } = pair;
    let scenes: Vec<_> =
        (0..4).map(|i| Scene::contiguous(40 + i, 100_000)).collect::<Result<_, _>>()?;
    let [to_b, to_a, from_a, from_b] = &scenes[..] else { return Ok(()) };
    let mut at_a = a.create_readable(to_b.from()?).await?;
    let mut at_b = b.create_readable(to_a.from()?).await?;
    let mut into_b = b.create_writable(from_a.to()?).await?;
    let mut into_a = a.create_writable(from_b.to()?).await?;
    let mut reads = [
        b.begin_read(at_a.metadata(), to_b.to()?).await?,
        a.begin_read(at_b.metadata(), to_a.to()?).await?,
    ];
    let mut writes = [
        a.begin_write(from_a.from()?, into_b.metadata()).await?,
        b.begin_write(from_b.from()?, into_a.metadata()).await?,
    ];
    for read in &mut reads {
        read.wait_for_completion().await?;
    }
    for write in &mut writes {
        write.wait_for_completion().await?;
    }
    for offer in [&mut at_a, &mut at_b] {
        offer.wait_for_completion().await?;
    }
    for offer in [&mut into_a, &mut into_b] {
        offer.wait_for_completion().await?;
    }
    scenes.iter().try_for_each(Scene::check)
}

/// The second use of a region registers nothing, for any part of it and any kind of operation.
pub(super) async fn registered_once(pair: &Pair) -> Result<(), Failure> {
    let scene = Scene::contiguous(5, 4 << 10)?;
    play(pair, OperationKind::Read, &scene).await?;
    let registered = || {
        [&pair.target, &pair.initiator].map(|connector| connector.stats().registrations.misses())
    };
    ensure(registered() == [1, 1], "the first use registers one region on each side")?;
    for _ in 0..20 {
        play(pair, OperationKind::Read, &scene).await?;
    }
    ensure(registered() == [1, 1], "further uses register nothing")
}

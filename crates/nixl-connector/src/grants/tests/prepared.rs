//! Reads by lists that the engine has prepared.

use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, Layout, LayoutGeometry};
use nixl_ops::PeerId;

use super::{World, block, contiguous, geometry, read};
use crate::{BlockTransferOptions, Completion, GrantOptions, ImportOptions, RemoteExport};

/// Reads blocks, into others, and checks each.
async fn read_some(
    world: &World,
    import: &RemoteExport,
    (local, bytes): &(Layout, Region),
    pairs: &[(u32, usize)],
) -> Completion {
    bytes.copy_from_slice(0, &vec![0xee; bytes.len()]).unwrap();
    let (granted, into): (Vec<u32>, Vec<usize>) = pairs.iter().copied().unzip();
    let grant = world.export.grant(0, &granted, GrantOptions::new()).unwrap();
    let done = import.read_blocks(grant.ticket(), local, &into).await.unwrap();
    for &(granted, into) in pairs {
        assert_eq!(read(bytes, into), block(u8::try_from(granted).unwrap()));
    }
    done
}

fn is_listed(done: &Completion) -> bool {
    done.path().unwrap().uses_prepared_lists()
}

/// Reads until the engine has prepared the lists.
async fn until_listed(world: &World, import: &RemoteExport, to: &(Layout, Region)) {
    let mut pairs = vec![(0u32, 0usize)];
    while !is_listed(&read_some(world, import, to, &pairs).await) {
        pairs[0] = ((pairs[0].0 + 5) % 12, (pairs[0].1 + 7) % 12);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_pair_of_layouts_that_is_read_again_is_read_by_prepared_lists() {
    let world = World::new().await;
    for import in world.imports().await {
        let to = contiguous();
        assert!(!is_listed(&read_some(&world, &import, &to, &[(3, 1)]).await));
        until_listed(&world, &import, &to).await;
        // Of each layer of each block one piece.
        let pairs = [(7, 0), (2, 5), (11, 3), (0, 11)];
        let done = read_some(&world, &import, &to, &pairs).await;
        assert!(is_listed(&done) && done.path().unwrap().descriptors() == 4 * 3, "{done:?}");
        // One layer.
        let grant = world.export.grant(0, &[9], GrantOptions::new()).unwrap();
        let options = BlockTransferOptions::new().layers(2..3);
        let done = import.read_blocks_with(grant.ticket(), &to.0, &[4], options).await.unwrap();
        assert!(is_listed(&done));
        let layer = geometry().layer_len();
        let expected = [vec![0xee; 2 * layer], vec![9 * 16 + 2; layer]].concat();
        assert_eq!(read(&to.1, 4), expected);
        // Into another layout: it is new.
        assert!(!is_listed(&read_some(&world, &import, &contiguous(), &pairs).await));
        assert!(is_listed(&read_some(&world, &import, &to, &pairs).await));
    }
}

#[tokio::test]
async fn lists_of_a_peer_that_was_loaded_anew_are_prepared_anew() {
    let world = World::new().await;
    let [import, _] = world.imports().await;
    let to = contiguous();
    until_listed(&world, &import, &to).await;
    let transport = world.reader.connection().transport();
    transport.disconnect(&PeerId::new(world.owner.name())).unwrap();
    assert!(!is_listed(&read_some(&world, &import, &to, &[(6, 2)]).await));
    until_listed(&world, &import, &to).await;
}

#[tokio::test]
async fn lists_of_memory_that_was_registered_anew_are_prepared_anew() {
    let world = World::new().await;
    let [import, _] = world.imports().await;
    let to = contiguous();
    until_listed(&world, &import, &to).await;
    world.reader.connection().registrations().evict(&to.1);
    assert!(!is_listed(&read_some(&world, &import, &to, &[(6, 2)]).await));
    until_listed(&world, &import, &to).await;
}

/// And its memory can be taken back.
#[tokio::test]
async fn prepared_lists_keep_no_memory() {
    let world = World::new().await;
    let [import, _] = world.imports().await;
    let (layout, region) = contiguous();
    let to = (layout, region);
    until_listed(&world, &import, &to).await;
    let (layout, region) = to;
    drop(layout);
    // The thread that has prepared them may be about to drop what it did it with.
    while world.reader.stats().blocking_calls() > 0 {
        tokio::task::yield_now().await;
    }
    region.try_into_inner::<memmap2::MmapMut>().unwrap();
    // Others go on.
    until_listed(&world, &import, &contiguous()).await;
}

#[tokio::test]
async fn long_lists_are_not_prepared() {
    const BLOCKS: usize = (1 << 16) + 1;
    let geometry = LayoutGeometry::try_from(Dimensions {
        blocks: BLOCKS,
        layers: 1,
        outer: 1,
        page_size: 1,
        inner: Inner::Elements(1),
        element_width: 2,
    })
    .unwrap();
    let layout = |region: &Region| Layout::fully_contiguous(geometry, region.clone()).unwrap();
    let theirs = Region::try_from(vec![7; geometry.bytes()]).unwrap();
    let world = World::with(|reader| reader, (layout(&theirs), vec![theirs])).await;
    let ours = Region::zeroed(geometry.bytes()).unwrap();
    let local = layout(&ours);
    let import = world.reader.import_unless(world.export.metadata(), None, ImportOptions::new());
    let import = import.await.unwrap();
    for block in [5u32, BLOCKS as u32 - 1, 8, 9, 10] {
        let grant = world.export.grant(0, &[block], GrantOptions::new()).unwrap();
        let done = import.read_blocks(grant.ticket(), &local, &[block as usize]).await.unwrap();
        assert!(!is_listed(&done), "{done:?}");
        let mut bytes = [0; 2];
        ours.copy_to_slice(2 * block as usize, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 2]);
        while world.reader.stats().blocking_calls() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

//! Leases of blocks do what leases of the same bytes, one chunk after the other, would do.

use std::ops::Range;

use nixl_descriptor::layout::{BlockLeaseError, Dimensions, Layout, SelectionError};
use nixl_descriptor::{Descriptor, LeaseError, LeaseMode, LeaseSet, Leases, Region};
use proptest::prelude::*;

use super::model::{Built, KINDS, Model, Plan, build, chunk_len, dimensions, model, plan};

/// Which of the two layouts, blocks (each once) and layers.
pub(super) type Selection = (usize, Vec<usize>, Range<usize>);
/// Region and bytes.
pub(super) type Bytes = (usize, Range<usize>);

#[derive(Clone, Debug)]
pub(super) enum Step {
    Blocks(LeaseMode, Selection),
    Bytes(LeaseMode, Vec<Bytes>),
    Release(prop::sample::Index),
    Read(Bytes),
    Write(Bytes),
}

/// Two layouts of one geometry over the same regions.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) dimensions: Dimensions,
    plans: [Plan; 2],
    regions: usize,
    shift: usize,
}

impl Place {
    fn room(&self, layout: usize) -> usize {
        let plan = &self.plans[layout];
        model(&self.dimensions, plan.kind, plan.pad).needed + plan.guard
    }

    /// Bytes of a region.
    fn len(&self) -> usize {
        let parts = self.dimensions.layers.div_ceil(self.regions);
        self.shift + parts * self.room(0).max(self.room(1))
    }
}

pub(super) fn place() -> impl Strategy<Value = Place> {
    let shift = prop_oneof![Just(0usize), 0..300usize];
    (dimensions(), plan(), plan(), 1..5usize, shift).prop_map(
        |(dimensions, a, b, regions, shift)| Place { dimensions, plans: [a, b], regions, shift },
    )
}

pub(super) fn steps(place: &Place) -> impl Strategy<Value = Vec<Step>> + use<> {
    let Dimensions { blocks, layers, .. } = place.dimensions;
    let (regions, len) = (place.regions, place.len());
    let mode = || prop_oneof![Just(LeaseMode::Read), Just(LeaseMode::Write)];
    let chosen = prop::sample::subsequence((0..blocks).collect::<Vec<_>>(), 1..=blocks);
    let selection = (0..2usize, chosen.prop_shuffle(), 0..layers, 0..layers)
        .prop_map(|(layout, blocks, a, b)| (layout, blocks, a.min(b)..a.max(b) + 1));
    let bytes = || {
        (0..regions, 0..len, 1..40usize)
            .prop_map(move |(region, start, more)| (region, start..(start + more).min(len)))
    };
    let step = prop_oneof![
        5 => (mode(), selection).prop_map(|(mode, selection)| Step::Blocks(mode, selection)),
        2 => (mode(), prop::collection::vec(bytes(), 1..4)).prop_map(|(mode, list)| Step::Bytes(mode, list)),
        3 => any::<prop::sample::Index>().prop_map(Step::Release),
        1 => bytes().prop_map(Step::Read),
        1 => bytes().prop_map(Step::Write),
    ];
    prop::collection::vec(step, 1..30)
}

pub(super) struct World {
    pub(super) regions: Vec<Region>,
    pub(super) layouts: [Built; 2],
    pub(super) held: Vec<LeaseSet>,
}

impl World {
    pub(super) fn new(place: &Place) -> Self {
        let regions: Vec<_> =
            (0..place.regions).map(|_| Region::zeroed(place.len()).unwrap()).collect();
        let layout = |which: usize, shift: usize| {
            let plan = &place.plans[which];
            let model = model(&place.dimensions, plan.kind, plan.pad);
            let parts = (0..model.parts)
                .map(|part| {
                    // The second layout's parts are in other regions than the first one's.
                    let region = &regions[(part + which) % place.regions];
                    let start = shift + part / place.regions * place.room(which);
                    region.descriptor(start..start + model.needed).unwrap()
                })
                .collect();
            let layout = build(&place.dimensions, plan.kind, model.stride, parts).unwrap();
            Built { layout, model }
        };
        let layouts = [layout(0, 0), layout(1, place.shift)];
        Self { regions, layouts, held: Vec::new() }
    }

    /// Every chunk, one by one.
    pub(super) fn chunks(
        &self,
        dimensions: &Dimensions,
        (layout, blocks, layers): &Selection,
    ) -> Vec<Descriptor> {
        let Built { layout, model } = &self.layouts[*layout];
        let Model { chunks, .. } = model;
        let mut descriptors = Vec::new();
        for &block in blocks {
            for layer in layers.clone() {
                for outer in 0..dimensions.outer {
                    let (part, offset) = chunks[&(block, layer, outer)];
                    let part = &layout.parts()[part];
                    let start = part.offset() + offset;
                    let end = start + chunk_len(dimensions);
                    descriptors.push(part.region().descriptor(start..end).unwrap());
                }
            }
        }
        descriptors
    }

    pub(super) fn lease_bytes(
        &mut self,
        mode: LeaseMode,
        list: &[Bytes],
    ) -> Result<(), LeaseError> {
        let descriptor = |(region, range): &Bytes| {
            let region: &Region = &self.regions[*region];
            region.descriptor(range.clone()).unwrap()
        };
        let list: Vec<_> = list.iter().map(descriptor).collect();
        self.held.push(Leases::acquire(&list, mode)?);
        Ok(())
    }

    /// Whether the host may copy.
    pub(super) fn copy(&self, mode: LeaseMode, (region, range): &Bytes) -> bool {
        let mut bytes = vec![0; range.len()];
        let region = &self.regions[*region];
        match mode {
            LeaseMode::Read => region.copy_to_slice(range.start, &mut bytes).is_ok(),
            _ => region.copy_from_slice(range.start, &bytes).is_ok(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn as_leases_of_the_same_bytes(
        (place, steps) in place().prop_flat_map(|place| { let steps = steps(&place); (Just(place), steps) }),
    ) {
        let (mut blocks, mut bytes) = (World::new(&place), World::new(&place));
        for step in steps {
            match &step {
                Step::Blocks(mode, selection) => {
                    let (layout, ids, layers) = selection;
                    let taken = blocks.layouts[*layout].layout.lease(ids, layers.clone(), *mode);
                    let expected = Leases::acquire(&bytes.chunks(&place.dimensions, selection), *mode);
                    match (taken, expected) {
                        (Ok(taken), Ok(expected)) => {
                            blocks.held.push(taken);
                            bytes.held.push(expected);
                        }
                        (Err(BlockLeaseError::Lease(LeaseError::Conflict { .. })),
                         Err(LeaseError::Conflict { .. })) => {}
                        other => prop_assert!(false, "{step:?}: {other:?}"),
                    }
                }
                Step::Bytes(mode, list) => {
                    let (taken, expected) =
                        (blocks.lease_bytes(*mode, list), bytes.lease_bytes(*mode, list));
                    prop_assert_eq!(taken.is_ok(), expected.is_ok(), "{:?}", step);
                }
                Step::Release(index) if !blocks.held.is_empty() => {
                    let index = index.index(blocks.held.len());
                    drop(blocks.held.swap_remove(index));
                    drop(bytes.held.swap_remove(index));
                }
                Step::Release(_) => {}
                Step::Read(at) => {
                    let (taken, expected) =
                        (blocks.copy(LeaseMode::Read, at), bytes.copy(LeaseMode::Read, at));
                    prop_assert_eq!(taken, expected, "{:?}", step);
                }
                Step::Write(at) => {
                    let (taken, expected) =
                        (blocks.copy(LeaseMode::Write, at), bytes.copy(LeaseMode::Write, at));
                    prop_assert_eq!(taken, expected, "{:?}", step);
                }
            }
        }
        // Everything is released at the end, also by attempts that failed half-way.
        blocks.held.clear();
        for region in &blocks.regions {
            prop_assert!(Leases::acquire(&[region.whole()], LeaseMode::Write).is_ok());
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes an interpreter many minutes")]
    fn leased_are_the_bytes_of_the_blocks_and_no_others(
        dimensions in dimensions(), plan in plan(), picks in prop::collection::vec(0..100usize, 1..6),
        range in (0..100usize, 0..100usize),
    ) {
        let built = Built::new(&dimensions, &plan);
        // Some are there more than once.
        let blocks: Vec<usize> = picks.iter().map(|pick| pick % dimensions.blocks).collect();
        let first = range.0 % dimensions.layers;
        let layers = first..first + 1 + range.1 % (dimensions.layers - first);
        let held = built.layout.lease(&blocks, layers.clone(), LeaseMode::Read).unwrap();
        prop_assert_eq!(held.mode(), LeaseMode::Read);
        for (part, memory) in built.layout.parts().iter().enumerate() {
            for at in 0..memory.region().len() {
                let of = |(key, &(chunk, offset)): (&(usize, usize, usize), &(usize, usize))| {
                    let start = built.layout.parts()[chunk].offset() + offset;
                    let here = chunk == part || plan.one_region;
                    let chosen = blocks.contains(&key.0) && layers.contains(&key.1);
                    here && chosen && (start..start + chunk_len(&dimensions)).contains(&at)
                };
                let leased = built.model.chunks.iter().any(of);
                prop_assert_eq!(memory.region().copy_from_slice(at, &[0]).is_err(), leased);
            }
        }
    }
}

pub(super) fn small() -> Layout {
    let inner = nixl_descriptor::layout::Inner::Elements(8);
    let dimensions =
        Dimensions { blocks: 4, layers: 2, outer: 1, page_size: 1, inner, element_width: 1 };
    let plan = Plan { kind: KINDS[1], pad: 0, guard: 0, one_region: false };
    Built::new(&dimensions, &plan).layout
}

#[test]
fn wrong_selections_are_refused_and_lease_nothing() {
    let layout = small();
    let refused = |blocks: &[usize], layers: Range<usize>, mode| {
        layout.lease(blocks, layers, mode).unwrap_err()
    };
    assert_eq!(
        refused(&[1, 2, 3, 2], 0..2, LeaseMode::Write),
        BlockLeaseError::Duplicate { block: 2 }
    );
    assert_eq!(refused(&[], 0..2, LeaseMode::Read), SelectionError::NoBlocks.into());
    let missing = SelectionError::Block { block: 4, blocks: 4 };
    assert_eq!(refused(&[0, 4], 0..2, LeaseMode::Read), missing.into());
    let missing = SelectionError::Layers { start: 1, end: 3, layers: 2 };
    assert_eq!(refused(&[0], 1..3, LeaseMode::Read), missing.into());
    assert!(layout.lease(&[0, 1, 2, 3], 0..2, LeaseMode::Write).is_ok());
}

#[test]
fn read_only_memory_is_not_leased_for_writing() {
    let layout = small();
    let geometry = *layout.geometry();
    let region = Region::try_from(bytes::Bytes::from(vec![0u8; geometry.bytes()])).unwrap();
    let layout = Layout::fully_contiguous(geometry, region.clone()).unwrap();
    let refused = layout.lease(&[0], 0..1, LeaseMode::Write).unwrap_err();
    assert_eq!(refused, LeaseError::ReadOnly { region: region.id() }.into());
    assert!(layout.lease(&[0], 0..1, LeaseMode::Read).is_ok());
}

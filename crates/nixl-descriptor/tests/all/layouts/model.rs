//! Small layouts with a map of their chunks that is made by walking through memory, without a formula.

use std::collections::HashMap;

use nixl_descriptor::layout::{
    Dimensions, Inner, LayerOrder, Layout, LayoutError, LayoutGeometry, LayoutKind,
};
use nixl_descriptor::{Descriptor, Region};
use proptest::prelude::*;
use proptest::sample::select;

/// Block, layer, outer.
pub(crate) type Key = (usize, usize, usize);

pub(crate) const KINDS: [LayoutKind; 3] = [
    LayoutKind::FullyContiguous,
    LayoutKind::PerLayer(LayerOrder::BlockFirst),
    LayoutKind::PerLayer(LayerOrder::OuterFirst),
];

pub(crate) fn dimensions() -> impl Strategy<Value = Dimensions> {
    let inner = prop_oneof![
        (1..6usize).prop_map(Inner::Elements),
        (1..4usize, 1..4usize).prop_map(|(heads, head_size)| Inner::Heads { heads, head_size }),
    ];
    let sizes = (1..6usize, 1..5usize, 1..3usize, 1..4usize, inner, select(vec![1usize, 2, 4, 8]));
    sizes.prop_map(|(blocks, layers, outer, page_size, inner, element_width)| Dimensions {
        blocks,
        layers,
        outer,
        page_size,
        inner,
        element_width,
    })
}

/// How to lay out blocks in memory.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: LayoutKind,
    /// Bytes between blocks.
    pub(crate) pad: usize,
    /// Bytes before and after each part.
    pub(crate) guard: usize,
    /// All parts in one region, the last one first.
    pub(crate) one_region: bool,
}

pub(crate) fn plan() -> impl Strategy<Value = Plan> {
    let pad = prop_oneof![3 => Just(0usize), 1 => 1..9usize];
    (select(KINDS.to_vec()), pad, 0..4usize, any::<bool>())
        .prop_map(|(kind, pad, guard, one_region)| Plan { kind, pad, guard, one_region })
}

/// Bytes of a chunk.
pub(crate) fn chunk_len(dimensions: &Dimensions) -> usize {
    let inner = match dimensions.inner {
        Inner::Heads { heads, head_size } => heads * head_size,
        Inner::Elements(elements) => elements,
        _ => unreachable!("no other kind is made here"),
    };
    dimensions.page_size * inner * dimensions.element_width
}

/// Part and offset of every chunk, the block stride, and the bytes that a part needs.
pub(crate) struct Model {
    pub(crate) chunks: HashMap<Key, (usize, usize)>,
    pub(crate) stride: usize,
    pub(crate) needed: usize,
    pub(crate) parts: usize,
}

pub(crate) fn model(dimensions: &Dimensions, kind: LayoutKind, pad: usize) -> Model {
    let Dimensions { blocks, layers, outer, .. } = *dimensions;
    let len = chunk_len(dimensions);
    let mut chunks = HashMap::new();
    let mut put = |key, part, cursor: &mut usize| {
        chunks.insert(key, (part, *cursor));
        *cursor += len;
    };
    let mut cursor = 0;
    let (parts, together) = match kind {
        LayoutKind::FullyContiguous => {
            for b in 0..blocks {
                for l in 0..layers {
                    (0..outer).for_each(|o| put((b, l, o), 0, &mut cursor));
                }
                cursor += pad;
            }
            (1, layers * outer)
        }
        LayoutKind::PerLayer(LayerOrder::BlockFirst) => {
            for l in 0..layers {
                cursor = 0;
                for b in 0..blocks {
                    (0..outer).for_each(|o| put((b, l, o), l, &mut cursor));
                    cursor += pad;
                }
            }
            (layers, outer)
        }
        _ => {
            for l in 0..layers {
                cursor = 0;
                for o in 0..outer {
                    for b in 0..blocks {
                        put((b, l, o), l, &mut cursor);
                        cursor += pad;
                    }
                }
            }
            (layers, 1)
        }
    };
    Model { chunks, stride: together * len + pad, needed: cursor - pad, parts }
}

/// A layout in host memory.
pub(crate) struct Built {
    pub(crate) layout: Layout,
    pub(crate) model: Model,
}

impl Built {
    pub(crate) fn new(dimensions: &Dimensions, plan: &Plan) -> Self {
        let model = model(dimensions, plan.kind, plan.pad);
        let room = model.needed + 2 * plan.guard;
        let inside = |region: &Region, at: usize| {
            let start = at * room + plan.guard;
            region.descriptor(start..start + model.needed).unwrap()
        };
        let parts: Vec<Descriptor> = if plan.one_region {
            let region = Region::zeroed(room * model.parts).unwrap();
            (0..model.parts).rev().map(|at| inside(&region, at)).collect()
        } else {
            (0..model.parts).map(|_| inside(&Region::zeroed(room).unwrap(), 0)).collect()
        };
        let layout = build(dimensions, plan.kind, model.stride, parts).unwrap();
        Self { layout, model }
    }

    /// All its memory, with guards and padding.
    pub(crate) fn bytes(&self) -> Vec<Vec<u8>> {
        self.layout.parts().iter().map(|part| part.region().to_vec().unwrap()).collect()
    }

    /// Fills all its memory with `byte`, guards and padding too.
    pub(crate) fn fill(&self, byte: u8) {
        for part in self.layout.parts() {
            part.region().copy_from_slice(0, &vec![byte; part.region().len()]).unwrap();
        }
    }

    /// Where the byte `at` of a chunk is in the result of [`bytes`](Self::bytes).
    pub(crate) fn position(&self, key: Key, at: usize) -> (usize, usize) {
        let (part, offset) = self.model.chunks[&key];
        (part, self.layout.parts()[part].offset() + offset + at)
    }

    /// Addresses of a chunk.
    pub(crate) fn addresses(&self, key: Key, len: usize) -> std::ops::Range<u64> {
        let (part, offset) = self.model.chunks[&key];
        let start = self.layout.parts()[part].address() + offset as u64;
        start..start + len as u64
    }
}

/// A layout by the plain constructor where there is one.
pub(crate) fn build(
    dimensions: &Dimensions,
    kind: LayoutKind,
    stride: usize,
    mut parts: Vec<Descriptor>,
) -> Result<Layout, LayoutError> {
    let geometry = LayoutGeometry::try_from(*dimensions).unwrap();
    match kind {
        LayoutKind::FullyContiguous if stride == geometry.block_len() && parts.len() == 1 => {
            Layout::fully_contiguous(geometry, parts.remove(0))
        }
        LayoutKind::PerLayer(order)
            if stride == model(dimensions, kind, 0).stride && !parts.is_empty() =>
        {
            Layout::per_layer(geometry, order, parts)
        }
        _ => Layout::with_block_stride(geometry, kind, stride, parts),
    }
}

/// A byte that tells block, layer, outer and position apart.
pub(crate) fn pattern((block, layer, outer): Key, at: usize) -> u8 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for number in [block, layer, outer, at] {
        hash = (hash ^ number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    (hash >> 32) as u8
}

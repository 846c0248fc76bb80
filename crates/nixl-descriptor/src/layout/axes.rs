//! Axes of a layout, each with a letter and a stride.

use super::description::RemoteLayout;
use super::geometry::{Dimensions, Inner};
use super::local::Layout;
use super::placement::Placement;

/// An axis of a layout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Axis {
    letter: char,
    len: usize,
    stride: Option<usize>,
}

impl Axis {
    /// `B` of blocks, `L` of layers, `P` of outer parts (K and V), `N` of tokens, `H` of heads, `C` of the elements of a head, or of a
    /// token without heads.
    #[must_use]
    pub fn letter(&self) -> char {
        self.letter
    }

    /// The number of its positions.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no axis is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes from one position to the next; `None` of layers that lie in a part each.
    #[must_use]
    pub fn stride(&self) -> Option<usize> {
        self.stride
    }
}

impl Placement {
    fn axes(&self) -> Vec<Axis> {
        let (geometry, strides) = (&self.geometry, self.strides);
        let Dimensions { page_size, inner, element_width, .. } = geometry.dimensions();
        let axis = |letter, len, stride| Axis { letter, len, stride: Some(stride) };
        let token = geometry.chunk_len() / page_size;
        let layers = Axis {
            letter: 'L',
            len: geometry.layers(),
            stride: (!strides.part_per_layer).then_some(strides.layer),
        };
        let mut axes = vec![
            axis('B', geometry.blocks(), strides.block),
            layers,
            axis('P', geometry.outer(), strides.outer),
            axis('N', page_size, token),
        ];
        match inner {
            Inner::Heads { heads, head_size } => {
                let head = head_size * element_width;
                axes.push(axis('H', heads, head));
                axes.push(axis('C', head_size, element_width));
            }
            Inner::Elements(elements) => axes.push(axis('C', elements, element_width)),
        }
        axes
    }
}

impl Layout {
    /// The axes: a byte lies at the sum of the strides times its positions, in its layer's part if layers have no stride.
    #[must_use]
    pub fn axes(&self) -> Vec<Axis> {
        self.placement().axes()
    }
}

impl RemoteLayout {
    /// The axes, as of a [`Layout`].
    #[must_use]
    pub fn axes(&self) -> Vec<Axis> {
        self.placement().axes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LayerOrder, LayoutGeometry};
    use super::*;
    use crate::region::Region;

    fn geometry(inner: Inner) -> LayoutGeometry {
        LayoutGeometry::try_from(Dimensions {
            blocks: 4,
            layers: 3,
            outer: 2,
            page_size: 16,
            inner,
            element_width: 2,
        })
        .unwrap()
    }

    fn letters(axes: &[Axis]) -> String {
        axes.iter().map(|axis| axis.letter).collect()
    }

    /// The sum of the strides is where the chunk says.
    #[test]
    fn strides_lead_to_the_chunks() {
        let geometry = geometry(Inner::Heads { heads: 8, head_size: 64 });
        let whole = Region::zeroed(geometry.bytes()).unwrap();
        let whole = Layout::fully_contiguous(geometry, whole).unwrap();
        let layer = || Region::zeroed(4 * geometry.layer_len()).unwrap().into();
        let parts = (0..3).map(|_| layer()).collect();
        let by_layer = Layout::per_layer(geometry, LayerOrder::OuterFirst, parts).unwrap();
        for layout in [whole, by_layer] {
            let axes = layout.axes();
            assert_eq!(letters(&axes), "BLPNHC");
            let of = |letter| axes.iter().find(|axis| axis.letter == letter).unwrap();
            for (block, layer, outer) in [(0, 0, 0), (3, 2, 1), (1, 0, 1), (2, 1, 0)] {
                let chunk = layout.chunk(block, layer, outer).unwrap();
                let stride = |letter| of(letter).stride;
                let at = block * stride('B').unwrap()
                    + layer * stride('L').unwrap_or(0)
                    + outer * stride('P').unwrap();
                assert_eq!(at, chunk.offset);
                assert_eq!(chunk.part, if stride('L').is_some() { 0 } else { layer });
            }
            assert_eq!(of('N').stride.unwrap() * of('N').len, geometry.chunk_len());
            assert_eq!(of('H').stride.unwrap() * of('H').len, of('N').stride.unwrap());
            assert_eq!(of('C').stride.unwrap() * of('C').len, of('H').stride.unwrap());
        }
    }

    #[test]
    fn tokens_without_heads_have_elements() {
        let geometry = geometry(Inner::Elements(5));
        let region = Region::zeroed(geometry.bytes()).unwrap();
        let axes = Layout::fully_contiguous(geometry, region).unwrap().axes();
        assert_eq!(letters(&axes), "BLPNC");
        assert_eq!(axes.last().map(|axis| (axis.len, axis.stride)), Some((5, Some(2))));
    }
}

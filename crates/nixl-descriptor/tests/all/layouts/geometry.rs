//! Sizes are checked, and compared one by one.

use nixl_descriptor::layout::{
    Dimension, Dimensions, GeometryError, Inner, LayoutGeometry, same_geometry,
};
use proptest::prelude::*;

const KV: Dimensions = Dimensions {
    blocks: 64,
    layers: 80,
    outer: 2,
    page_size: 16,
    inner: Inner::Heads { heads: 8, head_size: 128 },
    element_width: 2,
};

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![0..4usize, any::<usize>(), (0..64u32).prop_map(|bit| 1 << bit)]
}

proptest! {
    #[test]
    fn products_never_wrap(
        sizes in (size(), size(), 1..3usize, size(), size(), size()), width in 0..10usize,
    ) {
        let (blocks, layers, outer, page_size, heads, head_size) = sizes;
        let inner = Inner::Heads { heads, head_size };
        let dimensions = Dimensions { blocks, layers, outer, page_size, inner, element_width: width };
        let bytes = [blocks, layers, outer, page_size, heads, head_size, width]
            .iter()
            .try_fold(1u128, |product, &size| product.checked_mul(size as u128));
        let fits = bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
        let expected = fits.filter(|_| matches!(width, 1 | 2 | 4 | 8));
        prop_assert_eq!(LayoutGeometry::try_from(dimensions).ok().map(|g| g.bytes()), expected);
    }
}

#[test]
fn lengths_follow_from_the_dimensions() {
    let geometry = LayoutGeometry::try_from(KV).unwrap();
    assert_eq!(geometry.chunk_len(), 32 << 10);
    assert_eq!(geometry.layer_len(), 64 << 10);
    assert_eq!(geometry.block_len(), 5 << 20);
    assert_eq!(geometry.bytes(), 320 << 20);
    assert_eq!(geometry.dimensions(), KV);
}

#[test]
fn every_wrong_size_is_named() {
    let elements = Inner::Elements(0);
    let heads = Inner::Heads { heads: 0, head_size: 1 };
    let head_size = Inner::Heads { heads: 1, head_size: 0 };
    for (dimensions, dimension) in [
        (Dimensions { blocks: 0, ..KV }, Dimension::Blocks),
        (Dimensions { layers: 0, ..KV }, Dimension::Layers),
        (Dimensions { page_size: 0, ..KV }, Dimension::PageSize),
        (Dimensions { inner: elements, ..KV }, Dimension::Inner),
        (Dimensions { inner: heads, ..KV }, Dimension::Heads),
        (Dimensions { inner: head_size, ..KV }, Dimension::HeadSize),
    ] {
        let error = LayoutGeometry::try_from(dimensions).unwrap_err();
        assert_eq!(error, GeometryError::Zero { dimension });
    }
    for outer in [0, 3] {
        let error = LayoutGeometry::try_from(Dimensions { outer, ..KV }).unwrap_err();
        assert_eq!(error, GeometryError::Outer { outer });
    }
    for width in [0, 3, 16] {
        let error =
            LayoutGeometry::try_from(Dimensions { element_width: width, ..KV }).unwrap_err();
        assert_eq!(error, GeometryError::ElementWidth { width });
    }
    let error = LayoutGeometry::try_from(Dimensions { blocks: usize::MAX, ..KV }).unwrap_err();
    assert_eq!(error, GeometryError::Overflow { blocks: usize::MAX });
}

#[test]
fn every_difference_is_named() {
    let swapped = Inner::Heads { heads: 128, head_size: 8 };
    let wider = Inner::Heads { heads: 8, head_size: 256 };
    let geometry = |dimensions| LayoutGeometry::try_from(dimensions).unwrap();
    // Several have as many bytes as `KV`.
    for (other, dimension, src, dst) in [
        (Dimensions { layers: 160, outer: 1, ..KV }, Dimension::Layers, 80, 160),
        (Dimensions { outer: 1, page_size: 32, ..KV }, Dimension::Outer, 2, 1),
        (Dimensions { page_size: 32, element_width: 1, ..KV }, Dimension::PageSize, 16, 32),
        (Dimensions { element_width: 1, inner: wider, ..KV }, Dimension::ElementWidth, 2, 1),
        (Dimensions { inner: swapped, ..KV }, Dimension::Heads, 8, 128),
        (Dimensions { inner: wider, ..KV }, Dimension::HeadSize, 128, 256),
        (Dimensions { inner: Inner::Elements(512), ..KV }, Dimension::Inner, 1024, 512),
    ] {
        let mismatch = same_geometry(&geometry(KV), &geometry(other)).unwrap_err();
        let (named, left, right) = (mismatch.dimension(), mismatch.src(), mismatch.dst());
        assert_eq!((named, left, right), (dimension, src, dst));
    }
    let plain = Dimensions { blocks: 3, inner: Inner::Elements(1024), ..KV };
    assert_eq!(same_geometry(&geometry(KV), &geometry(plain)), Ok(()));
    assert_eq!(same_geometry(&geometry(plain), &geometry(KV)), Ok(()));
}

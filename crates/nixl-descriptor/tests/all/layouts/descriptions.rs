//! Checks of a peer's description of its layout.

use std::collections::HashSet;

use nixl_descriptor::layout::{
    Dimensions, Inner, LayoutDescription, LayoutError, PartDescription, RemoteLayout,
};
use nixl_device::Device;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::model::{Built, Plan, chunk_len, dimensions, plan};

/// Numbers that are likely to break something.
fn number() -> impl Strategy<Value = u64> {
    let edges = vec![u64::MAX, u64::MAX - 7, u64::MAX / 2 + 1, u64::MAX / 3, 1 << 32];
    prop_oneof![0..200u64, proptest::sample::select(edges), any::<u64>()]
}

proptest! {
    #[test]
    fn the_importer_finds_the_same_chunks(dimensions in dimensions(), plan in plan()) {
        let built = Built::new(&dimensions, &plan);
        let text = serde_json::to_string(&LayoutDescription::from(&built.layout)).unwrap();
        let description: LayoutDescription = serde_json::from_str(&text).unwrap();
        let remote = RemoteLayout::try_from(&description).unwrap();
        prop_assert_eq!(remote.geometry(), built.layout.geometry());
        prop_assert_eq!((remote.kind(), remote.device()), (built.layout.kind(), Device::HOST));
        for key in built.model.chunks.keys() {
            let span = remote.chunk(key.0, key.1, key.2).unwrap();
            prop_assert_eq!(span.address..span.address + span.len, built.addresses(*key, chunk_len(&dimensions)));
            prop_assert_eq!(span.device, Device::HOST);
        }
        prop_assert!(remote.chunk(dimensions.blocks, 0, 0).is_err());
    }

    #[test]
    fn the_fuzzers_target_holds(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..9u8), 0..4),
        noise in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        // One block of 16 bytes in one part, at 64.
        let mut numbers = [1, 1, 1, 2, 4, 2, 0, 16, 0, 1, 64, 16];
        super::targets::layout(&numbers);
        for (at, value) in edits {
            numbers[at.index(numbers.len())] = value;
        }
        super::targets::layout(&numbers);
        super::targets::layout(&[&numbers[..9], &noise].concat());
    }

    #[test]
    fn what_is_accepted_is_consistent(
        dimensions in dimensions(), plan in plan(), stride in proptest::option::of(number()),
        changes in proptest::collection::vec((any::<usize>(), any::<bool>(), number()), 0..3),
        parts in proptest::option::of(0..5usize),
    ) {
        let built = Built::new(&dimensions, &plan);
        let mut description = LayoutDescription::from(&built.layout);
        description.block_stride = stride.map_or(description.block_stride, |stride| stride as usize);
        for (part, address, number) in changes {
            let at = part % description.parts.len();
            let part = &mut description.parts[at];
            *if address { &mut part.address } else { &mut part.len } = number;
        }
        description.parts.truncate(parts.unwrap_or(usize::MAX));
        let Ok(remote) = RemoteLayout::try_from(&description) else {
            return Ok(());
        };
        let mut seen = HashSet::new();
        for &(b, l, o) in built.model.chunks.keys() {
            let span = remote.chunk(b, l, o).unwrap();
            let end = span.address.checked_add(span.len).unwrap();
            let inside = |p: &PartDescription| p.address <= span.address && end <= p.address + p.len;
            prop_assert!(description.parts.iter().any(inside));
            prop_assert!((span.address..end).all(|address| seen.insert(address)));
        }
    }
}

fn description() -> Value {
    let dimensions = Dimensions {
        blocks: 2,
        layers: 2,
        outer: 2,
        page_size: 4,
        inner: Inner::Heads { heads: 2, head_size: 4 },
        element_width: 2,
    };
    let kind = super::model::KINDS[2];
    let plan = Plan { kind, pad: 0, guard: 0, one_region: true };
    serde_json::to_value(LayoutDescription::from(&Built::new(&dimensions, &plan).layout)).unwrap()
}

fn import(value: Value) -> Result<RemoteLayout, String> {
    let description: LayoutDescription =
        serde_json::from_value(value).map_err(|error| error.to_string())?;
    RemoteLayout::try_from(&description).map_err(|error| error.to_string())
}

#[test]
fn the_form_is_as_documented() {
    let mut value = description();
    value["parts"] = json!([{"address": 4096, "len": 256}, {"address": 8192, "len": 256}]);
    let expected = json!({
        "geometry": {
            "blocks": 2, "layers": 2, "outer": 2, "page_size": 4,
            "inner": {"heads": {"heads": 2, "head_size": 4}}, "element_width": 2,
        },
        "kind": {"per_layer": "outer_first"},
        "block_stride": 64,
        "device": "cpu",
        "parts": [{"address": 4096, "len": 256}, {"address": 8192, "len": 256}],
    });
    assert_eq!(value, expected);
    assert!(import(value).is_ok());
}

#[test]
fn malformed_descriptions_are_refused() {
    let huge = json!(u64::MAX);
    for (path, value) in [
        ("/geometry/blocks", json!(0)),
        ("/geometry/blocks", json!(3)),
        ("/geometry/blocks", huge.clone()),
        ("/geometry/layers", json!(1)),
        ("/geometry/layers", json!(-1)),
        ("/geometry/outer", json!(3)),
        ("/geometry/page_size", huge.clone()),
        ("/geometry/element_width", json!(3)),
        ("/geometry/inner", json!({"heads": {"heads": 2}})),
        ("/geometry/inner", json!("unknown")),
        ("/geometry/colour", json!(1)),
        ("/kind", json!("fully_contiguous")),
        ("/kind", json!("sideways")),
        ("/block_stride", json!(63)),
        ("/block_stride", json!(0)),
        ("/block_stride", huge.clone()),
        ("/device", json!("cuda:-1")),
        ("/parts/0/len", json!(255)),
        ("/parts/0/len", huge.clone()),
        ("/parts/0/address", huge),
        ("/parts/1/more", json!(1)),
        ("/parts", json!([])),
        ("/secret", json!(1)),
    ] {
        let mut description = description();
        let (parent, field) = path.rsplit_once('/').unwrap();
        description.pointer_mut(parent).unwrap()[field] = value.clone();
        assert!(import(description).is_err(), "{path} = {value} was accepted");
    }
    let mut overlapping = description();
    overlapping["parts"][0] = overlapping["parts"][1].clone();
    assert!(import(overlapping).unwrap_err().contains("overlap"));
}

#[test]
#[cfg_attr(miri, ignore = "takes an interpreter many minutes")]
fn the_number_of_parts_is_bounded() {
    let most = LayoutDescription::MAX_PARTS;
    let part = |at: usize| json!({"address": at * 256, "len": 256});
    let mut value = description();
    value["geometry"]["layers"] = json!(most);
    value["parts"] = (0..most).map(part).collect();
    assert!(import(value.clone()).is_ok());

    value["geometry"]["layers"] = json!(most + 1);
    value["parts"] = (0..=most).map(part).collect();
    let refused = serde_json::from_value::<LayoutDescription>(value.clone()).unwrap_err();
    assert!(refused.to_string().contains("at most"));

    value["parts"] = json!([]);
    let mut description: LayoutDescription = serde_json::from_value(value).unwrap();
    description.parts = vec![PartDescription { address: 0, len: 256 }; most + 1];
    let refused = LayoutError::TooManyParts { parts: most + 1, most };
    assert_eq!(RemoteLayout::try_from(&description).unwrap_err(), refused);
}

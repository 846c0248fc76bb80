//! The function of the fuzzer of layouts (`cargo +nightly fuzz run layout`); `descriptions.rs` runs it too, on any toolchain.

use nixl_descriptor::layout::{LayoutDescription, RemoteLayout};
use serde_json::json;

/// What a peer says of its layout: as JSON, and as numbers that are put where JSON's would be.
pub(crate) fn layout(input: &[u8]) {
    check(serde_json::from_slice(input));
    let mut numbers = Numbers(input);
    let kinds = [
        json!("fully_contiguous"),
        json!({"per_layer": "block_first"}),
        json!({"per_layer": "outer_first"}),
    ];
    let description = json!({
        "geometry": {
            "blocks": numbers.next(),
            "layers": numbers.next(),
            "outer": numbers.next(),
            "page_size": numbers.next(),
            "inner": {"elements": numbers.next()},
            "element_width": numbers.next(),
        },
        "kind": kinds[numbers.next() as usize % kinds.len()],
        "block_stride": numbers.next(),
        "device": if numbers.next() % 2 == 0 { "cpu".to_owned() } else { format!("cuda:{}", numbers.next()) },
        "parts": (0..numbers.next() % 5)
            .map(|_| json!({"address": numbers.next(), "len": numbers.next()}))
            .collect::<Vec<_>>(),
    });
    check(serde_json::from_value(description));
}

/// Numbers of a byte, or of eight where that byte is 255; then zeros.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next(&mut self) -> u64 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        match rest.split_first_chunk() {
            Some((long, rest)) if first == u8::MAX => {
                self.0 = rest;
                u64::from_le_bytes(*long)
            }
            _ => first.into(),
        }
    }
}

/// Every chunk of a layout that is accepted lies in one of its parts.
fn check(description: serde_json::Result<LayoutDescription>) {
    let Ok(description) = description else { return };
    let remote = match RemoteLayout::try_from(&description) {
        Ok(remote) => remote,
        Err(error) => {
            assert!((5..500).contains(&error.to_string().len()), "{error}");
            return;
        }
    };
    let again = serde_json::to_value(&description).expect("plain data");
    assert_eq!(serde_json::from_value::<LayoutDescription>(again).ok(), Some(description.clone()));
    let sizes = remote.geometry().dimensions();
    for block in [0, sizes.blocks / 2, sizes.blocks - 1] {
        for layer in [0, sizes.layers - 1] {
            for outer in 0..sizes.outer {
                let span = remote.chunk(block, layer, outer).expect("it is in the layout");
                let end = span.address.checked_add(span.len).expect("it does not wrap");
                let within = description
                    .parts
                    .iter()
                    .any(|part| part.address <= span.address && end - part.address <= part.len);
                assert!(within && span.len > 0);
            }
        }
    }
    assert!(remote.chunk(sizes.blocks, 0, 0).is_err());
    assert!(remote.chunk(0, sizes.layers, 0).is_err());
    assert!(remote.chunk(0, 0, sizes.outer).is_err());
}

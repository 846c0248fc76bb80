//! The target of the fuzzer of safetensors headers (`cargo +nightly fuzz run safetensors`); `safetensors.rs` runs it too, on any
//! toolchain.

use nixl_descriptor::Region;
use nixl_descriptor::tensor::safetensors::{SafetensorsFile, SafetensorsHeader};

/// A file, and the same bytes as the JSON of one whose length and data suit.
pub(crate) fn safetensors(input: &[u8]) {
    check(input);
    let data = input.first().copied().map_or(0, usize::from);
    let mut file = (input.len() as u64).to_le_bytes().to_vec();
    file.extend(input);
    file.resize(file.len() + data, 0);
    check(&file);
}

/// The tensors of a header that is accepted cover the file.
fn check(file: &[u8]) {
    let parsed = SafetensorsHeader::parse(file, file.len() as u64);
    let header = match &parsed {
        Ok(header) => header,
        Err(error) => {
            assert!((5..1000).contains(&error.to_string().len()), "{error}");
            return;
        }
    };
    let mut end = 8 + u64::from_le_bytes(file[..8].try_into().expect("a header"));
    for entry in header.tensors() {
        let bytes = entry.bytes();
        assert_eq!(bytes.start, end);
        end = bytes.end;
        let bits =
            entry.shape().iter().fold(entry.dtype().bits() as u128, |all, &n| all * n as u128);
        assert_eq!(bits, 8 * u128::from(bytes.end - bytes.start));
        assert_eq!(header.get(entry.name()), Some(entry));
    }
    assert_eq!(end, file.len() as u64);

    let memory = Region::try_from(file.to_vec()).expect("it has a header");
    let opened = SafetensorsFile::from_memory(memory).expect("the header is good");
    assert_eq!(Ok(opened.header()), parsed.as_ref());
    for entry in header.tensors().iter().take(20) {
        let bytes = entry.bytes();
        let bytes = &file[bytes.start as usize..bytes.end as usize];
        match opened.load(entry.name()) {
            Ok(tensor) => assert_eq!(tensor.to_bytes().expect("host memory"), bytes),
            Err(_) => assert!(bytes.is_empty()),
        }
        if let Ok(tensor) = opened.tensor(entry.name()) {
            assert_eq!(tensor.to_bytes().expect("host memory"), bytes);
        }
    }
}

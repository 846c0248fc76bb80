//! Metadata as a line of text.

use nixl_metadata::{MetadataError, RdmaMetadata};

/// The native profile in hexadecimal: all that one side tells the other, on one line.
///
/// # Panics
///
/// If the profile cannot carry it.
pub fn native_line(metadata: &RdmaMetadata) -> String {
    hex_line(&metadata.to_native_bytes().expect("the native profile carries it"))
}

/// An encoding in hexadecimal, on one line.
pub fn hex_line(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a line in either profile.
///
/// # Errors
///
/// As decoding.
pub fn metadata(line: &str) -> Result<RdmaMetadata, MetadataError> {
    match bytes_of(line) {
        Some(bytes) => RdmaMetadata::decode(&bytes),
        None => RdmaMetadata::decode(line.as_bytes()),
    }
}

/// The bytes of a [line in hexadecimal](hex_line).
pub fn bytes_of(line: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let (pairs, rest) = line.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|pair| byte(pair)).collect::<Option<Vec<_>>>()?;
    (rest.is_empty() && !bytes.is_empty()).then_some(bytes)
}

//! The offers of an owner's process, in lines of its output.

use nixl_metadata::RdmaMetadata;

use crate::hex::{hex, unhex};

/// Prints all offers.
pub(crate) fn print<'a>(offers: impl IntoIterator<Item = &'a RdmaMetadata>) {
    for offer in offers {
        println!("\noffer {}", hex(&offer.to_native_bytes().unwrap()));
    }
    println!("\nall");
}

/// Reads all offers.
pub(crate) fn read(lines: impl Iterator<Item = String>) -> Vec<RdmaMetadata> {
    let decode = |line: String| {
        let offer = line.strip_prefix("offer ").map(unhex)?;
        Some(RdmaMetadata::decode(&offer).unwrap())
    };
    lines.take_while(|line| line != "all").filter_map(decode).collect()
}

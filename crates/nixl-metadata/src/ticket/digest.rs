//! The digest of a ticket.
//!
//! It detects accidents, and changes by a holder that does not recompute it: XXH3 is no signature. The owner does not rely on
//! it; a reader compares it with the owner's published one.
//!
//! The owner publishes the digest to peers that do not hold the ticket. It has 64 bits, so it leaves at least 64 of the token's
//! 128 unknown, provided that a token is used for one ticket only.

use xxhash_rust::xxh3::Xxh3;

use super::TicketTerms;

/// The digest of the part of the header before it and of the blocks, with a seed out of the token.
pub(super) fn of(header: &[u8], blocks: &[u32], token: &[u8; 16]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *token;
    let mut hasher = Xxh3::with_seed(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    hasher.update(header);
    update(&mut hasher, blocks);
    hasher.digest()
}

fn update(hasher: &mut Xxh3, blocks: &[u32]) {
    const AT_ONCE: usize = 128;
    let mut buffer = [0; 4 * AT_ONCE];
    for blocks in blocks.chunks(AT_ONCE) {
        for (bytes, block) in buffer.chunks_exact_mut(4).zip(blocks) {
            bytes.copy_from_slice(&block.to_le_bytes());
        }
        hasher.update(&buffer[..4 * blocks.len()]);
    }
}

/// The token with its last six bytes out of the first ten and of what the ticket grants: all but its slot, generation and expiry, which
/// the owner chooses once it has the token.
pub(super) fn bound_token(terms: &TicketTerms, blocks: &[u32]) -> [u8; 16] {
    let TicketTerms { export, layout, layers, rights, token, .. } = terms;
    let [a, b, c, d, e, f, g, h, i, j, ..] = *token;
    let mut hasher = Xxh3::with_seed(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    hasher.update(&[i, j, rights.to_flags()]);
    hasher.update(&export.value().to_le_bytes());
    for number in [*layout, layers.start, layers.end] {
        hasher.update(&number.to_le_bytes());
    }
    update(&mut hasher, blocks);
    let [k, l, m, n, o, p, ..] = hasher.digest().to_le_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

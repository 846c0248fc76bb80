//! Differences between block ids: zig-zag, then LEB128, in the shortest form only.

/// The most bytes of a difference between two ids of 32 bits.
pub(super) const MAX_BYTES: usize = 5;

/// Small numbers of either sign to small numbers.
pub(super) const fn zig_zag(difference: i64) -> u64 {
    ((difference << 1) ^ (difference >> 63)) as u64
}

const fn unzig_zag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// How many bytes a number takes.
pub(super) const fn len(number: u64) -> usize {
    let bits = u64::BITS - (number | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

pub(super) fn write(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// What stands at the start of some bytes.
pub(super) enum Read<'a> {
    Difference(i64, &'a [u8]),
    /// The bytes end inside a number.
    Truncated,
    /// More bytes than a difference has, or than the number needs.
    Malformed,
}

pub(super) fn read(bytes: &[u8]) -> Read<'_> {
    let mut number = 0;
    for (index, &byte) in bytes.iter().take(MAX_BYTES).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if byte == 0 && index > 0 {
                return Read::Malformed;
            }
            return Read::Difference(unzig_zag(number), &bytes[index + 1..]);
        }
    }
    if bytes.len() < MAX_BYTES { Read::Truncated } else { Read::Malformed }
}

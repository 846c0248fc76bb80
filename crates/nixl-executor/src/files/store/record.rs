//! Records: a page for each slot, and one for the store, each with a checksum.

use super::key::BlockKey;

/// Bytes of a record: a page, so that direct I/O writes one alone, and a torn one is found by its checksum.
pub(super) const PAGE: usize = 4096;

const VERSION: u32 = 1;
const STORE: &[u8; 8] = b"nixlstor";
const BLOCK: &[u8; 8] = b"nixlblck";
/// The fields of a record, before its checksum.
const FIELDS: usize = 96;

/// The block of a slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Record {
    pub(super) key: BlockKey,
    /// Of two records of one key the greater counts. No two are alike.
    pub(super) generation: u64,
    pub(super) len: u64,
    pub(super) checksum: u32,
}

/// A store of a million puts a second reaches it after 146,000 years.
const LAST_GENERATION: u64 = 1 << 62;

impl Record {
    /// The page of a slot with a block.
    pub(super) fn encode(&self, fingerprint: u128) -> Vec<u8> {
        let mut fields = Vec::with_capacity(PAGE);
        fields.extend(BLOCK);
        fields.extend(VERSION.to_le_bytes());
        fields.extend(self.checksum.to_le_bytes());
        fields.extend(fingerprint.to_le_bytes());
        fields.extend(self.generation.to_le_bytes());
        fields.extend(self.len.to_le_bytes());
        fields.extend(self.key.as_bytes());
        sealed(fields)
    }

    /// The block of a page. `None` for one that is empty, damaged, or of another store's blocks.
    pub(super) fn decode(page: &[u8], fingerprint: u128) -> Option<Self> {
        let mut fields = opened(page)?;
        let is_block =
            take::<8>(&mut fields)? == *BLOCK && take::<4>(&mut fields)? == VERSION.to_le_bytes();
        let checksum = u32::from_le_bytes(take(&mut fields)?);
        if !is_block || take::<16>(&mut fields)? != fingerprint.to_le_bytes() {
            return None;
        }
        let generation = u64::from_le_bytes(take(&mut fields)?);
        // The next ones are greater: no store counts so far, and a file may hold any number.
        if generation > LAST_GENERATION {
            return None;
        }
        let len = u64::from_le_bytes(take(&mut fields)?);
        let key = BlockKey::from(take::<32>(&mut fields)?);
        Some(Self { key, generation, len, checksum })
    }
}

/// The first page of a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Header {
    pub(super) fingerprint: u128,
    pub(super) capacity: u32,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::with_capacity(PAGE);
        fields.extend(STORE);
        fields.extend(VERSION.to_le_bytes());
        fields.extend(self.capacity.to_le_bytes());
        fields.extend(self.fingerprint.to_le_bytes());
        sealed(fields)
    }

    /// `None` for what is no first page of this version.
    pub(super) fn decode(page: &[u8]) -> Option<Self> {
        let mut fields = opened(page)?;
        let is_store =
            take::<8>(&mut fields)? == *STORE && take::<4>(&mut fields)? == VERSION.to_le_bytes();
        let capacity = u32::from_le_bytes(take(&mut fields)?);
        let fingerprint = u128::from_le_bytes(take(&mut fields)?);
        is_store.then_some(Self { fingerprint, capacity })
    }
}

/// A page of fields with their checksum.
fn sealed(mut fields: Vec<u8>) -> Vec<u8> {
    fields.resize(FIELDS, 0);
    let checksum = crc32fast::hash(&fields);
    fields.extend(checksum.to_le_bytes());
    fields.resize(PAGE, 0);
    fields
}

/// The fields of a page whose checksum is theirs.
fn opened(page: &[u8]) -> Option<&[u8]> {
    let (fields, mut rest) = page.split_at_checked(FIELDS)?;
    let checksum = u32::from_le_bytes(take(&mut rest)?);
    (crc32fast::hash(fields) == checksum).then_some(fields)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        Record { key: BlockKey::from([5; 32]), generation: 9, len: 5 << 20, checksum: 77 }
    }

    #[test]
    fn pages_keep_what_they_hold() {
        assert_eq!(Record::decode(&record().encode(3), 3), Some(record()));
        let header = Header { fingerprint: 3, capacity: 100 };
        assert_eq!(Header::decode(&header.encode()), Some(header));
        assert_eq!(Record::decode(&header.encode(), 3), None);
        assert_eq!(Header::decode(&record().encode(3)), None);
        assert_eq!(Record::decode(&[0; PAGE], 0), None);
    }

    #[test]
    fn a_generation_that_no_store_reaches_is_none() {
        for generation in [LAST_GENERATION + 1, u64::MAX] {
            assert_eq!(Record::decode(&Record { generation, ..record() }.encode(3), 3), None);
        }
    }

    #[test]
    fn a_record_of_another_fingerprint_or_version_is_none() {
        assert_eq!(Record::decode(&record().encode(3), 4), None);
        let mut fields = record().encode(3)[..FIELDS].to_vec();
        fields[8] += 1;
        assert_eq!(Record::decode(&sealed(fields), 3), None);
    }

    proptest! {
        /// Damaged anywhere, or cut at any byte.
        #[test]
        fn a_damaged_record_is_none(at in 0..FIELDS + 4, bits in 1..=255u8, cut in 0..FIELDS + 4) {
            let mut page = record().encode(3);
            page[at] ^= bits;
            prop_assert_eq!(Record::decode(&page, 3), None);
            prop_assert_eq!(Record::decode(&record().encode(3)[..cut], 3), None);
        }

        #[test]
        fn any_bytes_are_read(page in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Record::decode(&page, 3), Header::decode(&page));
        }
    }
}

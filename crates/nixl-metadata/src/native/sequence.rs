//! Lists on the wire, allocated by their content and not by their claimed length.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serializer};

use crate::MetadataError;

/// Reads a list. Memory grows with the elements that are really there, and of those beyond `MOST` only one is kept,
/// which is enough to tell that there are too many.
pub(crate) fn sequence<'de, D, T, const MOST: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Elements<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Elements<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            const TRUSTED: usize = 64;
            let mut list = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(TRUSTED));
            while let Some(element) = seq.next_element()? {
                if list.len() > MOST {
                    continue;
                }
                if list.len() == list.capacity() {
                    // By half, not twice: while a list moves, the old one and the new one are there.
                    let left = seq.size_hint().unwrap_or(0).saturating_add(1);
                    list.reserve_exact((list.len() / 2).clamp(1, left));
                }
                list.push(element);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(Elements::<T, MOST>(PhantomData))
}

/// Converts a list into one that is allocated once. The old one is freed if it is given away.
pub(super) fn each<T, U>(
    list: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    convert: impl Fn(usize, T) -> Result<U, MetadataError>,
) -> Result<Vec<U>, MetadataError> {
    let list = list.into_iter();
    let mut converted = Vec::with_capacity(list.len());
    for (index, element) in list.enumerate() {
        converted.push(convert(index, element)?);
    }
    Ok(converted)
}

/// The same layout as serde's for a slice, in one piece instead of byte by byte.
pub(super) fn blob<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

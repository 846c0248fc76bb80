//! Lists on the wire, whose claimed length is not believed.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

/// Reads a list. Memory grows with the elements that are really there, and of those beyond `MOST` only one is kept,
/// which is enough to tell that there are too many.
pub(super) fn sequence<'de, D, T, const MOST: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
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
                if list.len() <= MOST {
                    list.push(element);
                }
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(Elements::<T, MOST>(PhantomData))
}

//! The JSON of a header, in memory proportional to its length.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::error::{SafetensorsError, excerpt};
use super::write::METADATA;
use crate::tensor::TensorLayout;

/// The entries of a header, unchecked, in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Json<'a> {
    pub(super) tensors: Vec<(Cow<'a, str>, Entry<'a>)>,
    pub(super) metadata: Vec<(String, String)>,
}

/// One tensor. Fields of later versions of the format are skipped.
#[derive(Debug, Deserialize)]
pub(super) struct Entry<'a> {
    #[serde(borrow)]
    pub(super) dtype: Cow<'a, str>,
    pub(super) shape: Shape,
    pub(super) data_offsets: (u64, u64),
}

/// As many sizes as a tensor may have, and one more if there are more.
#[derive(Debug)]
pub(super) struct Shape(pub(super) Vec<u64>);

impl<'a> Json<'a> {
    pub(super) fn parse(header: &'a [u8]) -> Result<Self, SafetensorsError> {
        // The format has no space before the object.
        if header.first() != Some(&b'{') {
            let reason = "it does not begin with `{`".to_owned();
            return Err(SafetensorsError::BadHeader { line: 1, column: 1, reason });
        }
        serde_json::from_slice(header).map_err(|error| SafetensorsError::BadHeader {
            line: error.line(),
            column: error.column(),
            reason: excerpt(&error.to_string()),
        })
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Json<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
                let mut json = Json::default();
                let mut has_metadata = false;
                while let Some(Name(name)) = map.next_key()? {
                    if name == METADATA {
                        if std::mem::replace(&mut has_metadata, true) {
                            return Err(A::Error::duplicate_field(METADATA));
                        }
                        let Pairs(pairs) = map.next_value()?;
                        json.metadata = pairs;
                    } else {
                        json.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(json)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A key, borrowed if it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// An object of texts.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                let mut names: Vec<_> = pairs.iter().map(|(name, _): &(String, _)| name).collect();
                names.sort_unstable();
                if names.windows(2).any(|pair| pair[0] == pair[1]) {
                    return Err(A::Error::custom("a name is in the metadata twice"));
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;

        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Shape, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = sequence.next_element()? {
                    if sizes.len() <= TensorLayout::MAX_RANK {
                        sizes.push(size);
                    }
                }
                Ok(Shape(sizes))
            }
        }

        deserializer.deserialize_seq(Sizes)
    }
}

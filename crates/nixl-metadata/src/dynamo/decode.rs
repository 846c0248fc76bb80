//! Strict decoder of the JSON, whose errors name the wrong field.
//!
//! serde drives the parse, but its errors are text. The visitors therefore leave the real error in the [`Reader`] and
//! stop serde with an empty one.

use std::cell::{Cell, RefCell};
use std::fmt;

use nixl_device::Device;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::text;
use crate::limits::at_most;
use crate::{
    AgentMetadata, Field, Limits, MetadataError, NotificationKey, OperationKind, RdmaMetadata,
    SerializedDescriptor,
};

pub(crate) fn decode(json: &[u8], limits: &Limits) -> Result<RdmaMetadata, MetadataError> {
    at_most(Field::Document, json.len(), limits.encoded_bytes)?;
    let reader = Reader { limits, at: Cell::new(Field::Document), cause: RefCell::new(None) };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let parts =
        deserializer.deserialize_map(Document(&reader)).map_err(|error| reader.explain(&error))?;
    deserializer.end().map_err(|_| MetadataError::TrailingBytes { field: Field::Document })?;
    parts.into_metadata()
}

/// Reads the object inside a larger message, in any format for people.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
    limits: &Limits,
) -> Result<RdmaMetadata, D::Error> {
    let reader = Reader { limits, at: Cell::new(Field::Document), cause: RefCell::new(None) };
    let parts = deserializer.deserialize_map(Document(&reader)).map_err(|_| reader.embedded())?;
    parts.into_metadata().map_err(D::Error::custom)
}

/// What the visitors share.
struct Reader<'l> {
    limits: &'l Limits,
    /// The field that is being read.
    at: Cell<Field>,
    /// Why a visitor gave up.
    cause: RefCell<Option<MetadataError>>,
}

impl Reader<'_> {
    /// Stops serde with this error.
    fn fail<E: Error>(&self, error: MetadataError) -> E {
        self.cause.replace(Some(error));
        E::custom("")
    }

    /// The field that is being read, and what it has to be.
    fn expected(&self) -> (Field, &'static str) {
        let field = self.at.get();
        let expected = match field {
            Field::Document | Field::Descriptor(_) => "an object",
            Field::Descriptors => "an array",
            Field::Ptr(_) | Field::Size(_) | Field::OperationKind => "an integer",
            _ => "a string",
        };
        (field, expected)
    }

    /// The error behind serde's.
    fn explain(&self, error: &serde_json::Error) -> MetadataError {
        if let Some(cause) = self.cause.take() {
            return cause;
        }
        match error.classify() {
            Category::Eof => MetadataError::Truncated { field: Field::Document },
            Category::Data => {
                let (field, expected) = self.expected();
                MetadataError::WrongType { field, expected }
            }
            Category::Syntax | Category::Io => {
                MetadataError::NotJson { line: error.line(), column: error.column() }
            }
        }
    }

    /// The error inside a larger message. The format's own is dropped: it may quote the value, which may be secret.
    fn embedded<E: Error>(&self) -> E {
        if let Some(cause) = self.cause.take() {
            return E::custom(cause);
        }
        let (field, expected) = self.expected();
        E::custom(format_args!("{field} must be {expected}, and the message around it well-formed"))
    }

    /// Enters a field that must not have been read before.
    fn enter<T, E: Error>(&self, field: Field, slot: &Option<T>) -> Result<(), E> {
        if slot.is_some() {
            return Err(self.fail(MetadataError::DuplicateField { field }));
        }
        self.at.set(field);
        Ok(())
    }

    /// Takes what was read for a field that must be there.
    fn require<T, E: Error>(&self, field: Field, slot: Option<T>) -> Result<T, E> {
        slot.ok_or_else(|| self.fail(MetadataError::MissingField { field }))
    }

    fn device(&self, index: usize, text: &str) -> Result<Device, MetadataError> {
        text.parse().map_err(|source| MetadataError::BadDevice { index, source })
    }

    fn agent_metadata(&self, text: &str) -> Result<AgentMetadata, MetadataError> {
        text::parse(text, self.limits)
    }
}

/// What the outer object holds.
struct Parts {
    descriptors: Vec<SerializedDescriptor>,
    agent_metadata: AgentMetadata,
    notification_key: NotificationKey,
    operation_kind: OperationKind,
}

impl Parts {
    fn into_metadata(self) -> Result<RdmaMetadata, MetadataError> {
        let Self { descriptors, agent_metadata, notification_key, operation_kind } = self;
        RdmaMetadata::new(operation_kind, descriptors, agent_metadata, notification_key)
    }
}

/// The outer object.
struct Document<'r>(&'r Reader<'r>);

impl<'de> Visitor<'de> for Document<'_> {
    type Value = Parts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parts, A::Error> {
        const NAMES: &[&str] =
            &["descriptors", "nixl_metadata", "notification_key", "operation_kind"];
        let Self(reader) = self;
        let (mut descriptors, mut agent, mut key, mut kind) = (None, None, None, None);
        while let Some(name) =
            map.next_key_seed(Name { reader, parent: Field::Document, known: NAMES })?
        {
            match name {
                "descriptors" => {
                    reader.enter(Field::Descriptors, &descriptors)?;
                    descriptors = Some(map.next_value_seed(List(reader))?);
                }
                "nixl_metadata" => {
                    reader.enter(Field::NixlMetadata, &agent)?;
                    let parse = |text: &str| reader.agent_metadata(text);
                    agent = Some(map.next_value_seed(Text { reader, parse })?);
                }
                "notification_key" => {
                    reader.enter(Field::NotificationKey, &key)?;
                    let parse = NotificationKey::new;
                    key = Some(map.next_value_seed(Text { reader, parse })?);
                }
                _ => {
                    reader.enter(Field::OperationKind, &kind)?;
                    let value = map.next_value_seed(Integer(reader))?;
                    kind =
                        Some(OperationKind::from_wire(value).map_err(|error| reader.fail(error))?);
                }
            }
            reader.at.set(Field::Document);
        }
        Ok(Parts {
            descriptors: reader.require(Field::Descriptors, descriptors)?,
            agent_metadata: reader.require(Field::NixlMetadata, agent)?,
            notification_key: reader.require(Field::NotificationKey, key)?,
            operation_kind: reader.require(Field::OperationKind, kind)?,
        })
    }
}

/// The array of descriptors.
struct List<'r>(&'r Reader<'r>);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = Vec<SerializedDescriptor>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Vec<SerializedDescriptor>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Self(reader) = self;
        let mut list = Vec::new();
        while let Some(descriptor) = seq.next_element_seed(Entry { reader, index: list.len() })? {
            list.push(descriptor);
        }
        Ok(list)
    }
}

/// One descriptor.
struct Entry<'r> {
    reader: &'r Reader<'r>,
    index: usize,
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = SerializedDescriptor;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let limit = self.reader.limits.descriptors;
        if self.index >= limit {
            return Err(self.reader.fail(MetadataError::TooManyDescriptors { limit }));
        }
        self.reader.at.set(Field::Descriptor(self.index));
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = SerializedDescriptor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        const NAMES: &[&str] = &["device", "ptr", "size"];
        let Self { reader, index } = self;
        let (mut device, mut ptr, mut size) = (None, None, None);
        while let Some(name) =
            map.next_key_seed(Name { reader, parent: Field::Descriptor(index), known: NAMES })?
        {
            match name {
                "device" => {
                    reader.enter(Field::Device(index), &device)?;
                    let parse = |text: &str| reader.device(index, text);
                    device = Some(map.next_value_seed(Text { reader, parse })?);
                }
                "ptr" => {
                    reader.enter(Field::Ptr(index), &ptr)?;
                    ptr = Some(map.next_value_seed(Integer(reader))?);
                }
                _ => {
                    reader.enter(Field::Size(index), &size)?;
                    size = Some(map.next_value_seed(Integer(reader))?);
                }
            }
            reader.at.set(Field::Descriptor(index));
        }
        let ptr = reader.require(Field::Ptr(index), ptr)?;
        let size = reader.require(Field::Size(index), size)?;
        // Dynamo's schema has `cpu` as the default, so a sender that leaves defaults out is within it.
        let device = device.unwrap_or(Device::HOST);
        SerializedDescriptor::at(index, device, ptr, size).map_err(|error| reader.fail(error))
    }
}

/// The name of a field, one of those known.
struct Name<'r> {
    reader: &'r Reader<'r>,
    parent: Field,
    known: &'static [&'static str],
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let known = self.known.iter().find(|known| **known == text);
        known.copied().ok_or_else(|| {
            self.reader
                .fail(MetadataError::UnknownField { parent: self.parent, name: excerpt(text) })
        })
    }
}

/// What an error may quote of an unknown name: the start, as far as it looks like one. After damage to a quotation
/// mark the rest may be the value of another field, and secret.
fn excerpt(name: &str) -> String {
    const MAX_CHARS: usize = 40;
    name.chars().take(MAX_CHARS).take_while(|c| c.is_ascii_alphabetic() || *c == '_').collect()
}

/// A string with a meaning.
struct Text<'r, F> {
    reader: &'r Reader<'r>,
    parse: F,
}

impl<'de, T, F> DeserializeSeed<'de> for Text<'_, F>
where
    F: FnOnce(&str) -> Result<T, MetadataError>,
{
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F> Visitor<'_> for Text<'_, F>
where
    F: FnOnce(&str) -> Result<T, MetadataError>,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(|error| self.reader.fail(error))
    }
}

/// An unsigned 64-bit integer. serde_json hands other numbers to the visitor as signed or floating.
struct Integer<'r>(&'r Reader<'r>);

impl<'de> DeserializeSeed<'de> for Integer<'_> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_u64(self)
    }
}

impl Integer<'_> {
    fn refuse<E: Error>(&self) -> E {
        let Self(reader) = self;
        reader.fail(MetadataError::NotUnsigned { field: reader.at.get() })
    }
}

impl Visitor<'_> for Integer<'_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    /// Formats that have no unsigned integers hand over the others as signed, too.
    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| self.refuse())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<u64, E> {
        Err(self.refuse())
    }
}

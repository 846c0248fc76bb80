//! The metadata of a simulated agent, and its validation.

use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use nixl_descriptor::{RegionSpan, Span};
use nixl_device::Device;

/// One registration as its owner lists it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Entry {
    /// Differs for every registration, also of the same memory: what a key is to a real engine.
    pub(super) number: u64,
    pub(super) address: u64,
    pub(super) len: u64,
    pub(super) device: Device,
}

impl Entry {
    pub(super) fn of(number: u64, span: &RegionSpan) -> Self {
        Self { number, address: span.address(), len: span.len() as u64, device: span.device() }
    }

    /// Whether all of `range` is in it.
    pub(super) fn covers(&self, range: &Span) -> bool {
        self.device == range.device
            && self.address <= range.address
            && range.address.checked_add(range.len).is_some_and(|end| end <= self.end())
    }

    pub(super) fn addresses(&self) -> Range<u64> {
        self.address..self.end()
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.device == other.device && self.address < other.end() && other.address < self.end()
    }

    /// A region's end fits, and `decode` refuses what does not.
    fn end(&self) -> u64 {
        self.address.saturating_add(self.len)
    }
}

/// An agent's metadata.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Blob {
    pub(super) agent: Arc<str>,
    pub(super) incarnation: u64,
    /// In ascending order, so by number.
    pub(super) entries: Vec<Entry>,
}

impl Blob {
    const MAGIC: &[u8; 8] = b"nixlsim\x01";
    const MAX_NAME: usize = 255;
    pub(super) const MAX_ENTRIES: usize = 1 << 20;
    /// The least bytes of an entry: three numbers, a length and a device's name.
    const LEAST_ENTRY: usize = 3 * 8 + 1 + 1;

    /// Magic, name (u16 length), incarnation (u64), number of entries (u32), then each entry: number,
    /// address and length (u64 each) and device (u8 length, canonical text). Big-endian.
    pub(super) fn encode(&self) -> Result<Bytes, String> {
        if self.agent.len() > Self::MAX_NAME {
            return Err(format!("the agent's name is longer than {} bytes", Self::MAX_NAME));
        }
        if self.entries.len() > Self::MAX_ENTRIES {
            return Err(format!("more than {} registrations", Self::MAX_ENTRIES));
        }
        let mut out = BytesMut::new();
        out.put_slice(Self::MAGIC);
        out.put_u16(self.agent.len() as u16);
        out.put_slice(self.agent.as_bytes());
        out.put_u64(self.incarnation);
        out.put_u32(self.entries.len() as u32);
        for entry in &self.entries {
            out.put_u64(entry.number);
            out.put_u64(entry.address);
            out.put_u64(entry.len);
            let device = entry.device.to_string();
            out.put_u8(device.len() as u8);
            out.put_slice(device.as_bytes());
        }
        Ok(out.freeze())
    }

    /// Accepts exactly what `encode` makes; allocates in proportion to what arrived.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = Reader(bytes);
        if rest.take(Self::MAGIC.len(), "magic")? != Self::MAGIC {
            return Err("it is not a simulated agent's".to_owned());
        }
        let name = rest.u16("name length")?.into();
        if name == 0 || name > Self::MAX_NAME {
            return Err(format!("its name has {name} bytes"));
        }
        let agent =
            str::from_utf8(rest.take(name, "name")?).map_err(|_| "its name is not UTF-8")?;
        let incarnation = rest.u64("incarnation")?;
        let count = rest.u32("number of registrations")? as usize;
        if count > Self::MAX_ENTRIES || count > rest.0.len() / Self::LEAST_ENTRY {
            return Err(format!("it cannot hold {count} registrations"));
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(count);
        for index in 0..count {
            let entry = rest.entry()?;
            if entry.address == 0
                || entry.len == 0
                || entry.address.checked_add(entry.len).is_none()
            {
                return Err(format!("its registration {index} is null, empty or wraps around"));
            }
            if entries.last().is_some_and(|last| last.number >= entry.number) {
                return Err(format!("its registration {index} is out of order"));
            }
            entries.push(entry);
        }
        match rest.0.len() {
            0 => Ok(Self { agent: agent.into(), incarnation, entries }),
            extra => Err(format!("{extra} bytes follow its end")),
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], String> {
        let (taken, rest) =
            self.0.split_at_checked(len).ok_or_else(|| format!("it ends inside its {what}"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let (taken, rest) =
            self.0.split_first_chunk().ok_or_else(|| format!("it ends inside its {what}"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self, what: &str) -> Result<u16, String> {
        self.array(what).map(u16::from_be_bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.array(what).map(u32::from_be_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.array(what).map(u64::from_be_bytes)
    }

    fn entry(&mut self) -> Result<Entry, String> {
        let [number, address, len] =
            [self.u64("registration")?, self.u64("registration")?, self.u64("registration")?];
        let [name] = self.array("registration")?;
        let text = str::from_utf8(self.take(name.into(), "registration")?).unwrap_or_default();
        match text.parse::<Device>() {
            Ok(device) if device.to_string() == text => Ok(Entry { number, address, len, device }),
            _ => Err("a registration names no device".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    fn blob() -> impl Strategy<Value = Blob> {
        let device = prop_oneof![Just(Device::HOST), (0..9u32).prop_map(Device::cuda)];
        let entry = (1..u64::MAX, any::<u64>(), device);
        ("[a-z]{1,255}", any::<u64>(), btree_map(any::<u64>(), entry, 0..20)).prop_map(
            |(agent, incarnation, entries)| {
                let entry = |(number, (address, len, device)): (u64, (u64, u64, Device))| {
                    let len = (len % (u64::MAX - address)).max(1);
                    Entry { number, address, len, device }
                };
                let entries = entries.into_iter().map(entry).collect();
                Blob { agent: agent.into(), incarnation, entries }
            },
        )
    }

    proptest! {
        #[test]
        fn it_comes_back(blob in blob()) {
            prop_assert_eq!(Blob::decode(&blob.encode().unwrap()), Ok(blob));
        }

        #[test]
        fn every_truncation_and_extension_is_refused(blob in blob(), cut: prop::sample::Index) {
            let bytes = blob.encode().unwrap();
            prop_assert!(Blob::decode(&bytes[..cut.index(bytes.len())]).is_err());
            prop_assert!(Blob::decode(&[&bytes[..], b"\0"].concat()).is_err());
        }

        #[test]
        fn what_is_accepted_is_canonical(blob in blob(), at: prop::sample::Index, to: u8) {
            let mut bytes = blob.encode().unwrap().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(other) = Blob::decode(&bytes) {
                prop_assert_eq!(other.encode().unwrap(), bytes);
            }
        }

        #[test]
        fn noise_is_refused(noise in vec(any::<u8>(), 0..200)) {
            prop_assert!(Blob::decode(&noise).is_err());
        }
    }
}

//! Strict parser of NIXL's metadata blob, run before NIXL's own.
//!
//! NIXL's own parser trusts lengths, and its Rust binding panics on names that are not UTF-8. A blob passes here only if every
//! length is in bounds, every tag is at NIXL's position, and no bytes follow. UCX does not get the length of a memory key and
//! would read past a short one, so the parts of its keys are counted too. Not checked are the backends' opaque parts:
//! connection details, and hardware data in the keys.
//!
//! The layout is NIXL 1.5's: an intro, then records of tag, 8-byte length, value and `|`. The layout of UCX's keys: a map of 8
//! bytes, a byte for the kind of memory, for each bit of the map a byte of length and a value, and optional data.

use std::ops::Range;
use std::str;

use nixl_metadata::{PeerInfo, SerializedDescriptor};
use nixl_sys::MemType;

use super::registrar::{memory_kind, wire_kind};

const INTRO: &[u8] = b"nixlSerDes|";

/// The backend whose keys are parsed.
pub(super) const UCX: &str = "UCX";

/// The kinds of memory of UCX, which indexes tables with them.
const UCX_MEMORY_KINDS: u8 = 9;

/// The kinds of memory of NIXL, which indexes a table with them without a bounds check.
const NIXL_MEMORY_KINDS: u32 = 5;

/// More backends than NIXL has. Each pair of them is compared.
const MOST_CONNECTIONS: usize = 16;

/// Connection details by backend.
pub(super) type Connections = Vec<(String, Vec<u8>)>;

/// The content of a peer's blob.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Blob<'a> {
    /// The agent's name.
    pub(super) name: &'a str,
    /// Connection details of each backend.
    pub(super) connections: Vec<(&'a str, &'a [u8])>,
    /// The registered memory.
    pub(super) memories: Vec<Memory<'a>>,
}

/// One registration of the peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Memory<'a> {
    pub(super) backend: &'a str,
    /// NIXL's number for the kind of memory.
    pub(super) kind: u32,
    pub(super) device: u64,
    pub(super) address: u64,
    pub(super) len: u64,
    /// The backend's key.
    pub(super) key: &'a [u8],
}

impl<'a> Blob<'a> {
    /// Parses a whole blob.
    ///
    /// # Errors
    ///
    /// The fault, and its position.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let rest = bytes.strip_prefix(INTRO).ok_or("it does not begin like NIXL's metadata")?;
        let mut reader = Reader { bytes, at: bytes.len() - rest.len() };
        let name = reader.text("Agent")?;
        let count = reader.number("Conns")?;
        let mut connections: Vec<(&str, &[u8])> = Vec::new();
        for _ in 0..count {
            let (backend, details) = (reader.text("t")?, reader.value("c")?);
            if connections.len() == MOST_CONNECTIONS {
                return Err(reader.fault("it has more than 16 backends"));
            }
            if connections.iter().any(|(known, _)| *known == backend) {
                return Err(reader.fault(&format!("the backend {backend:?} is there twice")));
            }
            connections.push((backend, details));
        }
        if reader.value("")? != b"MemSection" {
            return Err(reader.fault("expected the memory section"));
        }
        let count = reader.number("nixlSecElms")?;
        let mut memories = Vec::new();
        for _ in 0..count {
            let backend = reader.text("bknd")?;
            reader.memories(backend, &mut memories)?;
        }
        if reader.at != bytes.len() {
            return Err(reader.fault("data follows the end"));
        }
        Ok(Self { name, connections, memories })
    }
}

impl Blob<'_> {
    /// Leaves out memories that no transfer reaches. A backend may refuse those of a kind that it does not know, and NIXL then forgets
    /// all that it knew of the peer.
    pub(super) fn leave_out_unreachable(&mut self, has_backend: impl Fn(&str) -> bool) {
        /// No machine has as many GPUs.
        const GPUS: u64 = 1024;
        self.memories.retain(|memory| {
            let (host, gpu) = (wire_kind(MemType::Dram), wire_kind(MemType::Vram));
            let is_there = (memory.kind == host && memory.device == 0)
                || (memory.kind == gpu && memory.device < GPUS);
            is_there && has_backend(memory.backend)
        });
    }

    /// Whether it lists one memory with two keys.
    pub(super) fn contradicts_itself(&self) -> bool {
        let place = |m: &Memory<'_>| (m.kind, m.device, m.address, m.len);
        let mut sorted: Vec<_> = self.memories.iter().collect();
        sorted.sort_unstable_by_key(|memory| (memory.backend, place(memory)));
        let is_same =
            |a: &Memory<'_>, b: &Memory<'_>| a.backend == b.backend && place(a) == place(b);
        sorted.windows(2).any(|w| is_same(w[0], w[1]) && w[0].key != w[1].key)
    }

    /// The same with those memories alone that cover one of the ranges: what else it says may be out of date. All of it without
    /// ranges.
    pub(super) fn of_use_for(mut self, ranges: Option<&[SerializedDescriptor]>) -> Self {
        let Some(ranges) = ranges else { return self };
        let place = |range: &SerializedDescriptor| {
            let (kind, device) = memory_kind(range.device());
            let end = range.ptr().checked_add(range.size())?;
            Some(((wire_kind(kind), device), range.ptr(), end))
        };
        let mut sorted: Vec<_> = ranges.iter().filter_map(place).collect();
        sorted.sort_unstable();
        // The first end of the ranges from each on: if one of those that begin in a memory ends there too, so does this.
        for index in (1..sorted.len()).rev() {
            let (device, _, end) = sorted[index];
            let before = &mut sorted[index - 1];
            if before.0 == device {
                before.2 = before.2.min(end);
            }
        }
        self.memories.retain(|memory| {
            let (device, Range { start, end }) = ((memory.kind, memory.device), memory.range());
            let from = sorted.partition_point(|(of, at, _)| (*of, *at) < (device, start));
            sorted.get(from).is_some_and(|(of, _, first)| *of == device && *first <= end)
        });
        self
    }

    /// Writes the blob as NIXL does.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = INTRO.to_vec();
        record(&mut out, "Agent", self.name.as_bytes());
        record(&mut out, "Conns", &(self.connections.len() as u64).to_le_bytes());
        for (kind, details) in &self.connections {
            record(&mut out, "t", kind.as_bytes());
            record(&mut out, "c", details);
        }
        record(&mut out, "", b"MemSection");
        let is_of_one_list =
            |a: &Memory<'_>, b: &Memory<'_>| (a.backend, a.kind) == (b.backend, b.kind);
        let lists: Vec<_> = self.memories.chunk_by(is_of_one_list).collect();
        record(&mut out, "nixlSecElms", &(lists.len() as u64).to_le_bytes());
        for list in lists {
            if let Some(first) = list.first() {
                record(&mut out, "bknd", first.backend.as_bytes());
                record(&mut out, "nixlDList", b"nixlSDList");
                record(&mut out, "t", &first.kind.to_le_bytes());
            }
            record(&mut out, "n", &(list.len() as u64).to_le_bytes());
            for memory in list {
                let words = [memory.address, memory.len, memory.device];
                let mut value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                value.extend_from_slice(memory.key);
                record(&mut out, "", &value);
            }
        }
        out
    }
}

fn record(out: &mut Vec<u8>, tag: &str, value: &[u8]) {
    out.extend_from_slice(tag.as_bytes());
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value);
    out.push(b'|');
}

impl Memory<'_> {
    /// Whether the key has no content, only a description of the machine: UCX then treats every address alike.
    pub(super) fn has_empty_key(&self) -> bool {
        self.backend == UCX && parts(self.key).is_ok_and(|parts| parts.content == 0)
    }

    /// Its addresses. A blob that was read has none that wraps around.
    pub(super) fn range(&self) -> Range<u64> {
        self.address..self.address + self.len
    }

    /// The same, over every address that a process can have.
    pub(super) fn over_all_addresses(&self) -> Self {
        Self { address: 1, len: u64::MAX / 2, ..*self }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.fault("it ends too early"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn value(&mut self, tag: &str) -> Result<&'a [u8], String> {
        if self.take(tag.len())? != tag.as_bytes() {
            return Err(self.fault(&format!("expected the tag {tag:?}")));
        }
        let len = self.word()?;
        let len = usize::try_from(len).map_err(|_| self.fault("a length is absurd"))?;
        let value = self.take(len)?;
        if self.take(1)? != b"|" {
            return Err(self.fault("a separator is missing"));
        }
        Ok(value)
    }

    fn word(&mut self) -> Result<u64, String> {
        self.take(8)?.try_into().map(u64::from_le_bytes).map_err(|_| self.fault("a word is short"))
    }

    fn number(&mut self, tag: &str) -> Result<u64, String> {
        let value = self.value(tag)?;
        value
            .try_into()
            .map(u64::from_le_bytes)
            .map_err(|_| self.fault(&format!("the value of {tag:?} is not 8 bytes")))
    }

    fn text(&mut self, tag: &str) -> Result<&'a str, String> {
        let value = self.value(tag)?;
        let text = str::from_utf8(value)
            .map_err(|_| self.fault(&format!("the value of {tag:?} is not UTF-8")))?;
        if !PeerInfo::is_name(text) {
            let what = "is empty, too long or has control or format characters";
            return Err(self.fault(&format!("the value of {tag:?} {what}")));
        }
        Ok(text)
    }

    fn memories(&mut self, backend: &'a str, into: &mut Vec<Memory<'a>>) -> Result<(), String> {
        if self.value("nixlDList")? != b"nixlSDList" {
            return Err(self.fault("expected a list of registered memory"));
        }
        let kind = self.value("t")?;
        let kind = kind
            .try_into()
            .map(u32::from_le_bytes)
            .map_err(|_| self.fault("the kind of memory is not 4 bytes"))?;
        if kind >= NIXL_MEMORY_KINDS {
            return Err(self.fault(&format!("NIXL has no memory of kind {kind}")));
        }
        let count = self.number("n")?;
        for _ in 0..count {
            let mut record = Reader { bytes: self.value("")?, at: 0 };
            let (address, len, device) = (record.word()?, record.word()?, record.word()?);
            if address == 0 || len == 0 || address.checked_add(len).is_none() {
                return Err(self.fault("a memory is null, empty or wraps around"));
            }
            let key = &record.bytes[record.at..];
            if backend == UCX && !is_whole(key) {
                return Err(self.fault("a key ends too early, or is for memory of no known kind"));
            }
            into.push(Memory { backend, kind, device, address, len, key });
        }
        Ok(())
    }

    fn fault(&self, what: &str) -> String {
        format!("{what} (at byte {} of {})", self.at, self.bytes.len())
    }
}

/// Whether a key of UCX has all the parts that it announces.
fn is_whole(key: &[u8]) -> bool {
    parts(key).is_ok_and(|parts| parts.memory_kind < UCX_MEMORY_KINDS)
}

/// The head of a key of UCX.
struct Parts {
    memory_kind: u8,
    /// Bytes in all parts.
    content: usize,
}

fn parts(key: &[u8]) -> Result<Parts, String> {
    let mut reader = Reader { bytes: key, at: 0 };
    let count = reader.word()?.count_ones();
    let memory_kind = reader.take(1)?[0];
    let mut content = 0;
    for _ in 0..count {
        let len = reader.take(1)?[0];
        content += reader.take(len.into())?.len();
    }
    Ok(Parts { memory_kind, content })
}

#[cfg(test)]
pub(super) mod tests {
    use nixl_device::Device;
    use proptest::prelude::*;

    use super::super::fuzz::{KEY, sample_blob as sample};
    use super::*;

    /// Writes a blob as NIXL does.
    pub(in super::super) fn encode(blob: &Blob<'_>) -> Vec<u8> {
        blob.encode()
    }

    proptest! {
        #[test]
        fn round_trip(
            name in "[!-~]{1,40}",
            details in proptest::collection::vec(any::<u8>(), 0..80),
            memories in proptest::collection::vec(
                (0u32..5, any::<u64>(), 1u64..u64::MAX / 2, 1u64..u64::MAX / 2, any::<[u8; 5]>()), 0..9),
        ) {
            let blob = Blob {
                name: &name,
                connections: vec![("UCX", &details)],
                memories: memories
                    .iter()
                    .map(|(kind, device, address, len, key)| Memory {
                        backend: "ANY", kind: *kind, device: *device, address: *address, len: *len, key,
                    })
                    .collect(),
            };
            let bytes = encode(&blob);
            prop_assert_eq!(Blob::parse(&bytes), Ok(blob));
        }

        #[test]
        fn what_is_kept_covers_a_range_and_what_is_not_does_not(
            memories in proptest::collection::vec((0u64..3, 1u64..60, 1u64..30), 0..9),
            ranges in proptest::collection::vec((0u32..3, 1u64..70, 1u64..20), 0..9),
        ) {
            let memory = |&(device, address, len): &(u64, u64, u64)| Memory {
                backend: UCX, kind: u32::from(device > 0), device, address, len, key: &KEY,
            };
            let range = |&(device, address, len): &(u32, u64, u64)| {
                let device = if device == 0 { Device::HOST } else { Device::cuda(device) };
                SerializedDescriptor::new(device, address, len).unwrap()
            };
            let memories: Vec<_> = memories.iter().map(memory).collect();
            let covers = |m: &Memory<'_>, (device, address, len): &(u32, u64, u64)| {
                m.device == u64::from(*device) && m.address <= *address && address + len <= m.address + m.len
            };
            let expected: Vec<_> =
                memories.iter().filter(|m| ranges.iter().any(|r| covers(m, r))).copied().collect();
            let blob = Blob { name: "p", connections: vec![], memories };
            let ranges: Vec<_> = ranges.iter().map(range).collect();
            prop_assert_eq!(blob.of_use_for(Some(&ranges)).memories, expected);
        }

        #[test]
        fn mutations_are_refused_or_stay_in_bounds(
            at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = sample();
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = Blob::parse(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(Blob::parse(&bytes).is_err());
        }

        #[test]
        fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = INTRO.to_vec();
            bytes.extend(noise);
            prop_assert!(Blob::parse(&bytes).is_err());
        }
    }

    #[test]
    fn absurd_lengths_and_counts_are_refused_at_once() {
        for absurd in [u64::MAX, u64::MAX - 40, 1 << 40] {
            let mut bytes = INTRO.to_vec();
            bytes.extend_from_slice(b"Agent");
            bytes.extend_from_slice(&absurd.to_le_bytes());
            assert!(Blob::parse(&bytes).is_err());

            let mut bytes = INTRO.to_vec();
            record(&mut bytes, "Agent", b"a");
            record(&mut bytes, "Conns", &absurd.to_le_bytes());
            assert!(Blob::parse(&bytes).is_err());
        }
    }

    #[test]
    fn names_that_would_panic_in_the_binding_are_refused() {
        for name in [&b"\xff\xfe"[..], b"", b"a\0b", b"a\nb", &[b'a'; 256]] {
            let mut bytes = INTRO.to_vec();
            record(&mut bytes, "Agent", name);
            assert!(Blob::parse(&bytes).is_err(), "{name:?}");
        }
    }

    #[test]
    fn keys_that_ucx_would_read_beyond_are_refused() {
        let with = |key: &[u8]| {
            let memory = Memory { backend: UCX, kind: 0, device: 0, address: 0x1000, len: 64, key };
            let bytes = encode(&Blob { name: "p", connections: vec![], memories: vec![memory] });
            Blob::parse(&bytes).map(|_| ())
        };
        assert_eq!(with(&KEY), Ok(()));
        assert_eq!(with(&[&KEY[..], b"more"].concat()), Ok(()));
        for len in 0..KEY.len() {
            assert!(with(&KEY[..len]).unwrap_err().contains("key"), "{len}");
        }
        assert!(with(&[0xff; 300]).is_err());
        let mut kind = KEY;
        kind[8] = UCX_MEMORY_KINDS;
        assert!(with(&kind).is_err());
    }

    #[test]
    fn many_backends_or_one_twice_are_refused() {
        let parsed = |names: &[String]| {
            let connections = names.iter().map(|name| (&**name, &b"details"[..])).collect();
            let bytes = encode(&Blob { name: "p", connections, memories: vec![] });
            Blob::parse(&bytes).map(|blob| blob.connections.len())
        };
        let names: Vec<_> = (0..=MOST_CONNECTIONS).map(|n| format!("B{n}")).collect();
        assert_eq!(parsed(&names[1..]), Ok(MOST_CONNECTIONS));
        assert!(parsed(&names).unwrap_err().contains("more than 16"));
        let twice = ["UCX", "GDS", "UCX"].map(str::to_owned);
        assert!(parsed(&twice).unwrap_err().contains("\"UCX\" is there twice"));
    }

    #[test]
    fn what_follows_the_end_is_refused() {
        let mut bytes = sample();
        bytes.push(b'|');
        assert!(Blob::parse(&bytes).unwrap_err().contains("follows"));
    }
}

//! Metadata as a hostile peer would make it: NIXL's blob taken apart, changed and put together again.

use nixl_metadata::{AgentMetadata, Limits, MetadataError, RdmaMetadata};

const INTRO: &[u8] = b"nixlSerDes|";

/// What a blob of NIXL's consists of. Nothing is checked, and everything can be changed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Blob {
    /// The agent's name.
    pub name: Vec<u8>,
    /// For each backend its name and connection details.
    pub connections: Vec<(Vec<u8>, Vec<u8>)>,
    /// Lists of registered memory.
    pub sections: Vec<Section>,
}

/// The registered memory of one kind at one backend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Section {
    /// The backend.
    pub backend: Vec<u8>,
    /// NIXL's number for the kind of memory, little-endian.
    pub kind: Vec<u8>,
    /// Address, length and device, each 8 bytes little-endian, and the key.
    pub memories: Vec<Vec<u8>>,
}

/// Bytes of a memory before its key.
pub const KEY: usize = 24;

impl Blob {
    /// Takes apart the blob in an honest peer's metadata.
    ///
    /// # Panics
    ///
    /// If it is not laid out as NIXL 1.5 does.
    pub fn of(metadata: &RdmaMetadata) -> Self {
        let bytes = inflate(metadata);
        let mut reader = Reader(bytes.strip_prefix(INTRO).expect("the intro"));
        let name = reader.value("Agent");
        let connections =
            (0..reader.number("Conns")).map(|_| (reader.value("t"), reader.value("c"))).collect();
        assert_eq!(reader.value(""), b"MemSection");
        let mut sections = Vec::new();
        for _ in 0..reader.number("nixlSecElms") {
            let backend = reader.value("bknd");
            assert_eq!(reader.value("nixlDList"), b"nixlSDList");
            let kind = reader.value("t");
            let memories = (0..reader.number("n")).map(|_| reader.value("")).collect();
            sections.push(Section { backend, kind, memories });
        }
        assert!(reader.0.is_empty());
        Self { name, connections, sections }
    }

    /// Puts it together again.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = INTRO.to_vec();
        record(&mut out, "Agent", &self.name);
        record(&mut out, "Conns", &word(self.connections.len()));
        for (kind, details) in &self.connections {
            record(&mut out, "t", kind);
            record(&mut out, "c", details);
        }
        record(&mut out, "", b"MemSection");
        record(&mut out, "nixlSecElms", &word(self.sections.len()));
        for section in &self.sections {
            record(&mut out, "bknd", &section.backend);
            record(&mut out, "nixlDList", b"nixlSDList");
            record(&mut out, "t", &section.kind);
            record(&mut out, "n", &word(section.memories.len()));
            for memory in &section.memories {
                record(&mut out, "", memory);
            }
        }
        out
    }
}

/// The blob in a peer's metadata.
///
/// # Panics
///
/// If it cannot be inflated.
pub fn inflate(metadata: &RdmaMetadata) -> Vec<u8> {
    metadata.agent_metadata().inflate(&Limits::default()).expect("an honest blob").to_vec()
}

/// The same metadata with another blob in it.
///
/// # Errors
///
/// If there is no blob.
pub fn with_blob(metadata: &RdmaMetadata, blob: &[u8]) -> Result<RdmaMetadata, MetadataError> {
    RdmaMetadata::new(
        metadata.operation_kind(),
        metadata.descriptors().to_vec(),
        AgentMetadata::compress(blob)?,
        metadata.notification_key().clone(),
    )
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn value(&mut self, tag: &str) -> Vec<u8> {
        let rest = self.0.strip_prefix(tag.as_bytes()).expect("the tag");
        let (len, rest) = rest.split_first_chunk::<8>().expect("a length");
        let len = usize::try_from(u64::from_le_bytes(*len)).expect("a small length");
        let (value, rest) = rest.split_at(len);
        self.0 = rest.strip_prefix(b"|").expect("a separator");
        value.to_vec()
    }

    fn number(&mut self, tag: &str) -> u64 {
        u64::from_le_bytes(self.value(tag).try_into().expect("8 bytes"))
    }
}

fn record(out: &mut Vec<u8>, tag: &str, value: &[u8]) {
    out.extend_from_slice(tag.as_bytes());
    out.extend_from_slice(&word(value.len()));
    out.extend_from_slice(value);
    out.push(b'|');
}

fn word(number: usize) -> [u8; 8] {
    (number as u64).to_le_bytes()
}

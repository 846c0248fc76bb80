//! Messages as strangers and holders forge them.

use nixl_metadata::{AgentMetadata, Ticket};
use nixl_tests::Random;
use nixl_tests::forge::Blob;

use crate::LEN;

/// Bytes for messages of every kind.
pub(crate) struct Forge<'a> {
    pub(crate) random: Random,
    pub(crate) key: &'a [u8],
    pub(crate) token: u64,
    pub(crate) introduction: &'a [u8],
    pub(crate) blob: &'a Blob,
    /// What inflates to more than any metadata.
    pub(crate) bomb: &'a [u8],
    /// A grant of an export, if one is held.
    pub(crate) ticket: Option<Ticket>,
}

/// In compressed form.
pub(crate) fn bomb() -> Vec<u8> {
    AgentMetadata::compress(&vec![0; 20 << 20]).unwrap().compressed().to_vec()
}

/// Nothing may be left.
fn compressed(bytes: &[u8]) -> Vec<u8> {
    AgentMetadata::compress(bytes).map_or_else(|_| Vec::new(), |a| a.compressed().to_vec())
}

impl Forge<'_> {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    pub(crate) fn bytes(&mut self, most: u64) -> Vec<u8> {
        let len = self.below(most);
        (0..len).map(|_| self.below(256) as u8).collect()
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Changes some bytes.
    pub(crate) fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(3) {
            let at = self.below(bytes.len() as u64 + 1) as usize;
            match self.below(8) {
                0 => bytes.truncate(at),
                1 => {
                    let more = self.bytes(16);
                    bytes.splice(at..at, more);
                }
                2 => {
                    let end = (at + 1 + self.below(8) as usize).min(bytes.len());
                    bytes.drain(at.min(end)..end);
                }
                3 => {
                    let any = self.pick(&[0, 1, u64::from(u32::MAX), 1 << 63, u64::MAX]);
                    let any = any.to_le_bytes();
                    bytes.iter_mut().skip(at).zip(any).for_each(|(byte, new)| *byte = new);
                }
                _ if at < bytes.len() => bytes[at] = self.below(256) as u8,
                _ => {}
            }
        }
    }

    pub(crate) fn introduction(&mut self) -> Vec<u8> {
        match self.below(6) {
            0 => self.introduction.to_vec(),
            1 => {
                let mut bytes = self.introduction.to_vec();
                self.damage(&mut bytes);
                bytes
            }
            2 => self.bomb.to_vec(),
            kind => {
                let mut blob = self.ghost();
                if kind > 3 {
                    self.damage(&mut blob.connections[0].1);
                }
                let mut bytes = blob.bytes();
                if kind == 5 {
                    self.damage(&mut bytes);
                }
                compressed(&bytes)
            }
        }
    }

    /// The blob of an agent that is not there: UCX takes addresses of one worker for one peer, and damage to it would be the
    /// attacker's own.
    fn ghost(&mut self) -> Blob {
        let mut blob = self.blob.clone();
        blob.name = format!("ghost-{}", self.below(1 << 40)).into_bytes();
        for byte in blob.connections[0].1.iter_mut().skip(1).take(8) {
            *byte = self.random.below(256) as u8;
        }
        blob
    }

    /// Dynamo's metadata with something changed, as one line.
    pub(crate) fn changed_json(&mut self, honest: &str) -> String {
        let number =
            self.pick(&["-1", "1e400", "18446744073709551616", "0.5", "null", "true", "[]"]);
        let text = match self.below(12) {
            0 => honest.replacen("\"size\":", &format!("\"size\":{number},\"size\":"), 1),
            1 => honest.replacen("\"ptr\":", &format!("\"ptr\":{number}"), 1),
            2 => honest.replacen("\"operation_kind\":", &format!("\"operation_kind\":{number}"), 1),
            3 => honest.replacen('{', "{\"more\":{},", 1),
            4 => honest.replacen(
                "\"descriptors\":",
                &format!("\"descriptors\":{}", "[".repeat(200)),
                1,
            ),
            5 => {
                let device =
                    self.pick(&["cuda:-1", "cuda:99999999999", "xpu:", "cpu:0", "", "\\u0000"]);
                honest.replacen("\"cpu\"", &format!("\"{device}\""), 1)
            }
            6 => honest.replacen("b64:", "", 1),
            7 => {
                let many = "{\"device\":\"cpu\",\"ptr\":1,\"size\":1},".repeat(70_000 / 35);
                honest.replacen("\"descriptors\":[", &format!("\"descriptors\":[{many}"), 1)
            }
            _ => {
                let mut bytes = honest.as_bytes().to_vec();
                self.damage(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            }
        };
        text.replace(['\n', '\r'], " ")
    }

    /// A blob with something changed, compressed.
    pub(crate) fn changed_blob(&mut self) -> Vec<u8> {
        let mut blob = self.ghost();
        match self.below(10) {
            0 => blob.name = self.bytes(300),
            1 => {
                blob.name =
                    self.pick(&[&b""[..], b"\0", b"a\0b", b"\xff", b"../..", b"\n"]).to_vec()
            }
            2 => blob.connections[0].0 = self.bytes(20),
            3 => {
                let again = blob.connections[0].clone();
                let times = self.pick(&[1, 2, 500]);
                blob.connections.extend(vec![again; times]);
            }
            4 => blob.connections.clear(),
            5 => {
                let again = blob.sections.clone();
                blob.sections.extend(again);
            }
            6 | 7 => {
                if let Some(memory) = blob.sections.first_mut().and_then(|s| s.memories.first_mut())
                {
                    self.damage(memory);
                }
            }
            _ => {}
        }
        let mut bytes = blob.bytes();
        match self.below(10) {
            0 => return self.bomb.to_vec(),
            1..7 => self.damage(&mut bytes),
            _ => {}
        }
        compressed(&bytes)
    }

    /// A blob with a changed address of UCX's worker, compressed.
    pub(crate) fn changed_address(&mut self) -> Vec<u8> {
        let mut blob = self.ghost();
        self.damage(&mut blob.connections[0].1);
        compressed(&blob.bytes())
    }

    /// A message of staged transfers, in either version.
    pub(crate) fn staged(&mut self, is_holder: bool) -> Vec<u8> {
        let tag = self.pick(&[0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15]);
        self.tagged(tag, is_holder)
    }

    /// A message of transfers by the other side's GPU, in either version.
    pub(crate) fn remote_copy(&mut self, is_holder: bool) -> Vec<u8> {
        let tag = self.pick(&[10, 10, 11, 12, 13]);
        self.tagged(tag, is_holder)
    }

    fn tagged(&mut self, tag: u8, is_holder: bool) -> Vec<u8> {
        let version = self.pick(&[1, 2, 2]);
        let mut out = vec![b'n', b'x', b's', version];
        let session = if self.below(4) == 0 { self.below(8) } else { self.below(u64::MAX) };
        out.extend(u128::from(session).to_be_bytes());
        out.push(tag);
        let stranger = format!("{:032x}", self.below(u64::MAX)).into_bytes();
        let key = if is_holder { self.key.to_vec() } else { stranger };
        let text = |out: &mut Vec<u8>, text: &[u8]| {
            out.push(text.len() as u8);
            out.extend(text);
        };
        let introduction = match self.below(if is_holder { 1 } else { 8 }) {
            0 => self.introduction(),
            _ => Vec::new(),
        };
        let long = |out: &mut Vec<u8>, introduction: &[u8]| {
            out.extend((introduction.len() as u32).to_be_bytes());
            out.extend(introduction);
        };
        if version == 2 {
            text(&mut out, &key);
            let token = if is_holder { self.token } else { self.below(u64::MAX) };
            out.extend(token.to_be_bytes());
        }
        let kind = 1 + self.below(2) as u8;
        let chunk = self.pick(&[0, 1, 7, 4096, 1 << 20, u64::MAX]);
        match tag {
            0 => {
                out.push(kind);
                out.extend(chunk.to_be_bytes());
                if version == 1 {
                    text(&mut out, &key);
                }
                long(&mut out, &introduction);
            }
            2 | 3 => {
                let count = self.below(70) as u8;
                out.push(count);
                for _ in 0..count {
                    out.extend((self.below(9) as u16).to_be_bytes());
                    out.extend((self.below(9) as u32).to_be_bytes());
                    out.extend(self.below(u64::MAX).to_be_bytes());
                    out.extend(chunk.to_be_bytes());
                }
            }
            4 | 5 => {
                out.extend(self.below(9).to_be_bytes());
                out.extend((self.below(9) as u16).to_be_bytes());
                out.extend((self.below(9) as u32).to_be_bytes());
            }
            7 | 8 => text(&mut out, b"because"),
            10 | 13 => {
                if tag == 13 {
                    out.extend((self.below(1 << 22) as u32).to_be_bytes());
                }
                out.push(kind);
                if version == 1 {
                    text(&mut out, &key);
                } else {
                    out.extend((self.below(1 << 22) as u32).to_be_bytes());
                }
                out.extend(*b"simulated GPU   ");
                let ranges = self.pick(&[0u16, 1, 1, 1, 3]);
                out.extend(ranges.to_be_bytes());
                for _ in 0..ranges {
                    let mut handle: Vec<u8> = (0..72).map(|_| self.below(256) as u8).collect();
                    if self.below(2) == 0 {
                        handle[64..].copy_from_slice(&(LEN as u64).to_le_bytes());
                    }
                    out.extend(handle);
                    out.extend(1u16.to_be_bytes());
                    out.extend(self.pick(&[0, 1, u64::MAX]).to_be_bytes());
                }
                long(&mut out, &introduction);
            }
            11 => {
                if version == 1 {
                    text(&mut out, &key);
                }
                long(&mut out, &introduction);
                text(&mut out, &[b'x'; 240]);
            }
            14 => {
                out.extend(self.below(9).to_be_bytes());
                out.extend((self.below(9) as u16).to_be_bytes());
                out.extend((self.below(9) as u32).to_be_bytes());
                out.extend((0..72).map(|_| self.random.below(256) as u8));
                out.extend(chunk.to_be_bytes());
            }
            15 => {
                out.extend((self.below(9) as u16).to_be_bytes());
                out.extend((self.below(9) as u32).to_be_bytes());
            }
            _ => {}
        }
        if version == 2 && self.below(3) == 0 {
            out.extend((self.below(4) as u16).to_be_bytes());
            long(&mut out, b"a section of a later release");
        }
        if self.below(3) == 0 {
            self.damage(&mut out);
        }
        out
    }

    /// A request for a staged transfer as it should be.
    pub(crate) fn request(&mut self) -> Vec<u8> {
        let mut out = b"nxs\x02".to_vec();
        out.extend(u128::from(self.below(u64::MAX)).to_be_bytes());
        out.extend([0, self.key.len() as u8]);
        out.extend(self.key);
        out.extend(self.token.to_be_bytes());
        out.push(1);
        out.extend((1u64 << 20).to_be_bytes());
        out.extend((self.introduction.len() as u32).to_be_bytes());
        out.extend(self.introduction);
        out
    }

    /// A message about claims.
    pub(crate) fn claim(&mut self, is_holder: bool) -> Vec<u8> {
        let mut out = b"\x89NXC\x01".to_vec();
        // What declines or completes the offer ends it, as a holder may.
        out.push(self.pick(&[1, 1, 1, 2, 3, 4, 5, 9]));
        let stranger = format!("{:032x}", self.below(u64::MAX)).into_bytes();
        let key = if is_holder { self.key.to_vec() } else { stranger };
        out.push(key.len() as u8);
        out.extend(key);
        out.extend(if is_holder { self.token } else { self.below(u64::MAX) }.to_le_bytes());
        if is_holder || self.below(8) == 0 {
            out.extend(self.introduction());
        }
        if self.below(3) == 0 {
            self.damage(&mut out);
        }
        out
    }

    /// A reader's message that it is done with a grant: of the held one with something changed, or of none.
    pub(crate) fn grant_done(&mut self) -> Vec<u8> {
        let mut key: [u8; 52] = std::array::from_fn(|_| self.below(256) as u8);
        if let Some(ticket) = &self.ticket {
            let mut token = *ticket.token();
            // The right one would end the grant, as its holder may.
            token[self.random.below(16) as usize] ^= 1 << self.random.below(8);
            key[..8].copy_from_slice(&ticket.export().value().to_le_bytes());
            key[8..12].copy_from_slice(&ticket.slot().to_le_bytes());
            key[12..20].copy_from_slice(&ticket.generation().to_le_bytes());
            key[20..36].copy_from_slice(&token);
        }
        match self.below(8) {
            // Another export, slot or generation, or all of it.
            field @ 0..3 => {
                let at = [0, 8, 12][field as usize] + self.below(4) as usize;
                key[at] ^= 1 + self.below(255) as u8;
            }
            3 => key[..36].fill(self.below(256) as u8),
            _ => {}
        }
        let len = if self.below(8) == 0 { self.below(53) as usize } else { key.len() };
        let token = if self.below(2) == 0 { 0 } else { self.below(u64::MAX) };
        let mut out = b"\x89NXC\x01\x0a".to_vec();
        out.push(len as u8);
        out.extend(&key[..len]);
        out.extend(token.to_le_bytes());
        if self.below(4) == 0 {
            self.damage(&mut out);
        }
        out
    }

    /// A notification to the owner of the held export or of none, in the name of one of many imports.
    pub(crate) fn notification(&mut self) -> Vec<u8> {
        let export = match &self.ticket {
            Some(ticket) if self.random.below(8) > 0 => ticket.export().value(),
            _ => self.below(u64::MAX),
        };
        let import = u128::from(self.below(5_000)).to_le_bytes();
        let len = if self.below(8) == 0 { self.below(17) as usize } else { import.len() };
        let last = self.below(u64::MAX);
        let sequence = self.pick(&[0, 1, 2, 3, 1 << 63, u64::MAX, last]);
        let payload = self.pick(&[0, 1, 100, 4096, 4097, 60_000]);
        let mut out = b"\x89NXC\x01\x0b".to_vec();
        out.push(len as u8);
        out.extend(&import[..len]);
        out.extend(export.to_le_bytes());
        out.extend(sequence.to_le_bytes());
        out.resize(out.len() + payload, 7);
        if self.below(4) == 0 {
            self.damage(&mut out);
        }
        out
    }

    /// A message of any kind that presents no offer.
    pub(crate) fn message(&mut self) -> Vec<u8> {
        match self.below(12) {
            0 => self.bytes(300),
            1 => {
                let size = self.pick(&[1u64, 200, 4000, 60_000]);
                [b"nxs\x02".to_vec(), self.bytes(size)].concat()
            }
            2..5 => self.claim(false),
            5..8 => self.remote_copy(false),
            _ => self.staged(false),
        }
    }
}

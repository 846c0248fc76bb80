//! Metadata, tickets and pages that the application of the target is given, or that others write.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::Duration;

use nixl_metadata::{
    AgentMetadata, ExportId, ExportMetadata, ExportedLayout, RdmaMetadata, Rights, SharedFile,
    Ticket, TicketTerms, WordsLocation,
};
use nixl_tests::forge::Blob;
use nixl_tests::{Random, block_of, bytes_of, crc32, hex_line, metadata, native_line};

use crate::forge::{Forge, bomb};
use crate::target::{SEED, Target};

/// A peer of the target's whose metadata is damaged on its way. It may end itself by what it is then asked for.
struct Bait {
    target: Target,
    offers: Vec<RdmaMetadata>,
    blob: Blob,
}

impl Bait {
    fn new() -> Self {
        let target = Target::new();
        let mut offers = Vec::new();
        for memory in ["host", "shared", "cuda"] {
            target.ask(&format!("memory {memory}")).unwrap();
            offers.push(target.offer("readable 64 5").unwrap().1);
        }
        let blob = Blob::of(&offers[0]);
        Self { target, offers, blob }
    }

    fn forge<'a>(&'a self, seed: u64, bomb: &'a [u8]) -> Forge<'a> {
        Forge {
            random: Random::new(seed),
            key: b"key",
            token: 0,
            introduction: self.offers[0].agent_metadata().compressed(),
            blob: &self.blob,
            bomb,
            ticket: None,
        }
    }
}

/// In its envelope, so that it is read further than that.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    const HEADER: usize = 16;
    let Some((head, payload)) = bytes.split_at_mut_checked(HEADER) else { return bytes };
    head[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let crc = crc32(&[&head[..12], payload].concat());
    head[12..].copy_from_slice(&u32::from_str_radix(&crc, 16).unwrap().to_le_bytes());
    bytes
}

/// Gives the target damaged metadata of offers to read.
pub(crate) fn offers(target: &Target, seed: u64, count: usize) -> usize {
    let (bait, bomb) = (Bait::new(), bomb());
    let mut forge = bait.forge(seed, &bomb);
    for _ in 0..count {
        let native = &bait.offers[forge.below(bait.offers.len() as u64) as usize];
        let line = match forge.below(4) {
            0 => {
                let mut text = native.to_dynamo_json().into_bytes();
                forge.damage(&mut text);
                String::from_utf8_lossy(&text).replace(['\n', '\r'], " ")
            }
            kind @ 1..3 => {
                let mut bytes = native.to_native_bytes().unwrap();
                forge.damage(&mut bytes);
                hex_line(&if kind == 1 { bytes } else { sealed(bytes) })
            }
            _ => {
                let Some(agent) = forged_agent(&mut forge) else { continue };
                let memory = native.descriptors().to_vec();
                let key = native.notification_key().clone();
                native_line(
                    &RdmaMetadata::new(native.operation_kind(), memory, agent, key).unwrap(),
                )
            }
        };
        if let Ok(begun) = target.ask(&format!("read {line}")) {
            target.ask(&format!("drop {begun}")).unwrap();
        }
    }
    count
}

fn forged_agent(forge: &mut Forge<'_>) -> Option<AgentMetadata> {
    AgentMetadata::from_compressed(forge.introduction().into(), &Default::default()).ok()
}

/// Gives the target damaged metadata of exports to import.
pub(crate) fn exports(target: &Target, seed: u64, count: usize) -> usize {
    let (bait, bomb) = (Bait::new(), bomb());
    let mut forge = bait.forge(seed, &bomb);
    let honest = &bait.target.export;
    for _ in 0..count {
        let bytes = match forge.below(4) {
            0 | 1 => {
                let mut bytes = honest.encode().unwrap();
                forge.damage(&mut bytes);
                sealed(bytes)
            }
            2 => {
                let Some(agent) = forged_agent(&mut forge) else { continue };
                let Some(forged) = forged_export(&mut forge, honest, agent) else { continue };
                forged.encode().unwrap()
            }
            _ => {
                let agent = honest.agent_metadata().clone();
                let Some(forged) = forged_export(&mut forge, honest, agent) else { continue };
                forged.encode().unwrap()
            }
        };
        let _ = target.ask(&format!("import {}", hex_line(&bytes)));
    }
    count
}

/// Another number, layouts or words. What is in reach of the owner stays: addresses elsewhere are its own risk, and end it.
fn forged_export(
    forge: &mut Forge<'_>,
    honest: &ExportMetadata,
    agent: AgentMetadata,
) -> Option<ExportMetadata> {
    let mut layouts: Vec<ExportedLayout> = honest.layouts().to_vec();
    let mut words: WordsLocation = *honest.words();
    let mut export = honest.export();
    let any = [0, 1, 2, 64, 65, 1 << 20, u64::from(u32::MAX), u64::MAX];
    let layout = &mut layouts[0];
    match forge.below(9) {
        0 => layout.blocks = forge.pick(&any),
        1 => layout.page_size = forge.pick(&any),
        2 => layout.block_stride = forge.pick(&any),
        3 => layout.layers = forge.pick(&any) as u16,
        4 => layout.parts[0].len = forge.pick(&any),
        5 => words.slots = forge.pick(&any) as u32,
        6 => words.file = None,
        7 => {
            if let Some(file) = &mut words.file {
                let fd = forge.below(64) as u32;
                let pid = forge.pick(&[file.pid(), 1, 0, std::process::id()]);
                *file = SharedFile::new(pid, fd, file.name(), file.length());
            }
        }
        _ => export = ExportId::new(forge.below(u64::MAX)),
    }
    ExportMetadata::new(export, agent, honest.peer().clone(), layouts, words).ok()
}

/// Gives the target tickets to read by: damaged ones, forged ones, of other exports, and of grants that have ended.
pub(crate) fn tickets(target: &Target, seed: u64, count: usize) -> usize {
    let bait = Bait::new();
    let mut forge = bait.forge(seed, &[]);
    target.ask(&format!("import {}", hex_line(&bait.target.export.encode().unwrap()))).unwrap();
    let decoded = |line: &str| Ticket::decode(&bytes_of(line).unwrap()).unwrap();
    let honest = decoded(&bait.target.ticket);
    let expected: Vec<u8> =
        honest.blocks().iter().flat_map(|block| block_of(SEED, *block as usize)).collect();
    let expected = crc32(&expected);
    let other = decoded(&target.ticket);
    let ended = bait.target.ask("grant 3,4,5").unwrap();
    let (id, ended) = ended.split_once(' ').unwrap();
    assert_eq!(bait.target.ask(&format!("end {id}")).unwrap(), "true");
    let ended = decoded(ended);
    for _ in 0..count {
        let bytes = match forge.below(4) {
            0 => {
                let mut bytes = honest.encode();
                forge.damage(&mut bytes);
                bytes
            }
            1 => forge.pick(&[&other, &ended]).encode(),
            _ => {
                let from = forge.pick(&[&honest, &honest, &ended, &other]);
                match forged_ticket(&mut forge, from) {
                    Some(ticket) => ticket.encode(),
                    None => continue,
                }
            }
        };
        if let Ok(crc) = target.ask(&format!("blocks {}", hex_line(&bytes))) {
            assert!(crc == expected, "other bytes than those that were granted");
            let ticket = Ticket::decode(&bytes).unwrap();
            assert_eq!(ticket.blocks(), honest.blocks(), "other blocks than those granted");
        }
    }
    assert_eq!(target.ask(&format!("blocks {}", bait.target.ticket)).unwrap(), expected);
    count
}

fn forged_ticket(forge: &mut Forge<'_>, from: &Ticket) -> Option<Ticket> {
    let mut terms = TicketTerms {
        export: from.export(),
        layout: from.layout(),
        layers: from.layers(),
        rights: from.rights(),
        slot: from.slot(),
        generation: from.generation(),
        token: *from.token(),
        expires_unix_millis: from.expires_unix_millis(),
    };
    let mut blocks = from.blocks().to_vec();
    match forge.below(9) {
        0 => terms.layout = forge.below(3) as u16,
        1 => terms.layers = 0..forge.below(4) as u16,
        2 => terms.rights = Rights::Write,
        3 => terms.slot = forge.pick(&[0, 1, 2, 65_535, 65_536, u32::MAX]),
        4 => terms.generation = terms.generation.wrapping_add(forge.below(4)),
        5 => terms.token[forge.below(16) as usize] ^= 1,
        6 => terms.expires_unix_millis = forge.pick(&[0, u64::MAX]),
        _ => {
            let at = forge.below(blocks.len() as u64) as usize;
            blocks[at] = forge.pick(&[0, 7, 63, 64, u32::MAX]);
        }
    }
    Ticket::new(terms, blocks).ok()
}

/// Writes what a holder likes to the page by which offers of the target are ended and its mailbox is reached.
pub(crate) fn pages(target: &Target, seed: u64, count: usize) -> usize {
    const AT_ONCE: usize = 500;
    let doorbell = *metadata(&target.offer).unwrap().doorbell().unwrap();
    let place = (doorbell.file().pid(), doorbell.file().fd());
    let mut random = Random::new(seed);
    for number in 0..count {
        let kind = random.below(4);
        let len = if kind == 0 { 1 + random.below(8) } else { 8 };
        let at =
            random.below(doorbell.file().length() - len + 1) & !(if kind == 0 { 0 } else { 7 });
        let bytes = match kind {
            // Counters, lengths and places are small, or the largest.
            1 => random.below(20_000).to_le_bytes(),
            2 => [0, 1, u64::from(u32::MAX), u64::MAX][random.below(4) as usize].to_le_bytes(),
            _ => random.below(u64::MAX).to_le_bytes(),
        };
        write_to(place, &bytes[..len as usize], at).unwrap();
        if number % AT_ONCE == 0 {
            // Its owner looks at it meanwhile.
            thread::sleep(Duration::from_millis(10));
        }
    }
    count
}

/// Writes to a file that a process has open.
pub(crate) fn write_to((pid, fd): (u32, u32), bytes: &[u8], at: u64) -> io::Result<()> {
    let path = format!("/proc/{pid}/fd/{fd}");
    OpenOptions::new().read(true).write(true).open(path)?.write_all_at(bytes, at)
}

//! Metadata of exports and tickets that the application of the target is given.

use nixl_metadata::{
    AgentMetadata, ExportId, ExportMetadata, ExportedLayout, SharedFile, Ticket, WordsLocation,
};
use nixl_tests::{block_of, bytes_of, crc32, hex_line};

use crate::bait::{Bait, sealed, with_baits};
use crate::forge::Forge;
use crate::pace::Pace;
use crate::scene::Outcome;
use crate::target::{SEED, Target};

/// Gives the target damaged metadata of exports to import.
pub(crate) fn exports(target: &Target, seed: u64, count: usize) -> Outcome {
    let mut pace = Pace::new();
    with_baits(seed, count, |bait, forge, outcome| {
        let honest = &bait.target.export;
        let bytes = if forge.below(2) == 0 {
            let mut bytes = honest.encode().unwrap();
            forge.damage(&mut bytes);
            sealed(bytes)
        } else {
            let agent = match forge.below(2) {
                0 => forged_agent(forge),
                _ => Some(honest.agent_metadata().clone()),
            };
            let forged = agent.and_then(|agent| forged_export(forge, honest, agent));
            let Some(forged) = forged else { return };
            forged.encode().unwrap()
        };
        pace.wait();
        outcome.count(target.ask(&format!("import {}", hex_line(&bytes))).is_ok());
    })
}

fn forged_agent(forge: &mut Forge<'_>) -> Option<AgentMetadata> {
    AgentMetadata::from_compressed(forge.introduction().into(), &Default::default()).ok()
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
pub(crate) fn tickets(target: &Target, seed: u64, count: usize) -> Outcome {
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
    let (mut outcome, mut pace) = (Outcome::none(), Pace::new());
    while outcome.sent < count {
        let bytes = match forge.below(4) {
            0 => {
                let mut bytes = honest.encode();
                forge.damage(&mut bytes);
                bytes
            }
            1 => forge.pick(&[&other, &ended]).encode(),
            _ => {
                let from = forge.pick(&[&honest, &honest, &ended, &other]);
                match forge.changed_ticket(from) {
                    Some(ticket) => ticket.encode(),
                    None => continue,
                }
            }
        };
        pace.wait();
        let read = target.ask(&format!("blocks {}", hex_line(&bytes)));
        outcome.count(read.is_ok());
        if let Ok(crc) = read {
            assert!(crc == expected, "other bytes than those that were granted");
            let ticket = Ticket::decode(&bytes).unwrap();
            assert_eq!(ticket.blocks(), honest.blocks(), "other blocks than those granted");
        }
    }
    assert_eq!(target.ask(&format!("blocks {}", bait.target.ticket)).unwrap(), expected);
    outcome
}

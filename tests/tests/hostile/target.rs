//! A process that is attacked.

use std::fs;
use std::sync::{Arc, Mutex};

use nixl_metadata::{ExportMetadata, RdmaMetadata};
use nixl_tests::{Peer, PeerError, bytes_of, metadata, program};
use std::path::Path;

use crate::LEN;

const PEER: &str = env!("CARGO_BIN_EXE_peer");
/// The bytes of its export.
pub(crate) const SEED: u64 = 77;

/// A process with an offer and an export that are open all the time.
pub(crate) struct Target {
    peer: Arc<Mutex<Peer>>,
    pub(crate) pid: u32,
    pub(crate) offer: String,
    pub(crate) export: ExportMetadata,
    /// Of a grant that stands all the time.
    pub(crate) ticket: String,
}

impl Target {
    pub(crate) fn new() -> Self {
        // UCX's words about its peers would stand between the answers.
        let variables =
            [("NIXL_TEST_STAGED", Path::new("2000")), ("UCX_LOG_LEVEL", Path::new("fatal"))];
        let mut peer = Peer::start(program(PEER), &variables);
        peer.ask("memory cuda").unwrap();
        let offer = peer.offer("readable", LEN, 0).unwrap().json;
        let pid = metadata(&offer).unwrap().peer().unwrap().host().pid();
        let export = peer.ask(&format!("export {SEED}")).unwrap();
        let export = ExportMetadata::decode(&bytes_of(&export).unwrap()).unwrap();
        // What importers notify it of is kept from now on.
        peer.ask("hear 0").unwrap();
        let ticket = peer.ask("grant 0,1,2").unwrap().split_once(' ').unwrap().1.to_owned();
        Self { peer: Arc::new(Mutex::new(peer)), pid, offer, export, ticket }
    }

    /// Asks, and waits for an answer that comes late: otherwise it would be taken for that to the next question.
    ///
    /// # Errors
    ///
    /// What it said, if it refused.
    pub(crate) fn ask(&self, line: &str) -> Result<String, String> {
        const PATIENCE: usize = 3;
        let mut peer = self.peer.lock().unwrap();
        let mut answer = peer.ask(line);
        for _ in 0..PATIENCE {
            if !matches!(answer, Err(PeerError::Silent(_))) {
                break;
            }
            answer = peer.answer(line);
        }
        match answer {
            Ok(answer) => Ok(answer),
            Err(PeerError::Refused(said)) => Err(said),
            Err(error) => panic!("the process ended or hangs: {error}"),
        }
    }

    /// An operation of the target, by its number, and its metadata.
    pub(crate) fn offer(&self, line: &str) -> Result<(String, RdmaMetadata), String> {
        let answer = self.ask(line)?;
        let (id, offered) = answer.split_once(' ').ok_or("no offer")?;
        Ok((id.to_owned(), metadata(offered).map_err(|error| error.to_string())?))
    }

    /// Whether it still answers.
    pub(crate) fn is_there(&self) -> bool {
        self.peer.lock().unwrap().ask("stats").is_ok()
    }

    /// Messages that it has counted and dropped: requests of strangers, and what is no notification.
    pub(crate) fn dropped(&self) -> u64 {
        const COUNTERS: [&str; 3] =
            ["strangers", "unexpected_notifications", "unreadable_notifications"];
        let stats = format!("{} {}", self.ask("slots").unwrap(), self.ask("stats").unwrap());
        let counters = COUNTERS.map(|name| {
            let value = stats.split(&format!("{name}: ")).nth(1).unwrap();
            let digits = value.split(|c: char| !c.is_ascii_digit()).next().unwrap();
            digits.parse::<u64>().unwrap()
        });
        counters.iter().sum()
    }

    /// Its resident memory, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Its open files.
    pub(crate) fn files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap().count()
    }
}

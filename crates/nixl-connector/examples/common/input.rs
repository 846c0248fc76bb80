//! Offers of peers, from stdin.

use std::io::{self, BufRead as _, Read as _};
use std::thread;
use std::time::Duration;

use nixl_metadata::RdmaMetadata;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::timeout;

use super::Result;

/// Longer lines are cut; metadata of this size would be refused anyway.
const LONGEST: u64 = 16 << 20;

/// The lines of stdin. A thread of its own reads them, so that nothing else waits for the terminal.
pub(crate) struct Input {
    lines: Receiver<io::Result<Vec<u8>>>,
    patience: Duration,
    seen: bool,
}

impl Input {
    pub(crate) fn new(patience: Duration) -> Result<Self> {
        let (sender, lines) = mpsc::channel(1);
        thread::Builder::new().name("stdin".into()).spawn(move || read_lines(&sender))?;
        Ok(Self { lines, patience, seen: false })
    }

    /// The next offer; none at the end of the input, or when nothing has come for a while. At least one
    /// offer must come.
    pub(crate) async fn next(&mut self) -> Result<Option<RdmaMetadata>> {
        loop {
            let line = match timeout(self.patience, self.lines.recv()).await {
                Ok(Some(line)) => line.map_err(|error| format!("cannot read stdin: {error}"))?,
                Ok(None) | Err(_) if self.seen => return Ok(None),
                Ok(None) => return Err("stdin has no line of metadata".into()),
                Err(_) => {
                    return Err(format!("no line came on stdin within {:?}", self.patience).into());
                }
            };
            let line = line.trim_ascii();
            // In a pipe, what the peer prints when it is done comes this way too.
            if line.is_empty() || line.starts_with(b"complete ") {
                continue;
            }
            self.seen = true;
            return Ok(Some(RdmaMetadata::from_dynamo_json(line)?));
        }
    }
}

fn read_lines(sender: &Sender<io::Result<Vec<u8>>>) {
    let mut stdin = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let read = stdin.by_ref().take(LONGEST).read_until(b'\n', &mut line);
        if matches!(read, Ok(0)) || sender.blocking_send(read.map(|_| line)).is_err() {
            return;
        }
    }
}

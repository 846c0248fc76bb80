//! Running commands beside each other.

use std::collections::VecDeque;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context as _, Result};

use crate::process;

/// How a command ended.
pub(crate) struct Ended {
    /// How it would be typed.
    pub(crate) name: String,
    /// What it wrote, standard error among it.
    pub(crate) output: Vec<u8>,
    pub(crate) succeeded: bool,
    pub(crate) time: Duration,
}

/// Runs the commands, `lanes` at a time, in their order, and tells `ended` of each as it ends.
pub(crate) fn run(
    commands: Vec<Command>,
    lanes: usize,
    ended: impl FnMut(Ended) -> Result<()> + Send,
) -> Result<()> {
    let waiting = Mutex::new(VecDeque::from(commands));
    let ended = Mutex::new(ended);
    let lane = || -> Result<()> {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(command) = next else { return Ok(()) };
            let result = one(command)?;
            ended.lock().unwrap_or_else(PoisonError::into_inner)(result)?;
        }
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes.max(1)).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().try_for_each(|lane| {
            lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn one(mut command: Command) -> Result<Ended> {
    let begun = Instant::now();
    let name = process::display(&command);
    let (mut reader, writer) = io::pipe()?;
    let theirs = writer.try_clone()?;
    let child = command.stdin(Stdio::null()).stdout(theirs).stderr(writer).spawn();
    let mut child = child.with_context(|| format!("cannot start `{name}`"))?;
    // Its ends of the pipe are ours too as long as it lives.
    drop(command);
    let mut output = Vec::new();
    reader.read_to_end(&mut output)?;
    let succeeded = child.wait()?.success();
    Ok(Ended { name, output, succeeded, time: begun.elapsed() })
}

//! A process that is spoken to in lines.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child as Process, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::DEADLINE;

/// Killed when dropped.
pub(crate) struct Child {
    process: Process,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
}

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// The lines of stdout that were not asked for.
    pub(crate) lines: Vec<String>,
    pub(crate) stderr: String,
}

impl Child {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let (sender, lines) = channel();
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        let mut stderr = process.stderr.take().unwrap();
        let stderr = Some(thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        }));
        Self { process, stdin, lines, stderr }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Writes a line. That the process no longer listens is seen in what it does next.
    pub(crate) fn send(&mut self, line: &str) {
        let _ = writeln!(self.stdin.as_mut().unwrap(), "{line}");
    }

    /// The next line of stdout; none if there are no more.
    pub(crate) fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                panic!("not a line within {DEADLINE:?}; on stderr: {}", self.kill())
            }
        }
    }

    /// Closes stdin and waits for the end.
    pub(crate) fn finish(mut self) -> Ended {
        drop(self.stdin.take());
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(since.elapsed() < DEADLINE, "it does not end; on stderr: {}", self.kill());
            thread::sleep(Duration::from_millis(2));
        };
        let lines = self.lines.iter().collect();
        Ended { status, lines, stderr: self.kill() }
    }

    /// Ends the process and returns its stderr.
    pub(crate) fn kill(&mut self) -> String {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

//! Messages between two processes: lines of JSON over a socket pair, which the one that was started has as its standard input.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Sends messages.
#[derive(Debug)]
pub struct Sender(UnixStream);

/// Receives them.
#[derive(Debug)]
pub struct Receiver {
    stream: BufReader<UnixStream>,
    line: Vec<u8>,
}

/// Both directions of a socket.
///
/// # Errors
///
/// The system has no file descriptor left.
pub fn open(stream: UnixStream) -> Result<(Sender, Receiver)> {
    let reader = stream.try_clone().context("cannot share the control channel")?;
    Ok((Sender(stream), Receiver { stream: BufReader::new(reader), line: Vec::new() }))
}

impl Sender {
    /// Sends one message.
    ///
    /// # Errors
    ///
    /// The other process is gone.
    pub fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.0.write_all(&line).context("the other process is gone")
    }
}

impl Receiver {
    /// Bounds every later wait for a message.
    ///
    /// # Errors
    ///
    /// The bound is zero.
    pub fn set_patience(&self, patience: Duration) -> Result<()> {
        let stream = self.stream.get_ref();
        stream
            .set_read_timeout(Some(patience))
            .context("cannot bound the waits for the other process")
    }

    /// Waits for a message; `None` once the other side is gone.
    ///
    /// # Errors
    ///
    /// Nothing came in time, or no message of this type.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        self.line.clear();
        match self.stream.read_until(b'\n', &mut self.line) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            // A process that dies with messages unread resets the channel instead of ending it.
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                bail!("the other process does not answer")
            }
            Err(e) => return Err(e).context("the control channel is broken"),
        }
        let message = serde_json::from_slice(&self.line);
        message.map(Some).context("a message between the two processes is broken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order_and_the_end_is_seen() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut sender, receiver) = open(here).unwrap();
        let (there_sender, mut there) = open(there).unwrap();
        sender.send(&Some("first")).unwrap();
        sender.send(&None::<&str>).unwrap();
        assert_eq!(there.receive().unwrap(), Some(Some("first".to_owned())));
        assert!(matches!(there.receive::<Option<String>>().unwrap(), Some(None)));
        drop((sender, receiver));
        assert!(matches!(there.receive::<String>(), Ok(None)));
        drop(there_sender);
    }

    #[test]
    fn silence_is_an_error_once_patience_is_over() {
        let (here, there) = UnixStream::pair().unwrap();
        let (_sender, mut receiver) = open(here).unwrap();
        receiver.set_patience(Duration::from_millis(1)).unwrap();
        assert!(receiver.receive::<String>().is_err());
        drop(there);
        assert!(matches!(receiver.receive::<String>(), Ok(None)));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut sender, _receiver) = open(here).unwrap();
        let (_sender, mut there) = open(there).unwrap();
        sender.send(&"no number").unwrap();
        assert!(there.receive::<u64>().is_err());
    }
}

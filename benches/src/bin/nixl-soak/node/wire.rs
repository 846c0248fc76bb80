//! Frames between nodes: the length, then the bytes.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::messages::Ask;

/// Metadata of an offer is much shorter.
const LONGEST: u32 = 1 << 20;

async fn send(stream: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut frame = len.to_le_bytes().to_vec();
    frame.extend_from_slice(bytes);
    stream.write_all(&frame).await
}

/// None once the other node is gone.
async fn receive(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    match stream.read_exact(&mut len).await {
        Ok(_) => {}
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    }
    let len = u32::from_le_bytes(len);
    if len > LONGEST {
        return Err(io::Error::other(format!("a frame of {len} bytes")));
    }
    let mut bytes = vec![0; len as usize];
    match stream.read_exact(&mut bytes).await {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the other node has ended.
pub(super) fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Asks for an offer. False once the other node is gone.
pub(super) async fn ask(stream: &mut UnixStream, ask: &Ask) -> io::Result<bool> {
    let bytes = serde_json::to_vec(ask)?;
    match send(stream, &bytes).await {
        Err(error) if is_gone(&error) => Ok(false),
        sent => sent.map(|()| true),
    }
}

pub(super) async fn asked(stream: &mut UnixStream) -> io::Result<Option<Ask>> {
    match receive(stream).await? {
        Some(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        None => Ok(None),
    }
}

/// Sends the metadata of an offer; none where it could not be made.
pub(super) async fn offer(stream: &mut UnixStream, metadata: &[u8]) -> io::Result<()> {
    send(stream, metadata).await
}

pub(super) async fn offered(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    receive(stream).await
}

//! Streams of frames over sockets.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::channel::ChannelError;
use crate::channel::wire::frame_len;

/// A connected socket, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Reads a message of at most `limit` bytes, into memory in proportion to what arrives.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Send + Unpin + ?Sized),
    limit: usize,
    lost: impl Fn(io::Error) -> ChannelError,
) -> Result<Vec<u8>, ChannelError> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.map_err(&lost)?;
    let len = frame_len(head, limit)?;
    let mut message = Vec::with_capacity(len.min(1 << 16));
    stream.take(len as u64).read_to_end(&mut message).await.map_err(&lost)?;
    if message.len() < len {
        return Err(lost(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(message)
}

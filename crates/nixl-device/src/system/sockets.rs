//! TCP sockets of this process: where each leads, and whether anything can still be read from it.

mod attribution;
mod host;
mod netlink;
mod proc_net;
mod retries;
mod tcp;

pub use host::is_this_host;
pub use retries::tcp_gives_up_after;
pub use tcp::{SocketsError, TcpSocket, TcpState};

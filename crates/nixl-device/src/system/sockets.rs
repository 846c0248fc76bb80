//! TCP sockets of this process: their remote ends, and whether bytes can still be read from them.

mod attribution;
mod host;
mod netlink;
mod proc_net;
mod retries;
mod tcp;

pub use host::is_this_host;
pub use retries::tcp_gives_up_after;
pub use tcp::{SocketsError, TcpSocket, TcpState};

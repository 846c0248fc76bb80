//! UCX's transports between the two processes.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Error, Result};
use clap::ValueEnum;

/// The variable that UCX reads once, in each process.
const VARIABLE: &str = "UCX_TLS";

/// A machine as it would be with only these ways to carry bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Transport {
    /// Sockets only, as between hosts without RDMA
    Tcp,
    /// Shared memory and CUDA IPC, sockets for messages
    Shm,
    /// The devices that UCX finds
    Auto,
}

impl Transport {
    /// The value of `UCX_TLS`; none to leave it unset.
    pub(crate) const fn ucx_tls(self) -> Option<&'static str> {
        match self {
            Self::Tcp => Some("tcp,cuda_copy"),
            // Not without TCP: NIXL wants to be told of dead peers, and UCX's shared memory cannot tell.
            Self::Shm => Some("posix,sysv,cma,self,cuda_copy,cuda_ipc,tcp"),
            Self::Auto => None,
        }
    }

    /// Whether a value of `UCX_TLS` leaves nothing but sockets between the processes, however it is written.
    pub(crate) fn is_tcp(ucx_tls: &str) -> bool {
        let mut names = ucx_tls.split(',').map(str::trim);
        names.clone().any(|name| name == "tcp")
            && names.all(|name| ["tcp", "self", "cuda_copy"].contains(&name))
    }

    /// Makes the whole program run so: begins it anew with another environment if that must change. To be called before
    /// any library is loaded.
    pub(crate) fn adopt(self) -> Result<()> {
        let wanted = self.ucx_tls();
        if env::var_os(VARIABLE).as_deref() == wanted.map(AsRef::as_ref) {
            return Ok(());
        }
        let mut again = Command::new(env::current_exe().context("cannot find this program")?);
        again.args(env::args_os().skip(1));
        match wanted {
            Some(value) => again.env(VARIABLE, value),
            None => again.env_remove(VARIABLE),
        };
        // Returns only if it fails.
        Err(Error::new(again.exec()).context(format!("cannot begin anew with another {VARIABLE}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lists_of_sockets_are_tcp() {
        for value in ["tcp", "tcp,cuda_copy", "self, tcp", "cuda_copy,tcp,self"] {
            assert!(Transport::is_tcp(value), "{value}");
        }
        for value in ["", "default", "all", "^tcp", "cuda_copy", "tcp,cuda_ipc", "posix,tcp"] {
            assert!(!Transport::is_tcp(value), "{value}");
        }
        let tcp = |transport: Transport| transport.ucx_tls().is_some_and(Transport::is_tcp);
        let all = [Transport::Tcp, Transport::Shm, Transport::Auto];
        assert_eq!(all.map(tcp), [true, false, false]);
    }
}

//! The identity of the host, and its limits for this process.

use std::num::NonZeroU64;
use std::path::Path;

use serde::Serialize;

use super::tree::Tree;

/// Which machine this is, and which of its namespaces this process is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MachineIdentity {
    hostname: Option<String>,
    boot_id: Option<String>,
    pub(crate) kernel: Option<String>,
    pid_namespace: Option<NonZeroU64>,
    ipc_namespace: Option<NonZeroU64>,
}

impl MachineIdentity {
    /// Identifies this machine from three small files and two links. Never fails: what cannot be read is `None`.
    #[must_use]
    pub fn discover() -> Self {
        read_identity(&Tree::new(Path::new("/")))
    }

    /// The name, which containers may set for themselves.
    #[must_use]
    pub fn hostname(&self) -> Option<&str> {
        self.hostname.as_deref()
    }

    /// The kernel's identifier of this boot. Two processes with the same one run on the same kernel, in whichever
    /// containers, though they need not see each other's memory or files.
    #[must_use]
    pub fn boot_id(&self) -> Option<&str> {
        self.boot_id.as_deref()
    }

    /// The release of the kernel, such as `6.8.0-45-generic`.
    #[must_use]
    pub fn kernel(&self) -> Option<&str> {
        self.kernel.as_deref()
    }

    /// The PID namespace of this process, as the number of its inode. Processes of one boot with the same number see
    /// each other's process identifiers.
    #[must_use]
    pub fn pid_namespace(&self) -> Option<NonZeroU64> {
        self.pid_namespace
    }

    /// The IPC namespace of this process, as the number of its inode. Processes of one boot need the same one for CUDA
    /// IPC.
    #[must_use]
    pub fn ipc_namespace(&self) -> Option<NonZeroU64> {
        self.ipc_namespace
    }
}

/// How much memory this process may lock, and thus register with a NIC, unless it is privileged (`CAP_IPC_LOCK`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemlockLimit {
    soft: Limit,
    hard: Limit,
}

impl MemlockLimit {
    /// What holds now.
    #[must_use]
    pub fn soft(&self) -> Limit {
        self.soft
    }

    /// What this process can raise it to.
    #[must_use]
    pub fn hard(&self) -> Limit {
        self.hard
    }
}

/// A limit on an amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Limit {
    /// So many bytes.
    Bytes(u64),
    /// No limit.
    Unlimited,
}

pub(crate) fn read_identity(tree: &Tree) -> MachineIdentity {
    MachineIdentity {
        hostname: tree.text("proc/sys/kernel/hostname"),
        boot_id: tree.value(
            "proc/sys/kernel/random/boot_id",
            "36 characters of a UUID",
            parse_boot_id,
        ),
        kernel: tree.text("proc/sys/kernel/osrelease"),
        pid_namespace: read_namespace(tree, "pid"),
        ipc_namespace: read_namespace(tree, "ipc"),
    }
}

pub(crate) fn read_memlock(tree: &Tree) -> Option<MemlockLimit> {
    tree.value("proc/self/limits", "a line with `Max locked memory`", parse_memlock)
}

fn read_namespace(tree: &Tree, kind: &str) -> Option<NonZeroU64> {
    tree.link_value(
        &format!("proc/self/ns/{kind}"),
        &format!("`{kind}:[N]`, N being the number of an inode"),
        |target| {
            let target = target.strip_prefix(kind)?;
            let digits = target.strip_prefix(":[")?.strip_suffix(']')?;
            // The parser alone would take a plus sign.
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
        },
    )
}

fn parse_boot_id(text: &str) -> Option<String> {
    let plain = |byte: u8| byte == b'-' || byte.is_ascii_hexdigit();
    (text.len() == 36 && text.bytes().all(plain)).then(|| text.to_owned())
}

/// Finds `Max locked memory         8388608              unlimited            bytes`.
fn parse_memlock(text: &str) -> Option<MemlockLimit> {
    let mut columns =
        text.lines().find_map(|line| line.strip_prefix("Max locked memory"))?.split_whitespace();
    let mut limit = || match columns.next()? {
        "unlimited" => Some(Limit::Unlimited),
        bytes => bytes.parse().ok().map(Limit::Bytes),
    };
    Some(MemlockLimit { soft: limit()?, hard: limit()? })
}

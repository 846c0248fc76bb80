//! The identity of the host, and its limits for this process.

use std::num::NonZeroU64;
use std::path::Path;

use serde::Serialize;

use crate::tree::Tree;

/// Which machine this is, and which of its namespaces this process is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MachineIdentity {
    /// The name, which containers may set for themselves.
    pub hostname: Option<String>,
    /// The kernel's identifier of this boot. Two processes with the same one run on the same kernel, in whichever
    /// containers, though they need not see each other's memory or files.
    pub boot_id: Option<String>,
    /// The release of the kernel, such as `6.8.0-45-generic`.
    pub kernel: Option<String>,
    /// The PID namespace of this process, as the number of its inode. Processes of one boot with the same number see
    /// each other's process identifiers.
    pub pid_namespace: Option<NonZeroU64>,
    /// The IPC namespace of this process, as the number of its inode. Processes of one boot need the same one for CUDA
    /// IPC.
    pub ipc_namespace: Option<NonZeroU64>,
}

impl MachineIdentity {
    /// Identifies this machine from three small files and two links. Never fails: what cannot be read is `None`.
    #[must_use]
    pub fn discover() -> Self {
        read_identity(&Tree::new(Path::new("/")))
    }
}

/// How much memory this process may lock, and thus register with a NIC, unless it is privileged (`CAP_IPC_LOCK`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemlockLimit {
    /// What holds now.
    pub soft: Limit,
    /// What this process can raise it to.
    pub hard: Limit,
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

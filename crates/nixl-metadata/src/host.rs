//! The identity of a peer's host and process.

use std::num::NonZeroU64;

use crate::{Field, MetadataError, PeerInfo, name};

/// The identity of a peer's host and process: whether two peers share a host, and which processes each can see.
///
/// It is the peer's claim. A wrong one costs time, not safety: a path that is planned by it is proven by its use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostIdentity {
    hostname: String,
    /// Empty if unknown, as on the wire.
    boot_id: String,
    pid: u32,
    pid_namespace: Option<NonZeroU64>,
    ipc_namespace: Option<NonZeroU64>,
}

impl HostIdentity {
    /// Names a process on a host. Its namespaces are unknown yet.
    ///
    /// `boot_id` is what the kernel drew when the host started (on Linux `/proc/sys/kernel/random/boot_id`): containers
    /// have host names of their own but share it. It is empty if unknown. `pid` is the process as it sees itself, 0 if
    /// unknown.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TooLarge`] or [`MetadataError::BadName`] for either text, and [`MetadataError::Empty`] for the
    /// host name.
    pub fn new(
        hostname: impl Into<String>,
        boot_id: impl Into<String>,
        pid: u32,
    ) -> Result<Self, MetadataError> {
        let (hostname, boot_id) = (hostname.into(), boot_id.into());
        name::check(Field::HostName, &hostname, PeerInfo::MAX_NAME_BYTES)?;
        if !boot_id.is_empty() {
            name::check(Field::BootId, &boot_id, PeerInfo::MAX_NAME_BYTES)?;
        }
        Ok(Self { hostname, boot_id, pid, pid_namespace: None, ipc_namespace: None })
    }

    /// Sets the process's PID namespace: on Linux the number of the inode that `/proc/self/ns/pid` leads to.
    #[must_use]
    pub const fn with_pid_namespace(mut self, inode: Option<NonZeroU64>) -> Self {
        self.pid_namespace = inode;
        self
    }

    /// Sets the process's IPC namespace: on Linux the number of the inode that `/proc/self/ns/ipc` leads to.
    #[must_use]
    pub const fn with_ipc_namespace(mut self, inode: Option<NonZeroU64>) -> Self {
        self.ipc_namespace = inode;
        self
    }

    /// The host's name.
    #[must_use]
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// The boot that the host is in, if known.
    #[must_use]
    pub fn boot_id(&self) -> Option<&str> {
        (!self.boot_id.is_empty()).then_some(&*self.boot_id)
    }

    /// The process, in the numbering of its PID namespace; 0 if unknown.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// The PID namespace of the process, if known.
    #[must_use]
    pub const fn pid_namespace(&self) -> Option<NonZeroU64> {
        self.pid_namespace
    }

    /// The IPC namespace of the process, if known.
    #[must_use]
    pub const fn ipc_namespace(&self) -> Option<NonZeroU64> {
        self.ipc_namespace
    }

    /// Whether both run on the same kernel, in whichever containers: the boot ids are known and equal.
    #[must_use]
    pub fn same_host(&self, other: &Self) -> bool {
        self.boot_id().is_some() && self.boot_id == other.boot_id
    }

    /// Whether each finds the other's processes by the identifiers that the other uses: on the
    /// [same host](Self::same_host), and the PID namespaces are known and equal.
    #[must_use]
    pub fn same_pid_namespace(&self, other: &Self) -> bool {
        // The numbers of inodes mean nothing beyond one boot.
        self.same_host(other)
            && self.pid_namespace.is_some()
            && self.pid_namespace == other.pid_namespace
    }

    /// Whether the kernel lets both share memory by System V's and CUDA's IPC: on the [same host](Self::same_host), and
    /// the IPC namespaces are known and equal.
    #[must_use]
    pub fn same_ipc_namespace(&self, other: &Self) -> bool {
        self.same_host(other)
            && self.ipc_namespace.is_some()
            && self.ipc_namespace == other.ipc_namespace
    }

    /// Whether both have the same process identifier, known, in the
    /// [same PID namespace](Self::same_pid_namespace).
    ///
    /// The kernel gives identifiers out again: whether it is still the process that it was, the
    /// [incarnation](PeerInfo::incarnation) shows.
    #[must_use]
    pub fn same_process(&self, other: &Self) -> bool {
        self.same_pid_namespace(other) && self.pid != 0 && self.pid == other.pid
    }
}

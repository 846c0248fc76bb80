//! Peers of this host in other PID namespaces.

use nixl_descriptor::ForeignProcess;
use nixl_metadata::HostIdentity;

/// The process of `there`, if it runs on the host of `here` in another PID namespace, so that its files are opened through a
/// [rendezvous](nixl_descriptor::Rendezvous).
#[must_use]
pub fn foreign_process(here: &HostIdentity, there: &HostIdentity) -> Option<ForeignProcess> {
    if !here.same_host(there) || here.same_pid_namespace(there) {
        return None;
    }
    ForeignProcess::new(there.pid_namespace(), there.pid())
}

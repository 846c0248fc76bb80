//! Comparison of two host identities.

use crate::support::any_host;
use nixl_metadata::HostIdentity;
use proptest::prelude::*;

/// Same host, PID namespace, IPC namespace and process.
fn answers(a: &HostIdentity, b: &HostIdentity) -> [bool; 4] {
    [a.same_host(b), a.same_pid_namespace(b), a.same_ipc_namespace(b), a.same_process(b)]
}

fn expected(a: &HostIdentity, b: &HostIdentity) -> [bool; 4] {
    let host = a.boot_id().is_some() && a.boot_id() == b.boot_id();
    let pids = host && a.pid_namespace().is_some() && a.pid_namespace() == b.pid_namespace();
    let ipcs = host && a.ipc_namespace().is_some() && a.ipc_namespace() == b.ipc_namespace();
    [host, pids, ipcs, pids && a.pid() != 0 && a.pid() == b.pid()]
}

proptest! {
    #[test]
    fn what_is_unknown_is_never_the_same(a in any_host(), b in any_host()) {
        prop_assert_eq!(answers(&a, &b), expected(&a, &b));
        prop_assert_eq!(answers(&b, &a), expected(&a, &b));
        prop_assert_eq!(answers(&a, &a.clone()), expected(&a, &a));
    }
}

//! What two identities have in common.

use crate::support::any_host;
use nixl_metadata::HostIdentity;
use proptest::prelude::*;

proptest! {
    #[test]
    fn what_is_unknown_is_never_the_same(a in any_host(), b in any_host()) {
        let known_and_equal = |known: bool, equal: bool| known && equal;
        let host = known_and_equal(a.boot_id().is_some(), a.boot_id() == b.boot_id());
        let pids = known_and_equal(a.pid_namespace().is_some(), a.pid_namespace() == b.pid_namespace());
        let ipcs = known_and_equal(a.ipc_namespace().is_some(), a.ipc_namespace() == b.ipc_namespace());
        let pid = known_and_equal(a.pid() != 0, a.pid() == b.pid());
        prop_assert_eq!(a.same_host(&b), host);
        prop_assert_eq!(a.same_pid_namespace(&b), host && pids);
        prop_assert_eq!(a.same_ipc_namespace(&b), host && ipcs);
        prop_assert_eq!(a.same_process(&b), host && pids && pid);
        let answers = |a: &HostIdentity, b: &HostIdentity| {
            [a.same_host(b), a.same_pid_namespace(b), a.same_ipc_namespace(b), a.same_process(b)]
        };
        prop_assert_eq!(answers(&a, &b), answers(&b, &a));
        prop_assert_eq!(answers(&a, &a.clone())[0], a.boot_id().is_some());
    }
}

//! Numbers of processes that mean others than they seem to.

use std::fs;
use std::process::{Command, Stdio};

use nixl_device::{ProcessError, ProcessIdentity, ProcessWatch, proc_is_of_this_namespace};

use crate::support::{Other, is_root, until};

#[test]
fn a_process_that_got_a_number_again_is_not_the_one_that_had_it() {
    if !is_root("numbers::a_process_that_got_a_number_again_is_not_the_one_that_had_it") {
        return;
    }
    let sleeper = || Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let mut first = sleeper();
    let pid = first.id();
    let watch = ProcessWatch::open(pid).unwrap();
    let identity = watch.identity().unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(ProcessWatch::open(pid).unwrap_err(), ProcessError::NotThere { pid });
    // Other processes take numbers too, and it must not be the same clock tick.
    until("a second process of that number", || {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut second = sleeper();
        let found = (second.id() == pid).then(|| {
            let other = ProcessWatch::open(pid).unwrap();
            assert!(watch.has_ended() && !other.has_ended());
            assert_eq!(watch.start_time(), None, "it is the other's");
            other.identity().unwrap()
        });
        let told = found.filter(|other| *other != identity);
        if let Some(other) = told {
            let watch = ProcessWatch::open(pid).unwrap();
            assert!(watch.is(other.start_time()) && !watch.is(identity.start_time()));
        }
        second.kill().unwrap();
        second.wait().unwrap();
        told
    });
}

#[test]
fn numbers_of_another_namespace_are_not_taken_for_ours() {
    assert!(proc_is_of_this_namespace());
    assert!(ProcessIdentity::current().is_some());
    if !is_root("numbers::numbers_of_another_namespace_are_not_taken_for_ours") {
        return;
    }
    let by = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(arguments).arg(std::env::current_exe().unwrap());
        Other::with_task_by(command, "namespace").hear()
    };
    // It sees the `/proc` of this one.
    assert_eq!(by(&["-fp", "--kill-child"]), "false (false, false)");
    assert_eq!(by(&["-fp", "--kill-child", "--mount-proc"]), "true (true, true)");
}

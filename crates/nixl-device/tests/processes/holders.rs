//! The processes that have a file open.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

use nixl_device::{FileIdentity, Holders, ProcessIdentity, ProcessWatch};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::support::{LIMIT, Other, is_root, until};

fn memory(name: &str) -> (File, FileIdentity) {
    let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC).unwrap());
    let identity = FileIdentity::of(&file).unwrap();
    (file, identity)
}

/// A shell that opens a file of this process and runs a script.
fn shell(file: &File, script: &str) -> Other {
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec 3<>{path}; {script}")]);
    Other::spawn(command)
}

/// Waits until just these processes have a file. What another test starts has copies of all descriptors until it runs its
/// program.
fn until_held_by(identity: FileIdentity, pids: &[u32]) -> Holders {
    until(&format!("{pids:?}"), || {
        let holders = Holders::of_file(identity, LIMIT);
        let mut found = holders.pids().to_vec();
        found.sort_unstable();
        (found == pids).then_some(holders)
    })
}

#[test]
fn a_child_that_inherited_the_file_counts_after_its_parent_has_ended() {
    let (file, identity) = memory("a b\n) (deleted) 00:01 7 /memfd:");
    let (_, other) = memory("a b\n) (deleted) 00:01 7 /memfd:");
    // This process does not count.
    until_held_by(identity, &[]);
    let mut parent = shell(&file, "sleep 100 & echo @@$!; read word");
    let child: u32 = parent.hear().parse().unwrap();
    let mut both = [parent.pid(), child];
    both.sort_unstable();
    until_held_by(identity, &both);
    until_held_by(other, &[]);
    let watch = ProcessWatch::open(parent.pid()).unwrap();
    let start = watch.start_time().unwrap();
    parent.kill();
    assert!(watch.has_ended());
    let held = until_held_by(identity, &[child]);
    assert!(!held.proves_none() && !held.proves_none_since(start));
    Command::new("kill").arg(child.to_string()).status().unwrap();
    let ended = until_held_by(identity, &[]);
    // Of what else runs here, users other than root may not see everything.
    let sees_all = ended.unreadable() == 0 && !ended.hidden();
    assert_eq!(ended.proves_none(), sees_all);
    let older = ended.last_unreadable_start() < Some(start);
    assert_eq!(ended.proves_none_since(start), older && !ended.hidden());
}

#[test]
fn what_was_not_looked_at_in_time_counts_as_unreadable() {
    let (_file, identity) = memory("late");
    let holders = Holders::of_file(identity, std::time::Duration::ZERO);
    assert!(holders.unreadable() > 0 && holders.pids().is_empty() && !holders.proves_none());
    let me = ProcessIdentity::current().unwrap();
    assert!(!holders.proves_none_since(me.start_time()), "this process was not looked at either");
}

#[test]
fn processes_of_other_users_are_counted() {
    if !is_root("holders::processes_of_other_users_are_counted") {
        return;
    }
    let (_file, identity) = memory("mine");
    let (device, inode) = (identity.device(), identity.inode());
    // It may not see that this process has it.
    let mut other = Other::as_other_user(&format!("holders {device} {inode}"));
    assert_eq!(other.hear(), "[] true false false");
}

#[test]
fn what_proc_hides_is_not_taken_for_nothing() {
    if !is_root("holders::what_proc_hides_is_not_taken_for_nothing") {
        return;
    }
    let (file, identity) = memory("mine");
    let (device, inode) = (identity.device(), identity.inode());
    let task = format!("holders {device} {inode}");
    let test = std::env::current_exe().unwrap();
    let by = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh"]).arg(&test);
        Other::with_task_by(command, &task).hear()
    };
    let pid = std::process::id();
    let hidden = by("mount -t proc -o hidepid=2 proc /proc && exec \"$@\"");
    // Root sees it, and cannot be sure. A child of another test has it as well until its exec.
    let is_seen = |heard: &str| heard.starts_with(&format!("[{pid}")) && heard.contains("] ");
    assert!(is_seen(&hidden) && hidden.ends_with(" true false"), "{hidden}");
    let shown = by("mount -t proc -o hidepid=0 proc /proc && exec \"$@\"");
    assert!(is_seen(&shown) && shown.ends_with(" false false"), "{shown}");
    let mut elsewhere = Command::new("unshare");
    elsewhere.args(["-fp", "--kill-child"]).arg(&test);
    // The numbers are those of the other namespace.
    assert!(Other::with_task_by(elsewhere, &task).hear().ends_with("true false"));
    drop(file);
}

//! Tests with processes of their own: of other users, in other namespaces, without files.

use super::*;

/// The variable with a child's task, and the mark of its answers.
const TASK: &str = "NIXL_TEST_SHARED_CHILD";
const MARK: &str = "@@";

/// The program of a child process: it opens the memory of its task.
#[test]
#[ignore = "run by the other tests, in processes of their own"]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let words: Vec<_> = task.split(' ').collect();
    let number = |index: usize| words[index].parse::<u64>().unwrap();
    let name = SharedName {
        pid: number(0) as u32,
        fd: number(1) as u32,
        name: u128::from_str_radix(words[2], 16).unwrap().to_be_bytes(),
        len: number(3),
    };
    let mapped = SharedMemory::open(&name).is_ok();
    println!("{MARK}{:?} {mapped} {:?} {}", name.presence(), name.file().is_some(), name.is_gone());
    let _map = SharedMemory::open(&name);
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// A process that opens memory, and its answer. It keeps the mapping until it is killed.
struct Opener(std::process::Child, String);

impl Opener {
    fn new(mut command: std::process::Command, name: &SharedName) -> Self {
        use std::process::Stdio;
        let SharedName { pid, fd, len, .. } = name;
        let random = u128::from_be_bytes(name.name);
        command
            .args(["--exact", "shared::tests::processes::child", "--ignored", "--nocapture"])
            .env(TASK, format!("{pid} {fd} {random:x} {len}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let said = output
            .by_ref()
            .lines()
            .find_map(|line| line.unwrap().split_once(MARK).map(|(_, said)| said.to_owned()));
        // It writes more when it ends.
        child.stdout = Some(output.into_inner());
        Self(child, said.unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.kill();
    }
}

fn this_program() -> std::process::Command {
    std::process::Command::new("/proc/self/exe")
}

/// Whether this process may become other users and have namespaces of its own, or a note that the test is skipped.
fn is_root(test: &str) -> bool {
    let unshare = std::process::Command::new("unshare").args(["-fpm", "true"]).output();
    let may = rustix::process::geteuid().is_root() && unshare.is_ok_and(|out| out.status.success());
    if !may {
        use std::io::Write;
        let line = format!("SKIPPED(root): {test}\n");
        // Past the test harness, which would keep it for failures.
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        if let Some(log) = std::env::var_os("NIXL_TEST_SKIP_LOG") {
            let mut log = File::options().create(true).append(true).open(log).unwrap();
            log.write_all(line.as_bytes()).unwrap();
        }
    }
    may
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn presence_is_of_that_memory_in_that_process() {
    let ours = SharedMemory::new(100).unwrap();
    let name = ours.name();
    assert_eq!(name.presence(), Presence::Here);
    let absent = |name: SharedName| {
        assert_eq!(name.presence(), Presence::Absent);
        assert!(name.is_gone());
    };
    absent(SharedName { name: [0; 16], ..name });
    absent(SharedName { fd: u32::MAX, ..name });
    absent(SharedName { pid: u32::MAX, ..name });
    let mut other = Opener::new(this_program(), &name);
    let pid = other.0.id();
    assert_eq!(other.1, "Here true true false");
    // What a clone of another host, or another container, would say.
    absent(SharedName { pid, ..name });
    other.0.kill().unwrap();
    while !ProcessWatch::open(pid).unwrap().has_ended() {
        std::thread::yield_now();
    }
    absent(SharedName { pid, ..name });
    other.0.wait().unwrap();
    absent(SharedName { pid, ..name });
    drop(ours);
    absent(name);
    assert_eq!(name.file(), None);
}

/// The program of the next test's child process: it reaches its limit of open files.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn without_files() {
    use rustix::process::{Rlimit, setrlimit};
    let ours = SharedMemory::new(100).unwrap();
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limits }).unwrap();
    let (made, opened) = (SharedMemory::new(100), SharedMemory::open(&ours.name()));
    setrlimit(Resource::Nofile, limits).unwrap();
    println!("\n{MARK}{}\n{MARK}{}", made.unwrap_err(), opened.unwrap_err());
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn a_full_table_of_files_is_named() {
    let child = this_program()
        .args(["--exact", "shared::tests::processes::without_files", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8(child.stdout).unwrap();
    let errors: Vec<_> = said.lines().filter_map(|line| line.strip_prefix(MARK)).collect();
    assert_eq!(errors.len(), 2, "{said}");
    assert!(errors.iter().all(|error| error.contains("ulimit -n")), "{errors:?}");
    assert!(!errors[1].contains("namespace"), "{errors:?}");
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn a_process_that_only_maps_the_memory_holds_it() {
    let ours = SharedMemory::new(10_000).unwrap();
    let file = ours.name().file().unwrap();
    let limit = std::time::Duration::from_secs(60);
    // What another test starts has copies of all descriptors until it runs its program.
    let until_held_by = |pids: &[u32]| {
        let began = std::time::Instant::now();
        while nixl_device::Holders::of_file(file, limit).pids() != pids {
            assert!(began.elapsed() < limit, "{pids:?}");
            std::thread::yield_now();
        }
    };
    until_held_by(&[]);
    let mut other = Opener::new(this_program(), &ours.name());
    // It maps the memory again after it has answered, and closes the descriptor each time.
    until_held_by(&[other.0.id()]);
    other.kill();
    until_held_by(&[]);
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn memory_of_another_user_is_not_called_absent() {
    use std::os::unix::process::CommandExt;
    if !is_root("shared::tests::processes::memory_of_another_user_is_not_called_absent") {
        return;
    }
    let ours = SharedMemory::new(100).unwrap();
    let mut unprivileged = this_program();
    unprivileged.uid(65_534).gid(65_534).current_dir("/");
    let said = Opener::new(unprivileged, &ours.name()).1.clone();
    assert!(
        said.starts_with("Unknown(NotAllowed") && said.ends_with("false false false"),
        "{said}"
    );
    // The program is reached by a descriptor: that user may not see its folder.
    let script = "mount -t proc -o hidepid=2 proc /proc && exec 9<$0 && cd / && \
        exec setpriv --reuid 65534 --regid 65534 --clear-groups /proc/self/fd/9 \"$@\"";
    let by = |arguments: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command.args(arguments).arg(std::env::current_exe().unwrap());
        Opener::new(command, &ours.name()).1.clone()
    };
    let hidden = by(&["-m", "sh", "-c", script]);
    assert_eq!(hidden, "Unknown(Hidden) false false false");
    // The `/proc` of this namespace in another: it would show the memory, under a number that means another process.
    assert_eq!(by(&["-fp", "--kill-child"]), "Unknown(NoProc) true true false");
}

//! Processes in separate PID, IPC and network namespaces that meet in a folder.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a skip and a child's answers belong to the output")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::num::NonZeroU64;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nixl_descriptor::{
    ForeignProcess, Presence, Rendezvous, RendezvousError, RendezvousState, SharedMemory,
    SharedName,
};
use nixl_device::MachineIdentity;
use tempfile::TempDir;

/// The child's task, and the begin of its answers.
const TASK: &str = "NIXL_TEST_RENDEZVOUS";
const MARK: &str = "@@";
const CONTAINER: [&str; 6] = ["--pid", "--net", "--ipc", "--fork", "--kill-child", "--mount-proc"];

/// The table of folders and links is one for the process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn namespace() -> NonZeroU64 {
    MachineIdentity::discover().pid_namespace().unwrap()
}

/// Whether namespaces can be made; a skipped test is counted by the caller's `false`.
fn may_unshare(test: &str) -> bool {
    let probe = Command::new("unshare").args(CONTAINER).arg("true").stderr(Stdio::null()).status();
    let may = probe.is_ok_and(|status| status.success());
    if !may {
        let line = format!("SKIPPED(the right to make namespaces): {test}\n");
        print!("{line}");
        if let Some(log) = std::env::var_os("NIXL_TEST_SKIP_LOG") {
            let log = std::fs::OpenOptions::new().create(true).append(true).open(log);
            log.unwrap().write_all(line.as_bytes()).unwrap();
        }
    }
    may
}

/// A folder that this process has entered, and a child in a container of its own that has, too. Field order: the child ends first.
struct Scene {
    child: Contained,
    rendezvous: Arc<Rendezvous>,
    folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    /// With the child's first answer. `None` where no namespaces can be made.
    fn enter(test: &str) -> Option<(Self, String)> {
        if !may_unshare(test) {
            return None;
        }
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let rendezvous = Rendezvous::open(folder.path()).unwrap();
        let mut child = Contained::start(folder.path());
        let said = child.answer();
        Some((Self { child, rendezvous, folder, _alone }, said))
    }
}

/// This program's child in a container of its own, which answers lines.
struct Contained(Child, ChildStdin, BufReader<ChildStdout>);

impl Contained {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new("unshare");
        command.args(CONTAINER).arg(std::env::current_exe().unwrap());
        Self::by(command, folder)
    }

    fn by(mut command: Command, folder: &Path) -> Self {
        let mut child = command
            .args(["child", "--exact", "--ignored", "--nocapture"])
            .env(TASK, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self(child, stdin, BufReader::new(stdout))
    }

    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.2.read_line(&mut line).unwrap(), 0, "the child has ended");
            if let Some((_, answer)) = line.split_once(MARK) {
                return answer.trim().to_owned();
            }
        }
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.1, "{line}").unwrap();
        self.answer()
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text_of(name: &SharedName) -> String {
    let SharedName { pid, fd, name, len } = name;
    format!("{} {pid} {fd} {:032x} {len}", namespace(), u128::from_be_bytes(*name))
}

fn parse(words: &[&str]) -> (Option<ForeignProcess>, SharedName) {
    let number = |index: usize| words[index].parse::<u64>().unwrap();
    let name = u128::from_str_radix(words[3], 16).unwrap().to_be_bytes();
    let (pid, fd) = (number(1) as u32, number(2) as u32);
    let process = ForeignProcess::new(NonZeroU64::new(number(0)), pid);
    (process, SharedName { pid, fd, name, len: number(4) })
}

/// No test, but what a child runs.
#[test]
#[ignore = "run by the other tests, in processes of their own"]
fn child() {
    let Some(folder) = std::env::var_os(TASK) else { return };
    let mut rendezvous = match Rendezvous::open(&folder) {
        Ok(rendezvous) => Some(rendezvous),
        Err(error) => {
            println!("{MARK}{error:?}");
            return;
        }
    };
    let own = SharedMemory::new(100_000).unwrap();
    println!("{MARK}{}", text_of(&own.name()));
    let mut open: Option<SharedMemory> = None;
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<_> = line.split(' ').collect();
        match words[0] {
            "open" => {
                let (process, name) = parse(&words[1..]);
                let noted = name.note_owner(process.unwrap());
                match noted.map(|()| SharedMemory::open(&name)) {
                    Ok(Ok(memory)) => {
                        let seen = memory.word(0).unwrap().fetch_add(1, SeqCst);
                        println!("{MARK}{seen} {}", name.is_there());
                        open = Some(memory);
                    }
                    other => println!("{MARK}{other:?}"),
                }
            }
            "reenter" => {
                rendezvous.take();
                rendezvous = Some(Rendezvous::open(&folder).unwrap());
                println!("{MARK}entered");
            }
            "presence" => println!("{MARK}{:?}", open.as_ref().unwrap().name().presence()),
            other => panic!("{other}"),
        }
    }
    drop(rendezvous);
}

#[test]
fn memory_goes_both_ways_between_namespaces_and_ends_with_its_owner() {
    let test = "memory_goes_both_ways_between_namespaces_and_ends_with_its_owner";
    let Some((scene, said)) = Scene::enter(test) else { return };
    let Scene { _alone, folder, rendezvous, mut child } = scene;
    let (process, theirs) = parse(&said.split(' ').collect::<Vec<_>>());
    let process = process.unwrap();
    assert_eq!(process.rendezvous_state(), RendezvousState::Absent);
    // By its number alone nothing is opened, even though that is another process here.
    assert!(SharedMemory::open(&theirs).is_err() && !theirs.is_there());
    theirs.note_owner(process).unwrap();
    assert_eq!(process.rendezvous_state(), RendezvousState::Connected);
    let memory = SharedMemory::open(&theirs).unwrap();
    memory.word(0).unwrap().store(7, SeqCst);
    assert!(theirs.is_there() && theirs.is_by_rendezvous());
    assert_eq!(theirs.presence(), Presence::Here);

    let ours = SharedMemory::new(50_000).unwrap();
    let kept = ours.name();
    ours.word(0).unwrap().store(41, SeqCst);
    assert!(!kept.is_held_elsewhere());
    assert_eq!(child.ask(&format!("open {}", text_of(&kept))), "41 true");
    assert_eq!(ours.word(0).unwrap().load(SeqCst), 42);
    assert!(kept.is_held_elsewhere());
    assert_eq!(child.ask("presence"), "Here");
    let counts = "connections: 1, files_given: 1, processes_met: 1, files_noted: 1";
    assert!(format!("{rendezvous:?}").contains(counts), "{rendezvous:?}");
    // The random name is what opens it, and its length is checked.
    let other = SharedName { name: [9; 16], ..kept };
    assert!(child.ask(&format!("open {}", text_of(&other))).contains("Gone"));
    let longer = SharedName { len: 1 << 40, ..kept };
    assert!(child.ask(&format!("open {}", text_of(&longer))).contains("MayShrink"));
    drop(ours);
    assert_eq!(child.ask("presence"), "Absent");

    let held = SharedMemory::new(100).unwrap();
    assert_eq!(child.ask(&format!("open {}", text_of(&held.name()))), "0 true");
    let (told, is_told) = std::sync::mpsc::channel();
    let watch = theirs.watch_owner(move || told.send(()).unwrap()).unwrap();
    drop(child);
    is_told.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(watch.process().has_ended() && theirs.presence() == Presence::Absent);
    assert!(!theirs.is_there() && !held.name().is_held_elsewhere());
    // The watch of the folder's own link may be told later.
    until_none_is_met(&rendezvous);
    assert!(theirs.is_by_rendezvous() && theirs.presence() == Presence::Absent);
    assert!(theirs.watch_owner(|| ()).is_err());
    assert_eq!(memory.word(0).unwrap().load(SeqCst), 7, "what is mapped stays");
    drop(rendezvous);
    // The killed child has left its socket, and the next process removes it.
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    let again = Rendezvous::open(folder.path()).unwrap();
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    drop(again);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_process_that_has_left_the_folder_is_neither_there_nor_gone() {
    let test = "a_process_that_has_left_the_folder_is_neither_there_nor_gone";
    let Some((scene, _)) = Scene::enter(test) else { return };
    let Scene { _alone, folder: _folder, rendezvous, mut child } = scene;
    let ours = SharedMemory::new(100).unwrap();
    assert_eq!(child.ask(&format!("open {}", text_of(&ours.name()))), "0 true");
    drop(rendezvous);
    assert_eq!(child.ask("presence"), "Unknown(NotMet)");
}

#[test]
fn a_process_that_enters_the_folder_again_is_met_again() {
    let test = "a_process_that_enters_the_folder_again_is_met_again";
    let Some((scene, said)) = Scene::enter(test) else { return };
    let Scene { _alone, folder: _folder, rendezvous, mut child } = scene;
    let (process, theirs) = parse(&said.split(' ').collect::<Vec<_>>());
    let process = process.unwrap();
    assert!(process.may_be_met());
    theirs.note_owner(process).unwrap();
    SharedMemory::open(&theirs).unwrap();
    assert!(!process.may_be_met() && theirs.is_there());
    assert_eq!(child.ask("reenter"), "entered");
    assert!(!theirs.is_there(), "the connection has ended");
    assert!(process.may_be_met());
    process.meet().unwrap();
    assert_eq!(process.rendezvous_state(), RendezvousState::Connected);
    // The name is that of the process's new connection.
    assert_eq!(theirs.presence(), Presence::Here);
    SharedMemory::open(&theirs).unwrap();
    drop(child);
    until_none_is_met(&rendezvous);
}

/// Waits until the folder's own watches have reported the ends of all processes.
fn until_none_is_met(rendezvous: &Rendezvous) {
    while !format!("{rendezvous:?}").contains("processes_met: 0, files_noted: 0") {
        std::thread::yield_now();
    }
}

#[test]
fn sockets_of_ended_processes_are_replaced_and_those_of_other_hosts_stay() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let boot = MachineIdentity::discover().boot_id().unwrap()[..8].to_owned();
    let own = format!("{boot}-{:x}-{}", namespace(), std::process::id());
    for name in [own.clone(), format!("{boot}-1-1"), "deadbeef-1-1".to_owned()] {
        drop(UnixListener::bind(path.join(name)).unwrap());
    }
    std::fs::write(path.join("file"), "").unwrap();
    let rendezvous = Rendezvous::open(path).unwrap();
    let same = Rendezvous::open(path.join(".")).unwrap();
    assert!(Arc::ptr_eq(&rendezvous, &same));
    let names = || {
        let mut names: Vec<_> = path.read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let mut expected = [&own[..], "deadbeef-1-1", "file"].map(std::ffi::OsString::from);
    expected.sort();
    assert_eq!(names(), expected);
    let absent = ForeignProcess::new(NonZeroU64::new(1), 1).unwrap();
    let error = absent.meet().unwrap_err();
    assert_eq!(
        (error, absent.rendezvous_state()),
        (RendezvousError::NotThere, RendezvousState::Absent)
    );
    drop((rendezvous, same));
    assert_eq!(names(), ["deadbeef-1-1", "file"]);
    assert_eq!(absent.rendezvous_state(), RendezvousState::NoFolder);
    // A socket that another process answers on is not taken from it.
    let path = folder.path().join(&own);
    let other = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        None,
    )
    .unwrap();
    rustix::net::bind(&other, &rustix::net::SocketAddrUnix::new(&*path).unwrap()).unwrap();
    rustix::net::listen(&other, 1).unwrap();
    let error = Rendezvous::open(folder.path()).unwrap_err();
    assert!(matches!(error, RendezvousError::InUse { .. }), "{error}");
}

#[test]
fn folders_that_cannot_be_used_are_errors_that_say_so() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| Rendezvous::open(path).unwrap_err();
    let missing = open(&folder.path().join("missing"));
    assert!(matches!(missing, RendezvousError::NoFolder { .. }), "{missing}");
    std::fs::write(folder.path().join("file"), "").unwrap();
    let file = open(&folder.path().join("file"));
    assert!(matches!(file, RendezvousError::NoFolder { .. }), "{file}");
    let long = folder.path().join("l".repeat(90));
    std::fs::create_dir(&long).unwrap();
    let long = open(&long);
    assert!(matches!(long, RendezvousError::TooLong { most: 107, .. }), "{long}");
    if !rustix::process::geteuid().is_root() || !may_unshare("folders of other users") {
        return;
    }
    let foreign = folder.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::os::unix::fs::chown(&foreign, Some(65_534), None).unwrap();
    let foreign = open(&foreign);
    assert!(matches!(foreign, RendezvousError::ForeignFolder { owner: 65_534, user: 0, .. }));
    // Another user: root's folder that it may not write.
    let shut = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(shut.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let script = "exec 9<$0 && cd / && exec setpriv --reuid 65534 --regid 65534 --clear-groups \
        /proc/self/fd/9 \"$@\"";
    let mut unprivileged = Command::new("sh");
    unprivileged.args(["-c", script]).arg(std::env::current_exe().unwrap());
    let said = Contained::by(unprivileged, shut.path()).answer();
    assert!(said.starts_with("NotWritable"), "{said}");
    // A file system without room for another entry.
    let full = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o nr_inodes=1 none \"$1\" && shift && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(std::env::current_exe().unwrap());
    command.arg(full.path());
    let said = Contained::by(command, full.path()).answer();
    assert!(said.starts_with("Full"), "{said}");
}

#[test]
fn another_user_gets_nothing() {
    if !rustix::process::geteuid().is_root() || !may_unshare("another_user_gets_nothing") {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    let rendezvous = Rendezvous::open(folder.path()).unwrap();
    for socket in folder.path().read_dir().unwrap() {
        let path = socket.unwrap().path();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .unwrap();
    }
    let script = "exec 9<$0 && cd / && exec setpriv --reuid 65534 --regid 65534 --clear-groups \
        /proc/self/fd/9 \"$@\"";
    let mut command = Command::new("unshare");
    command.args(CONTAINER).args(["sh", "-c", script]).arg(std::env::current_exe().unwrap());
    let mut child = Contained::by(command, folder.path());
    let said = child.answer();
    let ours = SharedMemory::new(100).unwrap();
    let said_of_ours = child.ask(&format!("open {}", text_of(&ours.name())));
    assert!(said_of_ours.contains("OtherUser { theirs: 0, ours: 65534 }"), "{said_of_ours}");
    let (process, theirs) = parse(&said.split(' ').collect::<Vec<_>>());
    let error = theirs.note_owner(process.unwrap()).unwrap_err();
    assert_eq!(error, RendezvousError::OtherUser { theirs: 65_534, ours: 0 });
    assert!(!ours.name().is_held_elsewhere());
    drop(rendezvous);
}

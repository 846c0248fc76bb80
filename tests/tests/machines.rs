//! Machines that refuse what others give: two processes get on there, or one true sentence says what is wrong.
//!
//! Most need root, to make the machine so for their processes alone. Where that cannot be done, the test says that it was skipped.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nixl_connector::nixl::NixlLibrary;
use nixl_descriptor::Region;
use nixl_tests::{
    By, Peer, PeerError, Refused, alone, crc32, handlers_of_signals, install_handlers, pattern,
    refuse, refusing, skip, within, without_standard_streams,
};

const PEER: &str = env!("CARGO_BIN_EXE_peer");
/// The user and group `nobody` of Unix, without rights.
const NOBODY_UID: &str = "65534";

/// Namespaces in which the machine is another, held open by a process.
struct Machine(Child);

impl Machine {
    /// New namespaces (arguments of `unshare`) with a shell's commands run in them. `None` where that is not permitted.
    fn new(namespaces: &[&str], setup: &str) -> Option<Self> {
        let script = format!("set -e; {setup}\necho made; read -r never");
        let mut child = Command::new("unshare")
            .args(namespaces)
            .args(["bash", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut said = String::new();
        let made = BufReader::new(child.stdout.take()?).read_line(&mut said).is_ok();
        let machine = Self(child);
        (made && said.trim() == "made").then_some(machine)
    }

    /// Runs a program there; its arguments follow.
    fn enter(&self, namespaces: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.0.id().to_string()]).args(namespaces).arg(PEER);
        command
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program before the peer's: `prlimit`, for instance.
fn by(program: &[&str]) -> Command {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).arg(PEER);
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a program can be run: it is installed, and the system permits what it does.
fn works(program: &[&str]) -> bool {
    Command::new(program[0])
        .args(&program[1..])
        .arg("true")
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}

fn start(command: &mut Command) -> Result<Peer, String> {
    let mut peer = Peer::spawn_by(command).unwrap();
    match peer.answer("start") {
        Ok(_) => Ok(peer),
        Err(PeerError::Refused(said)) => {
            let status = peer.wait().unwrap();
            assert!(status.success(), "it ended by itself, not by a signal: {status}");
            Err(said)
        }
        Err(error) => panic!("{error}"),
    }
}

/// Both move bytes, both ways, by one copy and by several.
fn get_on(one: &mut Peer, other: &mut Peer) {
    for (number, len) in [9, 4096, 1 << 20].into_iter().enumerate() {
        let seed = number as u64;
        let offer = one.offer("readable", len, seed).unwrap();
        let read = other.ask(&format!("read {}", offer.json)).unwrap();
        let expected = crc32(&pattern(seed, len));
        assert_eq!(other.ask(&format!("wait {read}")).unwrap(), expected, "read of {len} bytes");
        one.ask(&format!("wait {}", offer.id)).unwrap();

        let offer = one.offer("writable", len, seed).unwrap();
        let write = other.ask(&format!("write {} {}", seed + 100, offer.json)).unwrap();
        other.ask(&format!("wait {write}")).unwrap();
        let expected = crc32(&pattern(seed + 100, len));
        assert_eq!(
            one.ask(&format!("wait {}", offer.id)).unwrap(),
            expected,
            "write of {len} bytes"
        );
    }
}

#[test]
fn more_interfaces_than_ucx_takes() {
    const NAME: &str = "more_interfaces_than_ucx_takes";
    const SPACES: [&str; 2] = ["--net", "--mount"];
    // sysfs shows the interfaces of the namespace that it was mounted in.
    let setup = "mount -t sysfs sysfs /sys
        ip link set lo up
        for i in $(seq 1 110); do
            echo link add v$i type veth peer name w$i
            echo address add 10.1.$i.1/24 dev v$i
            echo address add 10.2.$i.1/24 dev w$i
            echo link set v$i up
            echo link set w$i up
        done | ip -batch -";
    let Some(machine) = Machine::new(&SPACES, setup) else {
        return skip("permission to make network interfaces", NAME);
    };
    let mut one = start(&mut machine.enter(&SPACES)).unwrap();
    let mut other = start(&mut machine.enter(&SPACES)).unwrap();
    let settings = one.ask("settings").unwrap();
    assert!(
        settings.contains("UCX_NET_DEVICES=lo,v1,") || settings.contains("UCX_NET_DEVICES=lo,w1,"),
        "{settings}"
    );
    assert!(settings.contains("(chosen here)"), "{settings}");
    get_on(&mut one, &mut other);
}

/// A process of which UCX's port can be reached by two networks, and that admits one or both.
#[test]
fn networks_that_are_not_admitted() {
    const NAME: &str = "networks_that_are_not_admitted";
    const SPACES: [&str; 2] = ["--net", "--mount"];
    // sysfs shows the interfaces of the namespace that it was mounted in.
    let machine = || Machine::new(&SPACES, "mount -t sysfs sysfs /sys; ip link set lo up");
    let (Some(here), Some(there)) = (machine(), machine()) else {
        return skip("permission to make a network", NAME);
    };
    let script = format!(
        "set -e
        in_one() {{ nsenter --target {one} --net ip \"$@\"; }}
        in_other() {{ nsenter --target {other} --net ip \"$@\"; }}
        for net in 77 78; do
            in_one link add here$net type veth peer name there$net netns {other}
            in_one address add 10.$net.0.1/24 dev here$net
            in_other address add 10.$net.0.2/24 dev there$net
            in_one link set here$net up
            in_other link set there$net up
        done",
        one = here.0.id(),
        other = there.0.id()
    );
    let made = Command::new("bash").args(["-c", &script]).status();
    if !made.is_ok_and(|status| status.success()) {
        return skip("permission to make network interfaces", NAME);
    }
    let connects = |peer: &Peer, address: [u8; 4]| {
        let pid = peer.pid().unwrap().as_raw_nonzero();
        let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
        let local = format!(" {:08X}:", u32::from_le_bytes(address));
        let line =
            table.lines().find(|line| line.contains(&local) && line.contains(" 0A ")).unwrap();
        let port = line.split_once(&local).unwrap().1.split(' ').next().unwrap();
        let port = u16::from_str_radix(port, 16).unwrap();
        let [a, b, c, d] = address;
        let connect = format!("exec 3<>/dev/tcp/{a}.{b}.{c}.{d}/{port}");
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &there.0.id().to_string(),
            "--net",
            "timeout",
            "2",
            "bash",
            "-c",
            &connect,
        ]);
        command.stderr(Stdio::null()).status().unwrap().success()
    };
    let by_tcp = |machine: &Machine, admitted: Option<&str>| {
        let mut command = machine.enter(&SPACES);
        command
            .env("UCX_TLS", "tcp,self")
            .envs(admitted.map(|network| ("NIXL_TEST_ADMIT", network)));
        start(&mut command).unwrap()
    };
    let open = by_tcp(&here, None);
    assert!(connects(&open, [10, 77, 0, 1]) && connects(&open, [10, 78, 0, 1]));
    drop(open);
    let mut one = by_tcp(&here, Some("10.77.0.0/24"));
    assert!(connects(&one, [10, 77, 0, 1]) && !connects(&one, [10, 78, 0, 1]));
    assert!(one.ask("settings").unwrap().contains("admit_networks=10.77.0.0/24 (option)"));
    drop(one);
    let (mut one, mut other) =
        (by_tcp(&here, Some("10.76.0.0/14")), by_tcp(&there, Some("10.76.0.0/14")));
    get_on(&mut one, &mut other);
}

#[test]
fn a_home_that_may_not_be_entered() {
    const NAME: &str = "a_home_that_may_not_be_entered";
    let user = ["setpriv", "--reuid", NOBODY_UID, "--regid", NOBODY_UID, "--clear-groups"];
    // The user must be able to run the peer, at least.
    if !is_root() || !works(&[&user[..], &["sh", "-c", "test -x \"$0\"", PEER]].concat()) {
        return skip("root, and a target folder that others may enter", NAME);
    }
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let said = start(by(&user).env("HOME", home.path())).unwrap_err();
    assert!(said.contains("Nixl(Configuration"), "{said}");
    assert!(said.contains(&*home.path().to_string_lossy()), "{said}");
    // What it says to do helps.
    let mut command = by(&user);
    command.env("HOME", home.path()).env("NIXL_CONFIG_FILE", "/dev/null");
    let mut one = start(&mut command).unwrap();
    let mut other = start(&mut Command::new(PEER)).unwrap();
    get_on(&mut one, &mut other);
    get_on(&mut other, &mut one);
}

#[test]
fn few_files() {
    let limit = |most: &str| ["prlimit".to_owned(), format!("--nofile={most}:{most}")];
    if !works(&limit("64").each_ref().map(String::as_str)) {
        return skip("prlimit", "few_files");
    }
    let with = |most: &str| by(&limit(most).each_ref().map(String::as_str));
    let mut one = start(&mut with("64")).unwrap();
    let mut other = start(&mut with("64")).unwrap();
    get_on(&mut one, &mut other);
    for most in ["24", "28", "32", "36", "40", "44", "48"] {
        match start(&mut with(most)) {
            Err(said) => assert!(said.contains("Nixl(Files {"), "{most}: {said}"),
            Ok(mut peer) => get_on(&mut peer, &mut other),
        }
    }
    let said = start(&mut with("24")).unwrap_err();
    assert!(said.contains("limit: 24"), "{said}");
}

/// UCX aborts where it is refused a thread, and NIXL crashes.
#[test]
fn few_threads() {
    let user =
        ["setpriv", "--reuid", NOBODY_UID, "--regid", NOBODY_UID, "--clear-groups", "prlimit"];
    if !is_root()
        || !works(&[&user[..], &["--nproc=64:64", "sh", "-c", "test -x \"$0\"", PEER]].concat())
    {
        return skip("root, and a target folder that others may enter", "few_threads");
    }
    let mut refused = 0;
    let mut other = start(Command::new(PEER).env("HOME", "/")).unwrap();
    let export = other.ask("export 7").unwrap();
    for most in 1..24 {
        let limit = format!("--nproc={most}:{most}");
        match start(by(&[&user[..], &[&limit]].concat()).env("HOME", "/")) {
            Ok(mut peer) => {
                get_on(&mut peer, &mut other);
                // Its thread starts at the first use, and may be one too many: what needs none goes on.
                if let Err(error) = peer.ask(&format!("import {export}")) {
                    assert!(error.to_string().contains("error Thread {"), "{error}");
                }
                get_on(&mut other, &mut peer);
            }
            Err(said) => refused += usize::from(said.contains("Nixl(Threads {")),
        }
    }
    assert!(refused > 0, "no limit was met");
}

/// NIXL and UCX start on a thread of this project, which must not have such a stack.
#[test]
fn stacks_of_threads_that_are_too_small_or_too_large() {
    let with = |bytes: &str| start(Command::new(PEER).env("RUST_MIN_STACK", bytes)).unwrap();
    let mut other = with("2097152");
    for bytes in ["1", "16384", "1099511627776"] {
        let mut peer = with(bytes);
        get_on(&mut peer, &mut other);
        get_on(&mut other, &mut peer);
    }
}

#[test]
fn files_of_one_page() {
    let limit = ["prlimit", "--fsize=4096:4096"];
    if !works(&limit) {
        return skip("prlimit", "files_of_one_page");
    }
    let said = start(&mut by(&limit)).unwrap_err();
    assert!(said.contains("Nixl(FileSize { limit: 4096"), "{said}");
    let mut one = start(by(&limit).env("UCX_TLS", "tcp,self")).unwrap();
    let mut other = start(Command::new(PEER).env("UCX_TLS", "tcp,self")).unwrap();
    get_on(&mut one, &mut other);
}

#[test]
fn a_log_of_ucx_that_cannot_be_written() {
    let said = start(Command::new(PEER).env("UCX_LOG_FILE", "/")).unwrap_err();
    assert!(said.contains("Nixl(Setting {") && said.contains("UCX_LOG_FILE"), "{said}");
}

#[test]
fn a_network_without_an_interface_that_is_up() {
    const NAME: &str = "a_network_without_an_interface_that_is_up";
    let Some(machine) = Machine::new(&["--net"], "true") else {
        return skip("permission to make a network", NAME);
    };
    let said = start(&mut machine.enter(&["--net"])).unwrap_err();
    assert!(said.contains("no network interface is up"), "{said}");
}

#[test]
fn little_locked_memory() {
    let limit = ["setpriv", "--bounding-set=-ipc_lock", "prlimit", "--memlock=65536:65536"];
    if !works(&limit) {
        return skip("root", "little_locked_memory");
    }
    let mut one = start(&mut by(&limit)).unwrap();
    let mut other = start(&mut by(&limit)).unwrap();
    get_on(&mut one, &mut other);
}

#[test]
fn shared_memory_of_one_page() {
    let setup = "mount -t tmpfs -o size=4k tmpfs /dev/shm";
    let Some(machine) = Machine::new(&["--mount"], setup) else {
        return skip("permission to mount", "shared_memory_of_one_page");
    };
    let mut one = start(&mut machine.enter(&["--mount"])).unwrap();
    let mut other = start(&mut machine.enter(&["--mount"])).unwrap();
    get_on(&mut one, &mut other);
}

#[test]
fn a_proc_that_cannot_be_written() {
    let setup = "mount --bind /proc /proc; mount -o remount,bind,ro /proc";
    let Some(machine) = Machine::new(&["--mount"], setup) else {
        return skip("permission to mount", "a_proc_that_cannot_be_written");
    };
    let mut one = start(&mut machine.enter(&["--mount"])).unwrap();
    let mut other = start(&mut machine.enter(&["--mount"])).unwrap();
    get_on(&mut one, &mut other);
}

#[test]
fn no_proc_at_all() {
    let Some(machine) = Machine::new(&["--mount"], "umount --lazy /proc") else {
        return skip("permission to mount", "no_proc_at_all");
    };
    match start(&mut machine.enter(&["--mount"])) {
        Ok(mut peer) => get_on(&mut peer, &mut start(&mut Command::new(PEER)).unwrap()),
        Err(said) => assert!(said.contains("/proc, which is not mounted"), "{said}"),
    }
}

/// Whether the kernel has filters of system calls for this process.
fn has_filters(name: &str) -> bool {
    let has = refusing(&mut Command::new("true"), &[], libc::EPERM).status().is_ok();
    if !has {
        skip("filters of system calls", name);
    }
    has
}

const REFUSALS: [i32; 2] = [libc::EPERM, libc::ENOSYS];

/// Processes to which these calls are refused get on with each other, and with one that has them.
fn get_on_without(name: &str, calls: &[Refused]) {
    if !has_filters(name) {
        return;
    }
    let mut free = start(&mut Command::new(PEER)).unwrap();
    for errno in REFUSALS {
        let refused = || start(refusing(&mut Command::new(PEER), calls, errno)).unwrap();
        let (mut one, mut other) = (refused(), refused());
        get_on(&mut one, &mut other);
        get_on(&mut one, &mut free);
        get_on(&mut free, &mut one);
    }
}

#[test]
fn a_kernel_that_refuses_cma() {
    const NAME: &str = "a_kernel_that_refuses_cma";
    let read = Refused::call(libc::SYS_process_vm_readv);
    let write = Refused::call(libc::SYS_process_vm_writev);
    for calls in [&[read][..], &[write], &[read, write]] {
        get_on_without(NAME, calls);
    }
}

#[test]
fn a_kernel_that_refuses_system_vs_memory() {
    for call in [libc::SYS_shmget, libc::SYS_shmat] {
        get_on_without("a_kernel_that_refuses_system_vs_memory", &[Refused::call(call)]);
    }
}

#[test]
fn a_kernel_that_tells_no_limits() {
    get_on_without("a_kernel_that_tells_no_limits", &[Refused::call(libc::SYS_prlimit64)]);
}

/// Shared memory and grants have names and tokens.
#[test]
fn a_kernel_that_refuses_random_numbers() {
    if !has_filters("a_kernel_that_refuses_random_numbers") {
        return;
    }
    let mut free = start(&mut Command::new(PEER)).unwrap();
    for errno in REFUSALS {
        let calls = [Refused::call(libc::SYS_getrandom)];
        let mut one = start(refusing(&mut Command::new(PEER), &calls, errno)).unwrap();
        one.ask("memory shared").unwrap();
        get_on(&mut one, &mut free);
        one.ask("export 1").unwrap();
        one.ask("grant 0").unwrap();
    }
}

#[test]
fn a_kernel_that_refuses_netlink() {
    if !has_filters("a_kernel_that_refuses_netlink") {
        return;
    }
    let netlink = Refused::with(libc::SYS_socket, libc::AF_NETLINK.unsigned_abs());
    for errno in REFUSALS {
        let said = start(refusing(&mut Command::new(PEER), &[netlink], errno)).unwrap_err();
        assert!(said.contains("refuses to list network interfaces"), "{said}");
    }
}

/// The peer's own runtime needs these calls, so the connector is this process's.
#[test]
fn a_kernel_that_refuses_to_add_to_an_epoll_set() {
    refuses_to_start(
        "a_kernel_that_refuses_to_add_to_an_epoll_set",
        libc::SYS_epoll_ctl,
        "epoll_ctl",
    );
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_kernel_that_refuses_to_wait_for_an_epoll_set() {
    refuses_to_start(
        "a_kernel_that_refuses_to_wait_for_an_epoll_set",
        libc::SYS_epoll_wait,
        "epoll_wait",
    );
}

fn refuses_to_start(name: &str, call: i64, told: &str) {
    if !has_filters(name) {
        return;
    }
    alone(name, &[], || {
        refuse(&[Refused::call(call)], libc::EPERM).unwrap();
        let built = within(Duration::from_secs(60), By::Engine.builder().build());
        let said = built.unwrap_err().to_string();
        assert!(said.contains(told), "{said}");
    });
}

#[test]
fn shared_memory_that_cannot_be_written() {
    for options in ["ro", "nr_inodes=1"] {
        let setup = format!("mount -t tmpfs -o {options} tmpfs /dev/shm");
        let Some(machine) = Machine::new(&["--mount"], &setup) else {
            return skip("permission to mount", "shared_memory_that_cannot_be_written");
        };
        let mut one = start(&mut machine.enter(&["--mount"])).unwrap();
        let mut other = start(&mut machine.enter(&["--mount"])).unwrap();
        get_on(&mut one, &mut other);
        let settings = one.ask("settings").unwrap();
        assert!(settings.contains("UCX_TLS=^posix (chosen here)"), "{settings}");
    }
}

#[test]
fn a_proc_of_processes_alone() {
    let Some(machine) = Machine::new(&["--mount"], "mount -t proc -o subset=pid proc /proc") else {
        return skip("permission to mount", "a_proc_of_processes_alone");
    };
    let said = start(&mut machine.enter(&["--mount"])).unwrap_err();
    assert!(said.contains("somaxconn") && said.contains("subset=pid"), "{said}");
}

/// The size of a page is in what the kernel gave the program at its start.
#[test]
fn a_kernel_that_tells_the_auxiliary_vector_nowhere() {
    const NAME: &str = "a_kernel_that_tells_the_auxiliary_vector_nowhere";
    const PR_GET_AUXV: u32 = 0x4155_5856;
    let Some(machine) =
        Machine::new(&["--mount"], "umount --lazy /proc").filter(|_| has_filters(NAME))
    else {
        return skip("permission to mount", NAME);
    };
    let calls = [Refused::with(libc::SYS_prctl, PR_GET_AUXV)];
    let said = start(refusing(&mut machine.enter(&["--mount"]), &calls, libc::EINVAL)).unwrap_err();
    assert!(said.contains("/proc, which is not mounted"), "{said}");
}

/// UCX's module for EFA would load these beside NIXL's own netlink libraries, and the process crash at its exit.
#[test]
fn the_systems_rdma_libraries() {
    let folders = ["/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    if !folders.iter().any(|folder| Path::new(folder).join("libefa.so.1").exists()) {
        return skip("the system's rdma-core", "the_systems_rdma_libraries");
    }
    let mut peer = start(&mut Command::new(PEER)).unwrap();
    let status = peer.wait().unwrap();
    assert!(status.success(), "{status}");
}

/// A line that this process prints would go where the engine's bytes are.
#[test]
fn closed_standard_streams() {
    alone("closed_standard_streams", &[], || {
        let links = without_standard_streams(|| {
            let limit = Duration::from_secs(60);
            let build = || within(limit, By::Engine.builder().build()).unwrap();
            let (one, other) = (build(), build());
            within(limit, async {
                let offer = one.create_readable(Region::try_from(pattern(1, 9000)).unwrap()).await;
                let (offer, local) = (offer.unwrap(), Region::zeroed(9000).unwrap());
                let mut read = other.begin_read(offer.metadata(), local.clone()).await.unwrap();
                read.wait_for_completion().await.unwrap();
                assert!(local.to_vec().unwrap() == pattern(1, 9000));
            });
            [0, 1, 2].map(|number| fs::read_link(format!("/proc/self/fd/{number}")).ok())
        });
        assert!(
            links.iter().all(|link| link.as_deref() == Some(Path::new("/dev/null"))),
            "{links:?}"
        );
    });
}

#[test]
fn handlers_of_signals_of_the_application() {
    alone("handlers_of_signals_of_the_application", &[], || {
        let installed = install_handlers();
        let limit = Duration::from_secs(60);
        let _connector = within(limit, By::Engine.builder().build()).unwrap();
        assert_eq!(handlers_of_signals(), installed);
    });
}

#[test]
fn settings_of_ucx_that_would_end_the_process() {
    for (name, value) in [
        ("UCX_LOG_FILE_SIZE", "100"),
        ("UCX_LOG_FILE_ROTATE", "3000000000"),
        ("UCX_NET_DEVICES", "eth[0-99]"),
        ("UCX_TOPO_PRIO", "none"),
        ("UCX_NUM_PPN", "0"),
        ("UCX_POSIX_FIFO_ELEM_SIZE", "-1"),
        ("UCX_MEM_BISTRO_GRACE_DURATION", "inf"),
    ] {
        let said = start(Command::new(PEER).env(name, value)).unwrap_err();
        assert!(said.contains("Nixl(Setting {") && said.contains(name), "{said}");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ucx.conf"), format!("{name}={value}\n")).unwrap();
        for here in [false, true] {
            let mut command = Command::new(PEER);
            match here {
                true => command.current_dir(folder.path()),
                false => command.env("UCX_CONFIG_DIR", folder.path()),
            };
            let said = start(&mut command).unwrap_err();
            assert!(said.contains("Nixl(Setting {") && said.contains("ucx.conf"), "{said}");
        }
    }
}

/// A choice for the machine does not displace what its operator has written.
#[test]
fn settings_of_a_file_are_told_and_stay() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ucx.conf"), "UCX_TLS=tcp,self\nUCX_RCACHE_ENABLE=try\n").unwrap();
    let mut one = start(Command::new(PEER).env("UCX_CONFIG_DIR", folder.path())).unwrap();
    let settings = one.ask("settings").unwrap();
    for told in ["UCX_TLS=tcp,self (file)", "UCX_RCACHE_ENABLE=try (file)"] {
        assert!(settings.contains(told), "{settings}");
    }
    get_on(&mut one, &mut start(&mut Command::new(PEER)).unwrap());
}

#[test]
fn settings_of_the_systems_file_of_ucx() {
    const NAME: &str = "settings_of_the_systems_file_of_ucx";
    let copy = tempfile::tempdir().unwrap();
    let at = copy.path().display();
    let setup = format!(
        "mount -t tmpfs tmpfs {at}; cp -a /etc/. {at}; mkdir -p {at}/ucx; mount --bind {at} /etc
        echo UCX_LOG_FILE_SIZE=100 > /etc/ucx/ucx.conf"
    );
    let Some(machine) = Machine::new(&["--mount"], &setup) else {
        return skip("permission to mount", NAME);
    };
    let said = start(&mut machine.enter(&["--mount"])).unwrap_err();
    assert!(said.contains("Nixl(Setting {") && said.contains("/etc/ucx/ucx.conf"), "{said}");
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("ucx.conf"), "UCX_LOG_FILE_SIZE=1M\n").unwrap();
    start(machine.enter(&["--mount"]).env("HOME", home.path())).unwrap();
}

#[test]
fn settings_of_the_file_beside_ucxs_library() {
    const NAME: &str = "settings_of_the_file_beside_ucxs_library";
    let nixl = NixlLibrary::open().unwrap().path().parent().unwrap();
    let libraries = nixl.join("../nixl_cu12.libs");
    if !libraries.is_dir() {
        return skip("NIXL as its wheel installs it", NAME);
    }
    let prefix = tempfile::tempdir().unwrap();
    link_files(nixl, &prefix.path().join(nixl.file_name().unwrap()));
    link_files(&libraries, &prefix.path().join("nixl_cu12.libs"));
    let with_prefix = || {
        let mut command = Command::new(PEER);
        command.env("NIXL_PREFIX", prefix.path());
        start(&mut command)
    };
    let settings = prefix.path().join("etc/ucx");
    fs::create_dir_all(&settings).unwrap();
    fs::write(settings.join("ucx.conf"), "UCX_LOG_FILE_SIZE=100\n").unwrap();
    let said = with_prefix().unwrap_err();
    assert!(said.contains("Nixl(Setting {") && said.contains("etc/ucx/ucx.conf"), "{said}");
    fs::write(settings.join("ucx.conf"), "UCX_LOG_FILE_SIZE=1M\n").unwrap();
    with_prefix().unwrap();
}

/// The folder with a link for each of its files.
fn link_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let at = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => link_files(&entry.path(), &at),
            false => std::os::unix::fs::symlink(entry.path(), at).unwrap(),
        }
    }
}

#[test]
fn variables_of_nixl_that_it_cannot_read() {
    let said = start(Command::new(PEER).env("NIXL_TELEMETRY_ENABLE", "nonsense")).unwrap_err();
    assert!(said.contains("NIXL_TELEMETRY_ENABLE=nonsense"), "{said}");
    let said = start(Command::new(PEER).env("NIXL_UCX_SGL_ENABLE", "zzz")).unwrap_err();
    assert!(said.contains("Nixl(Engine {") && said.contains("NIXL_UCX_SGL_ENABLE=zzz"), "{said}");
}

#[test]
fn devices_and_transports_that_are_not_there() {
    for name in ["UCX_NET_DEVICES", "UCX_TLS"] {
        for value in ["nonesuch", "\x01\x1b[31m", &"x".repeat(100_000)] {
            let said = start(Command::new(PEER).env(name, value)).unwrap_err();
            assert!(said.contains("Nixl(Engine {") && said.contains(&format!("{name}=")), "{said}");
        }
    }
}

/// What a parent leaves to a program: masks and dispositions of signals, its folder, limits that matter to others.
#[test]
fn odd_inheritances() {
    let shell = |script: &'static str| ["sh", "-c", script].as_slice().to_vec();
    for (what, program) in [
        ("permissions", shell("umask 0777; exec \"$0\"")),
        ("a folder that is gone", shell("d=$(mktemp -d); cd $d; rmdir $d; exec \"$0\"")),
        ("ignored signals", shell("trap '' CHLD PIPE HUP USR1 USR2 ALRM IO; exec \"$0\"")),
        ("blocked signals", vec!["env", "--block-signal", "--ignore-signal=CHLD"]),
        ("no signals in queues", vec!["prlimit", "--sigpending=0", "--msgqueue=0"]),
        ("an unlimited stack", vec!["prlimit", "--stack=unlimited"]),
    ] {
        if program[0] != "sh" && !works(&program) {
            skip(&program.join(" "), "odd_inheritances");
            continue;
        }
        let mut one = start(&mut by(&program)).unwrap();
        let mut other = start(&mut Command::new(PEER)).unwrap();
        get_on(&mut one, &mut other);
        get_on(&mut other, &mut one);
        assert!(one.wait().unwrap().success(), "{what}");
    }
}

/// Variables that are set, for some reason, to what is no text, no number and no path.
#[test]
fn odd_variables() {
    let names =
        ["HOME", "TMPDIR", "LANG", "TZ", "NIXL_LOG_LEVEL", "UCX_LOG_LEVEL", "UCX_MODULES", "PATH"];
    let values = [&b""[..], b"\xff\xfe", b"-9223372036854775809", b"\x01\n\x1b[31m;#"];
    for value in values {
        let mut command = Command::new(PEER);
        command.envs(names.map(|name| (name, OsStr::from_bytes(value))));
        let mut one = start(&mut command).unwrap();
        let mut other = start(&mut Command::new(PEER)).unwrap();
        get_on(&mut one, &mut other);
        assert!(one.wait().unwrap().success(), "{value:?}");
    }
    let home = OsStr::from_bytes(&[b'x'; 100_000]);
    let said = start(Command::new(PEER).env("HOME", home)).unwrap_err();
    assert!(said.contains("Nixl(Configuration"), "{said}");
}

#[test]
fn a_network_without_its_sysfs() {
    const NAME: &str = "a_network_without_its_sysfs";
    const SPACES: [&str; 2] = ["--net", "--mount"];
    let Some(machine) = Machine::new(&SPACES, "ip link set lo up; umount --lazy /sys") else {
        return skip("permission to make a network and to mount", NAME);
    };
    let said = start(&mut machine.enter(&SPACES)).unwrap_err();
    assert!(said.contains("/sys/class/net, which is missing"), "{said}");
}

/// UCX and NIXL end the process where they are refused memory, and at some limits by chance.
#[test]
fn little_memory() {
    if !works(&["prlimit", "--as=1000000000"]) {
        return skip("prlimit", "little_memory");
    }
    let mut refused = 0;
    for limit in (400..=1_000).step_by(100).map(|most| format!("--as={}", most << 20)) {
        refused += usize::from(refuses_memory(&limit));
    }
    assert!(refused > 0, "no limit on address space was met");
    let refused = (20..=140).step_by(20).map(|most| format!("--data={}", most << 20));
    assert!(refused.filter(|limit| refuses_memory(limit)).count() > 0, "none on data was met");
}

/// Whether a process with this limit is refused a connector for want of memory. Others may have one, or threads are short.
fn refuses_memory(limit: &str) -> bool {
    match start(&mut by(&["prlimit", limit])) {
        Ok(_) => false,
        Err(said) => said.contains("Nixl(Memory {"),
    }
}

/// Whether a peer is there cannot be known from then on, so its offers do not end for that. UCX itself may fail without `/proc`.
#[test]
fn a_proc_that_is_lost_later() {
    let Some(machine) = Machine::new(&["--mount"], "true") else {
        return skip("permission to mount", "a_proc_that_is_lost_later");
    };
    let native = || {
        let mut command = machine.enter(&["--mount"]);
        let mut peer = start(command.env("UCX_TLS", "tcp,self")).unwrap();
        peer.ask("profile native").unwrap();
        peer
    };
    let (mut one, mut other) = (native(), native());
    get_on(&mut one, &mut other);
    let mut unmount = Command::new("nsenter");
    unmount.args(["--target", &machine.0.id().to_string(), "--mount"]);
    assert!(unmount.args(["umount", "--lazy", "/proc"]).status().unwrap().success());
    let offer = one.offer("readable", 9, 1).unwrap();
    let read = other.ask(&format!("read {}", offer.json));
    let read = read.and_then(|read| other.ask(&format!("wait {read}")));
    assert!(!read.is_err_and(|error| error.to_string().contains("OwnerGone")));
}

//! Two processes in separate PID, IPC and network namespaces, as containers of one host are: host memory, and GPU memory that is opened
//! piece by piece, through a rendezvous folder. Where the networks are separate a pair of virtual interfaces joins them: the engine has
//! to reach a peer before any path is taken. The GPUs are simulated.
#![allow(clippy::unwrap_used, reason = "a test says so, by failing too")]
#![allow(clippy::print_stdout, reason = "the child answers on its output")]
#![allow(unsafe_code, reason = "looks into memory that stands for a GPU's")]

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::AllocationKind;
use nixl_executor::paths::LocalFacts;
use nixl_executor::{
    Connector, GpuBackend, GpuCapabilities, PathExecutor, PathKind, RdmaMetadata, Region,
    SimulatedGpus,
};
use nixl_tests::{Peer, eventually, metadata, native_line, skip, within};

const FOLDER: &str = "NIXL_TEST_RENDEZVOUS";
const APART: &str = "NIXL_TEST_APART";
const CONTAINER: [&str; 5] = ["--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"];
const LIMIT: Duration = Duration::from_secs(120);

fn may_unshare() -> bool {
    let probe = Command::new("unshare").args(CONTAINER).arg("true").stderr(Stdio::null()).status();
    probe.is_ok_and(|status| status.success())
}

/// The child of this test, in a container of its own.
fn contained(folder: &Path) -> Peer {
    let mut command = Command::new("unshare");
    command.args(CONTAINER).arg(env::current_exe().unwrap());
    command.args(["child", "--exact", "--ignored", "--nocapture"]).env(FOLDER, folder);
    let mut peer = Peer::spawn_by(&mut command).unwrap();
    peer.answer("start").unwrap();
    peer
}

/// One simulated GPU.
fn gpus() -> Arc<SimulatedGpus> {
    Arc::new(SimulatedGpus::new(GpuCapabilities::new(1).with_batch(true)).unwrap())
}

async fn connector(name: &str, folder: Option<&Path>) -> Connector {
    connector_with(&gpus(), name, folder).await
}

async fn connector_with(gpus: &Arc<SimulatedGpus>, name: &str, folder: Option<&Path>) -> Connector {
    let facts = LocalFacts::discover().as_ref().clone().with_simulated_gpus(gpus.capabilities());
    let executor = PathExecutor::with(Arc::clone(gpus) as Arc<dyn GpuBackend>, Arc::new(facts));
    let executor = executor.unwrap();
    let executor = match folder {
        Some(folder) => executor.rendezvous(folder).unwrap(),
        None => executor,
    };
    Connector::builder().executor(Arc::new(executor)).name(name).build().await.unwrap()
}

/// Memory of the simulated GPU with descriptors, which holds these bytes.
fn on_gpu(gpus: &SimulatedGpus, bytes: &[u8]) -> Region {
    let region = gpus.region_of(0, (AllocationKind::Virtual, 1), bytes.len()).unwrap();
    // SAFETY: the simulated GPU has as many bytes there, which no transfer uses yet.
    unsafe { std::ptr::copy(bytes.as_ptr(), region.address() as *mut u8, bytes.len()) };
    region
}

/// The bytes of memory of the simulated GPU.
fn bytes_of(region: &Region) -> Vec<u8> {
    // SAFETY: the simulated GPU has as many bytes there, which no transfer uses any more.
    unsafe { std::slice::from_raw_parts(region.address() as *const u8, region.len()) }.to_vec()
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(0x9E37_79B9) ^ seed) as u8).collect()
}

/// No test, but what the child runs: it reads, or writes a pattern, as often as it is told.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn child() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let folder = Some(Path::new(&folder)).filter(|folder| folder.is_dir());
    within(LIMIT, async {
        let gpus = gpus();
        let connector = connector_with(&gpus, "child", folder).await;
        println!("\nok");
        for line in std::io::stdin().lines() {
            let line = line.unwrap();
            let words: Vec<_> = line.split(' ').collect();
            let remote: RdmaMetadata = metadata(words[2]).unwrap();
            let (len, seed) = (words[1].parse().unwrap(), 7);
            let is_gpu = words[0].ends_with("gpu");
            let is_read = words[0].starts_with("read");
            let before = if is_read { vec![0; len] } else { pattern(len, seed) };
            let local = match is_gpu {
                true => on_gpu(&gpus, &before),
                false => Region::shared(len).unwrap(),
            };
            if !is_gpu {
                local.copy_from_slice(0, &before).unwrap();
            }
            let result = match is_read {
                true => connector.read(&remote, local.clone()).await,
                false => connector.write(local.clone(), &remote).await,
            };
            match result {
                Ok(done) => {
                    let bytes = if is_gpu { bytes_of(&local) } else { local.to_vec().unwrap() };
                    let right = bytes == pattern(len, seed);
                    let path = done.path().unwrap();
                    let rate = len as f64 / done.elapsed().as_secs_f64() / 1e9;
                    println!("\nok {right} {:?} {rate:.1} GB/s; {path}", path.kind());
                }
                Err(error) => println!("\nerror {error}"),
            }
        }
    });
}

#[test]
fn shared_host_memory_goes_between_containers_that_meet_in_a_folder() {
    let test = "shared_host_memory_goes_between_containers_that_meet_in_a_folder";
    if !may_unshare() {
        return skip("the right to make namespaces", test);
    }
    let folder = tempfile::tempdir().unwrap();
    within(LIMIT, async {
        let owner = connector("owner", Some(folder.path())).await;
        let mut peer = contained(folder.path());
        for len in [4096, 1 << 20, 64 << 20, 64 << 20, 64 << 20] {
            let memory = Region::shared(len).unwrap();
            memory.copy_from_slice(0, &pattern(len, 7)).unwrap();
            let offered = owner.create_readable(memory).await.unwrap();
            let line = native_line(offered.metadata());
            let said = peer.ask(&format!("read {len} {line}"));
            let said = said.unwrap();
            println!("read {len}: {said}");
            assert!(said.starts_with(&format!("true {:?}", PathKind::SharedMemory)), "{said}");
            offered.await.unwrap();
            let memory = Region::shared(len).unwrap();
            let offered = owner.create_writable(memory.clone()).await.unwrap();
            let line = native_line(offered.metadata());
            let said = peer.ask(&format!("write {len} {line}"));
            let said = said.unwrap();
            println!("write {len}: {said}");
            assert!(said.starts_with(&format!("true {:?}", PathKind::SharedMemory)), "{said}");
            offered.await.unwrap();
            assert!(memory.to_vec().unwrap() == pattern(len, 7));
        }
    });
}

#[test]
fn gpu_memory_with_descriptors_goes_between_containers_that_meet_in_a_folder() {
    let test = "gpu_memory_with_descriptors_goes_between_containers_that_meet_in_a_folder";
    if !may_unshare() {
        return skip("the right to make namespaces", test);
    }
    let folder = tempfile::tempdir().unwrap();
    within(LIMIT, async {
        let gpus = gpus();
        let owner = connector_with(&gpus, "owner", Some(folder.path())).await;
        let mut peer = contained(folder.path());
        for len in [100, 1 << 20, (1 << 20) + 5] {
            let offered = owner.create_readable(on_gpu(&gpus, &pattern(len, 7))).await.unwrap();
            let line = native_line(offered.metadata());
            let said = peer.ask(&format!("read-gpu {len} {line}")).unwrap();
            assert!(said.starts_with(&format!("true {:?}", PathKind::CudaIpc)), "{said}");
            offered.await.unwrap();
            let memory = on_gpu(&gpus, &vec![0; len]);
            let offered = owner.create_writable(memory.clone()).await.unwrap();
            let line = native_line(offered.metadata());
            let said = peer.ask(&format!("write-gpu {len} {line}")).unwrap();
            assert!(said.starts_with(&format!("true {:?}", PathKind::CudaIpc)), "{said}");
            offered.await.unwrap();
            assert!(bytes_of(&memory) == pattern(len, 7));
        }
        // A handle of CUDA IPC does not lead into another process of the same number.
        let legacy = gpus.region_of(0, (AllocationKind::Legacy, 0), 100).unwrap();
        let offered = owner.create_readable(legacy).await.unwrap();
        let said = peer.ask(&format!("read-gpu 100 {}", native_line(offered.metadata()))).unwrap();
        assert!(said.contains("separate PID namespaces"), "{said}");
        offered.await.unwrap();
    });
}

/// Where an address in the abstract namespace leads nowhere, descriptors travel through the socket in the folder.
#[test]
fn descriptors_travel_through_the_folder_between_networks() {
    let test = "descriptors_travel_through_the_folder_between_networks";
    if !may_unshare() || !may_join_networks() {
        return skip("the right to make network namespaces", test);
    }
    // Pods that share the host's processes, and such that do not.
    for apart in ["no", "yes"] {
        let folder = tempfile::tempdir().unwrap();
        // The network of this machine stays as it is.
        let mut command = Command::new("unshare");
        let owner = format!("{SYSFS}; exec \"$0\" \"$@\"");
        command.args(["--net", "--mount", "--", "sh", "-c", &owner]);
        command.arg(env::current_exe().unwrap());
        command.args(["owner_in_a_network", "--exact", "--ignored", "--nocapture"]);
        let ended = command.env(FOLDER, folder.path()).env(APART, apart).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        let errors = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && said.contains("1 passed"), "{said}\n{errors}");
        print!("{said}");
    }
}

/// The engine looks up its interfaces in the file system of the kernel, which shows those of the network that it was mounted in.
const SYSFS: &str = "mount -t sysfs sysfs /sys";

fn may_join_networks() -> bool {
    const PAIR: &str = "ip link add nixla type veth peer name nixlb";
    let mut probe = Command::new("unshare");
    probe.args(["--net", "--mount", "--", "sh", "-c", &format!("{SYSFS} && {PAIR}")]);
    probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// No test, but what the one above runs, in a network of its own.
#[test]
#[ignore = "run by another test, in a network of its own"]
fn owner_in_a_network() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let container = match env::var(APART).as_deref() {
        Ok("yes") => &CONTAINER[..],
        _ => &["--fork", "--kill-child"],
    };
    run("ip link set lo up");
    let mut peer = in_a_network(container, Path::new(&folder));
    within(LIMIT, async {
        let gpus = gpus();
        let owner = connector_with(&gpus, "owner", Some(Path::new(&folder))).await;
        peer.answer("start").unwrap();
        let len = 1 << 20;
        for _ in 0..2 {
            let on_gpu = on_gpu(&gpus, &pattern(len, 7));
            let memory = Region::shared(len).unwrap();
            memory.copy_from_slice(0, &pattern(len, 7)).unwrap();
            for (memory, read, path) in
                [(memory, "read", PathKind::SharedMemory), (on_gpu, "read-gpu", PathKind::CudaIpc)]
            {
                let offered = owner.create_readable(memory).await.unwrap();
                let line = native_line(offered.metadata());
                let said = peer.ask(&format!("{read} {len} {line}")).unwrap();
                println!("{container:?} {read}: {said}");
                assert!(said.starts_with(&format!("true {path:?}")), "{said}");
                offered.await.unwrap();
            }
        }
    });
}

/// The child in a network of its own, which a pair of interfaces joins to that of this process.
fn in_a_network(container: &[&str], folder: &Path) -> Peer {
    let inside = format!(r#"echo > "$0/unshared"; read _ < "$0/joined"; {SYSFS}; exec "$@""#);
    let signals = tempfile::tempdir().unwrap();
    for signal in ["unshared", "joined"] {
        let made = Command::new("mkfifo").arg(signals.path().join(signal)).status().unwrap();
        assert!(made.success());
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount"]).args(container);
    command.args(["--", "sh", "-c", &inside]).arg(signals.path()).arg(env::current_exe().unwrap());
    command.args(["child", "--exact", "--ignored", "--nocapture"]).env(FOLDER, folder);
    let peer = Peer::spawn_by(&mut command).unwrap();
    signal(signals.path(), "cat \"$0/unshared\"");
    let pid = peer.pid().unwrap().as_raw_nonzero();
    run(&format!("ip link add nixla type veth peer name nixlb netns {pid}"));
    let there = format!("nsenter --net --target {pid} ip");
    for (ip, interface, number) in [("ip", "nixla", 1), (&*there, "nixlb", 2)] {
        run(&format!("{ip} addr add 10.99.0.{number}/24 dev {interface}"));
        run(&format!("{ip} link set {interface} up"));
    }
    run(&format!("{there} link set lo up"));
    for (ip, interface) in [("ip", "nixla"), (&*there, "nixlb")] {
        // Until then the engine does not take the interface.
        eventually("the interface is up", LIMIT, || {
            run(&format!("{ip} link show dev {interface}")).contains("state UP").then_some(())
        });
    }
    signal(signals.path(), "echo > \"$0/joined\"");
    peer
}

/// A command that waits for the other side of a pipe.
fn signal(folder: &Path, command: &str) {
    let ended = Command::new("timeout").args(["60", "sh", "-c", command]).arg(folder).output();
    let ended = ended.unwrap();
    assert!(ended.status.success(), "{command}: {ended:?}");
}

/// What a command of these words prints.
fn run(words: &str) -> String {
    let mut words = words.split(' ');
    let ended = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8(ended.stdout).unwrap()
}

/// Without a folder, and where the peer is not in it, the report names what would help; equal numbers, host names and boot identities
/// do not lead into another process. The network is common here, so that the engine can carry the bytes.
#[test]
fn without_the_folder_the_engine_carries_and_the_report_says_what_would_help() {
    let test = "without_the_folder_the_engine_carries_and_the_report_says_what_would_help";
    if !may_unshare() {
        return skip("the right to make namespaces", test);
    }
    let folder = tempfile::tempdir().unwrap();
    for (theirs, says) in [
        (Path::new("/nonexistent"), "a rendezvous folder that both see would help"),
        (folder.path(), "the peer is not met in the rendezvous folder"),
    ] {
        within(LIMIT, async {
            let owner = connector("owner", None).await;
            let mut command = Command::new("unshare");
            command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
            command.arg(env::current_exe().unwrap());
            command.args(["child", "--exact", "--ignored", "--nocapture"]).env(FOLDER, theirs);
            let mut peer = Peer::spawn_by(&mut command).unwrap();
            peer.answer("start").unwrap();
            let memory = Region::shared(4096).unwrap();
            memory.copy_from_slice(0, &pattern(4096, 7)).unwrap();
            let offered = owner.create_readable(memory).await.unwrap();
            let line = native_line(offered.metadata());
            let said = peer.ask(&format!("read 4096 {line}"));
            let said = said.unwrap();
            assert!(said.starts_with("true") && said.contains(says), "{said}");
            offered.await.unwrap();
        });
    }
}

//! Two processes in separate PID and IPC namespaces, as containers of one host are: host memory through a rendezvous folder. The
//! network is common: the engine has to reach a peer before any path is taken.
#![allow(clippy::unwrap_used, reason = "a test says so, by failing too")]
#![allow(clippy::print_stdout, reason = "the child answers on its output")]

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nixl_executor::{Connector, PathExecutor, PathKind, RdmaMetadata, Region};
use nixl_tests::{Peer, metadata, native_line, skip, within};

const FOLDER: &str = "NIXL_TEST_RENDEZVOUS";
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

async fn connector(name: &str, folder: Option<&Path>) -> Connector {
    let executor = PathExecutor::open().await.unwrap();
    let executor = match folder {
        Some(folder) => executor.rendezvous(folder).unwrap(),
        None => executor,
    };
    Connector::builder().executor(Arc::new(executor)).name(name).build().await.unwrap()
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
        let connector = connector("child", folder).await;
        println!("\nok");
        for line in std::io::stdin().lines() {
            let line = line.unwrap();
            let words: Vec<_> = line.split(' ').collect();
            let remote: RdmaMetadata = metadata(words[2]).unwrap();
            let (len, seed) = (words[1].parse().unwrap(), 7);
            let local = Region::shared(len).unwrap();
            let result = match words[0] {
                "read" => connector.read(&remote, local.clone()).await,
                _ => {
                    local.copy_from_slice(0, &pattern(len, seed)).unwrap();
                    connector.write(local.clone(), &remote).await
                }
            };
            match result {
                Ok(done) => {
                    let right = local.to_vec().unwrap() == pattern(len, seed);
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

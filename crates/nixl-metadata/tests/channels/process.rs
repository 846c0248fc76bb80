//! Servers of other projects, as processes that can be killed and started anew.

use std::fs::OpenOptions;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// More than a start takes on a machine that is busy.
const LONG: Duration = Duration::from_secs(30);

/// The arguments of a server, by its folder and its two ports.
type Arguments = fn(&Path, &[SocketAddr; 2]) -> Vec<String>;

/// A port that was free a moment ago: these servers take no listener. One that another process takes meanwhile is another attempt.
/// None of the system's own choice, which a connection may take while a server is down.
fn free_port() -> SocketAddr {
    let ports = std::iter::repeat_with(|| 20_000 + RandomState::new().hash_one(()) as u16 % 12_000);
    let mut free = ports.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    free.next().unwrap().local_addr().unwrap()
}

/// Says, where `cargo xtask test` counts it, that a test was skipped.
fn skip(wanted: &str, name: &str) {
    let line = format!("SKIPPED({wanted}): {name}\n");
    let _closed = std::io::stdout().write_all(line.as_bytes());
    if let Some(log) = std::env::var_os("NIXL_TEST_SKIP_LOG") {
        // One write, so that the lines of tests that run at the same time stay whole.
        let file = OpenOptions::new().create(true).append(true).open(&log);
        file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
    }
}

/// A server of another project, as a process.
pub(crate) struct Process {
    program: &'static str,
    arguments: Arguments,
    folder: tempfile::TempDir,
    ports: [SocketAddr; 2],
    child: Option<Child>,
}

impl Process {
    /// Starts it, or notes that the test is skipped where the program is not installed.
    async fn start(
        program: &'static str,
        package: &str,
        test: &str,
        arguments: Arguments,
    ) -> Option<Self> {
        let mut probe = Command::new(program);
        probe.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        let is_there = probe.status().is_ok();
        if !is_there {
            skip(package, test);
            return None;
        }
        for _ in 0..20 {
            // In memory where that can be: etcd waits for the disk, which other programs may keep busy for seconds.
            let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            let ports = [free_port(), free_port()];
            let mut process = Self { program, arguments, folder, ports, child: None };
            if process.run().await {
                return Some(process);
            }
        }
        panic!("{program} does not start on any port");
    }

    /// `nats-server`.
    pub(crate) async fn nats(test: &str, arguments: Arguments) -> Option<Self> {
        Self::start("nats-server", "nats-server", test, arguments).await
    }

    /// `etcd`.
    pub(crate) async fn etcd(test: &str, arguments: Arguments) -> Option<Self> {
        Self::start("etcd", "etcd-server", test, arguments).await
    }

    /// Where it takes clients.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.ports[0]
    }

    /// Whether it listens, rather than ended.
    async fn run(&mut self) -> bool {
        let arguments = (self.arguments)(self.folder.path(), &self.ports);
        let child = Command::new(self.program)
            .args(arguments)
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.unwrap();
        loop {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(self.ports[0]).is_ok() {
                self.child = Some(child);
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) async fn restart(&mut self) {
        let until = Instant::now() + LONG;
        while !self.run().await {
            assert!(Instant::now() < until, "{} does not start anew", self.program);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The arguments of `nats-server` with JetStream, open to all of this host.
pub(crate) fn nats(folder: &Path, ports: &[SocketAddr; 2]) -> Vec<String> {
    let (folder, port) = (folder.display().to_string(), ports[0].port().to_string());
    let arguments = ["--jetstream", "--addr", "127.0.0.1", "--port", &port, "--store_dir", &folder];
    arguments.map(str::to_owned).to_vec()
}

/// The arguments of `etcd` whose clients connect by this scheme.
pub(crate) fn etcd(scheme: &str, folder: &Path, ports: &[SocketAddr; 2]) -> Vec<String> {
    let (client, peer) = (format!("{scheme}://{}", ports[0]), format!("http://{}", ports[1]));
    let pairs = [
        ("--name", "test".to_owned()),
        ("--data-dir", folder.join("data").display().to_string()),
        ("--listen-client-urls", client.clone()),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer.clone()),
        ("--initial-advertise-peer-urls", peer.clone()),
        ("--initial-cluster", format!("test={peer}")),
    ];
    pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

//! The sockets on which a process listens by default, and what it says once one of them is closed.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nixl_connector::nixl::NixlOptions;
use nixl_connector::{Connector, ConnectorBuilder, OperationOptions};
use nixl_descriptor::Region;
use nixl_device::{NetworkInterface, TcpSocket, TcpState};
use nixl_tests::{By, Offer, Peer, alone, metadata, pattern, within};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};

const LIMIT: Duration = Duration::from_secs(60);

/// Once a connector of each kind has offered and read, so that nothing is left to be opened by a first use.
#[test]
fn nothing_listens_but_ucx() {
    alone("nothing_listens_but_ucx", &[], || {
        for by in [By::Engine, By::Paths] {
            let (tcp, unix) = (listening(), unix_sockets());
            let connectors: [Connector; 2] = within(LIMIT, async {
                let connectors = pair(by.builder(), by.builder()).await;
                read(by, &connectors).await;
                connectors
            });
            let opened = listening().difference(&tcp).count();
            // UCX listens once on each interface that it uses, for each connector.
            assert_eq!(opened, connectors.len() * NetworkInterface::all().len(), "{by:?}");
            for socket in unix_sockets().difference(&unix) {
                assert!(
                    socket.is_for_datagrams() && socket.abstract_name().is_some(),
                    "{socket:?}"
                );
            }
        }
        let unix = unix_sockets();
        let options = || NixlOptions::new().transports(["tcp", "self"]);
        let builder = || By::Engine.builder().nixl(options());
        let _connectors = within(LIMIT, pair(builder(), builder()));
        // Those of the connectors before may end meanwhile.
        assert!(unix_sockets().is_subset(&unix), "without shared memory UCX opens none");
    });
}

#[test]
fn a_stranger_that_sends_to_ucxs_unix_sockets_ends_nothing() {
    alone("a_stranger_that_sends_to_ucxs_unix_sockets_ends_nothing", &[], || {
        let unix = unix_sockets();
        let connectors = within(LIMIT, pair(By::Engine.builder(), By::Engine.builder()));
        let opened: Vec<_> = unix_sockets().difference(&unix).cloned().collect();
        assert!(!opened.is_empty());
        let stranger = UnixDatagram::unbound().unwrap();
        stranger.set_nonblocking(true).unwrap();
        for bytes in [0, 1, 300] {
            for name in opened.iter().filter_map(UnixSocket::abstract_name) {
                let address = SocketAddr::from_abstract_name(name).unwrap();
                for _ in 0..20 {
                    // The socket may be full.
                    let _ = stranger.send_to_addr(&vec![0; bytes], &address);
                }
            }
            within(LIMIT, read(By::Engine, &connectors));
        }
    });
}

/// UCX opens its sockets so that programs get them.
#[test]
fn programs_that_this_process_starts_get_none_of_ucxs_sockets() {
    alone("programs_that_this_process_starts_get_none_of_ucxs_sockets", &[], || {
        let (tcp, unix) = (listening(), unix_sockets());
        let connectors = within(LIMIT, pair(By::Engine.builder(), By::Engine.builder()));
        let opened = listening().difference(&tcp).map(u64::to_string).collect::<Vec<_>>();
        let unix: Vec<_> = unix_sockets().difference(&unix).cloned().collect();
        assert!(!opened.is_empty() && !unix.is_empty());
        let child = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
        let files = String::from_utf8(child.stdout).unwrap();
        for inode in
            opened.iter().map(String::as_str).chain(unix.iter().map(|socket| socket.field(6)))
        {
            assert!(!files.contains(&format!("socket:[{inode}]")), "{files}");
        }
        drop(connectors);
    });
}

/// UCX reads a pointer out of the bytes that anyone sends to its port.
#[test]
#[ignore = "shows a known limit of UCX"]
fn a_stranger_on_ucxs_tcp_port_ends_the_process() {
    /// UCX's mark of a connection, the number and length of an active message, and its content.
    const MESSAGE: [&[u8]; 4] = [
        &0xcafe_babe_1234_5678_u64.to_le_bytes(),
        &[0x1b],
        &16_u32.to_le_bytes(),
        b"\x5e\x96\x19\x4f\x75\xff\x37\xbf\xea\x47\xa5\x4c\x59\xac\x10\x9f",
    ];
    let mut peer = Peer::start(env!("CARGO_BIN_EXE_peer"), &[]);
    let port = port_on_loopback(&peer);
    let mut stranger = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stranger.write_all(&MESSAGE.concat()).unwrap();
    // UCX closes the connection, or its process has ended.
    let _ = stranger.read(&mut [0]);
    let status = peer.wait().unwrap();
    assert_eq!(
        status.signal(),
        Some(Signal::SEGV.as_raw()),
        "UCX has mended it: say so in SECURITY.md"
    );
}

/// The port on which a process listens at 127.0.0.1.
fn port_on_loopback(peer: &Peer) -> u16 {
    const LISTEN: &str = "0A";
    let pid = peer.pid().unwrap().as_raw_nonzero();
    let links: BTreeSet<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_str()?.to_owned()))
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let listens = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let port = fields[1].strip_prefix("0100007F:")?;
        let is_it = fields[3] == LISTEN && links.contains(&format!("socket:[{}]", fields[9]));
        is_it.then(|| u16::from_str_radix(port, 16).unwrap())
    };
    table.lines().skip(1).find_map(listens).unwrap()
}

/// UCX closes its listening socket for good if it cannot accept a connection.
#[test]
fn a_process_without_a_file_for_a_connection_says_that_it_is_deaf_and_another_connector_serves() {
    let name = "a_process_without_a_file_for_a_connection_says_that_it_is_deaf_and_another_connector_serves";
    alone(name, &[("UCX_TLS", Path::new("tcp"))], || {
        within(LIMIT, async {
            let build = async || Connector::builder().build().await.unwrap();
            let (early, late) = (build().await, build().await);
            let mut peer = Peer::start(env!("CARGO_BIN_EXE_peer"), &[]);
            read_from(&mut peer, &early, 1).await.unwrap();
            assert_eq!(peer.ask("health").unwrap(), "ready true, live true: []");

            let offer = peer.offer("readable", 100, 2).unwrap();
            let before = without_files(&peer);
            assert!(read_of(&offer, &late, 2).await.is_err(), "the target could not accept it");
            let health = peer.ask("health").unwrap();
            assert!(health.starts_with("ready false, live true: [OutOfFiles"), "{health}");
            let refused = peer.ask("rebuild").unwrap_err().to_string();
            assert!(refused.contains("open files") || refused.contains("Files"), "{refused}");

            prlimit(Some(peer.pid().unwrap()), Resource::Nofile, before).unwrap();
            let health = peer.ask("health").unwrap();
            assert!(health.starts_with("ready false, live false: [NotListening"), "{health}");
            // Connections that were there are as good as before, and others cannot be made.
            read_from(&mut peer, &early, 3).await.unwrap();
            assert!(read_from(&mut peer, &late, 4).await.is_err());

            peer.ask("rebuild").unwrap();
            assert_eq!(peer.ask("health").unwrap(), "ready true, live true: []");
            for (seed, reader) in [(5, &early), (6, &late), (7, &build().await)] {
                read_from(&mut peer, reader, seed).await.unwrap();
            }
        });
    });
}

/// A page that could not be made at the first offer is made at a later one.
#[test]
fn offers_have_slots_again_after_a_shortage_of_files() {
    alone("offers_have_slots_again_after_a_shortage_of_files", &[], || {
        within(LIMIT, async {
            let connector = By::Engine.builder().build().await.unwrap();
            let memory = || Region::zeroed(100).unwrap();
            let before = getrlimit(Resource::Nofile);
            prlimit(None, Resource::Nofile, Rlimit { current: Some(3), ..before }).unwrap();
            let without = connector.create_readable(memory()).await.unwrap();
            prlimit(None, Resource::Nofile, before).unwrap();
            assert_eq!(without.metadata().slot_address(), None);
            let with = connector.create_readable(memory()).await.unwrap();
            assert!(with.metadata().slot_address().is_some());
        });
    });
}

/// Takes from a process the right to open one more file. Returns its limit before.
fn without_files(peer: &Peer) -> Rlimit {
    let pid = peer.pid().unwrap();
    let before = format!("/proc/{}/limits", pid.as_raw_nonzero());
    let before = fs::read_to_string(before).unwrap();
    let line = before.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let maximum = line.split_whitespace().nth(1).unwrap().parse().ok();
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(3), maximum }).unwrap()
}

async fn read_from(peer: &mut Peer, reader: &Connector, seed: u64) -> Result<(), OperationFailed> {
    let offer = peer.offer("readable", 100, seed).unwrap();
    read_of(&offer, reader, seed).await
}

async fn read_of(offer: &Offer, reader: &Connector, seed: u64) -> Result<(), OperationFailed> {
    let local = Region::zeroed(100)?;
    let options = OperationOptions::new().timeout(Duration::from_secs(3));
    let mut read = reader.begin_read_with(&metadata(&offer.json)?, local.clone(), options).await?;
    read.wait_for_completion().await?;
    assert!(local.to_vec()? == pattern(seed, 100), "the bytes read are wrong");
    Ok(())
}

type OperationFailed = Box<dyn std::error::Error>;

async fn pair(one: ConnectorBuilder, other: ConnectorBuilder) -> [Connector; 2] {
    [one.build().await.unwrap(), other.build().await.unwrap()]
}

/// Several times: between them the engine's thread sleeps and looks at its sockets.
async fn read(by: By, [one, other]: &[Connector; 2]) {
    let bytes = pattern(1, 9000);
    for _ in 0..20 {
        let offer = one.create_readable(by.memory(&bytes)).await.unwrap();
        let local = Region::zeroed(bytes.len()).unwrap();
        let mut read = other.begin_read(offer.metadata(), local.clone()).await.unwrap();
        read.wait_for_completion().await.unwrap();
        assert!(local.to_vec().unwrap() == bytes);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The inodes of the TCP sockets on which this process listens.
fn listening() -> BTreeSet<u64> {
    let sockets = TcpSocket::all_of_this_process().unwrap().into_iter();
    sockets.filter(|socket| socket.state() == TcpState::Listen).map(|s| s.inode()).collect()
}

/// A line of the kernel's table.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct UnixSocket(String);

impl UnixSocket {
    fn field(&self, number: usize) -> &str {
        self.0.split_whitespace().nth(number).unwrap_or_default()
    }

    fn is_for_datagrams(&self) -> bool {
        self.field(4) == "0002"
    }

    fn abstract_name(&self) -> Option<&str> {
        self.field(7).strip_prefix('@')
    }
}

/// The Unix sockets of this process.
fn unix_sockets() -> BTreeSet<UnixSocket> {
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links: BTreeSet<_> = links
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_str()?.to_owned()))
        .collect();
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let sockets = table.lines().map(|line| UnixSocket(line.to_owned()));
    sockets.filter(|socket| links.contains(&format!("socket:[{}]", socket.field(6)))).collect()
}

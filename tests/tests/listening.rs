//! The sockets on which a process listens by default.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::collections::BTreeSet;
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nixl_connector::nixl::NixlOptions;
use nixl_connector::{Connector, ConnectorBuilder};
use nixl_descriptor::Region;
use nixl_device::{NetworkInterface, TcpSocket, TcpState};
use nixl_tests::{By, alone, pattern, within};

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

//! Bad input over real NIXL: a specific error, nothing leaked, and a connection that still works.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::fs;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nixl_connector::{
    Connector, ConnectorError, OperationError, OperationKind, OperationOptions, TransportError,
};
use nixl_descriptor::{Descriptor, DescriptorError, LeaseError, Region, leaked};
use nixl_metadata::{Field, MetadataError, NotificationKey, RdmaMetadata, SerializedDescriptor};
use nixl_ops::PairingError;
use nixl_tests::forge::{Blob, KEY, inflate, with_blob};
use nixl_tests::{Offer, Peer, alone, eventually, pattern, skip, within};
use serde_json::{Value, json};

const PEER: &str = env!("CARGO_BIN_EXE_peer");
const LIMIT: Duration = Duration::from_secs(120);
const LEN: usize = 8192;

/// A connector of this process, a healthy peer in another, and the promise that they get on.
struct Stage {
    connector: Connector,
    peer: Peer,
    seed: u64,
    /// Offers that have not been served yet.
    open: usize,
}

impl Stage {
    async fn new() -> Self {
        let peer = Peer::start(PEER, &[]);
        let connector = Connector::builder().name("stage").build().await.unwrap();
        let mut stage = Self { connector, peer, seed: 0, open: 0 };
        stage.still_works().await;
        stage
    }

    fn offer(&mut self, kind: &str) -> (Offer, RdmaMetadata) {
        self.seed += 1;
        self.open += 1;
        let offer = self.peer.offer(kind, LEN, self.seed).unwrap();
        let metadata = RdmaMetadata::decode(offer.json.as_bytes()).unwrap();
        (offer, metadata)
    }

    /// Uses an offer as it was meant.
    async fn serve(&mut self, offer: &Offer) {
        let remote = RdmaMetadata::decode(offer.json.as_bytes()).unwrap();
        let region = Region::zeroed(LEN).unwrap();
        match remote.operation_kind() {
            OperationKind::Read => {
                let mut read = self.connector.begin_read(&remote, region).await.unwrap();
                read.wait_for_completion().await.unwrap();
            }
            _ => {
                let mut write = self.connector.begin_write(region, &remote).await.unwrap();
                write.wait_for_completion().await.unwrap();
            }
        }
        self.peer.ask(&format!("wait {}", offer.id)).unwrap();
        self.open -= 1;
    }

    /// Moves fresh bytes both ways over the same connection, verifies them, and looks for what is left.
    async fn still_works(&mut self) {
        let (offer, remote) = self.offer("readable");
        self.open -= 1;
        let region = Region::zeroed(LEN).unwrap();
        let mut read = self.connector.begin_read(&remote, region.clone()).await.unwrap();
        read.wait_for_completion().await.unwrap();
        assert!(region.to_vec().unwrap() == pattern(self.seed, LEN), "the bytes read are wrong");
        self.peer.ask(&format!("wait {}", offer.id)).unwrap();

        let (offer, remote) = self.offer("writable");
        self.open -= 1;
        let bytes = pattern(self.seed + 1_000_000, LEN);
        let crc = nixl_tests::crc32(&bytes);
        let region = Region::try_from(bytes).unwrap();
        let mut write = self.connector.begin_write(region, &remote).await.unwrap();
        write.wait_for_completion().await.unwrap();
        assert_eq!(self.peer.ask(&format!("wait {}", offer.id)).unwrap(), crc);

        let stats = self.connector.stats();
        assert_eq!((stats.active(), stats.passive()), (0, 0));
        assert_eq!(leaked(), Default::default());
        let theirs = self.peer.ask("stats").unwrap();
        for expected in ["active: 0,".to_owned(), format!("passive: {},", self.open)] {
            assert!(theirs.contains(&expected), "{theirs}");
        }
    }

    /// What `begin_read` says to this metadata, of which nothing must be left.
    async fn refusal(&mut self, remote: &RdmaMetadata) -> ConnectorError {
        let region = Region::try_from(pattern(7, LEN)).unwrap();
        let error = match self.connector.begin_read(remote, region.clone()).await {
            Err(error) => error,
            Ok(mut read) => read.wait_for_completion().await.unwrap_err().into(),
        };
        eventually("the memory comes back", LIMIT, || region.to_vec().ok());
        error
    }
}

fn change(json: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value = serde_json::from_str(json).unwrap();
    change(&mut value);
    value.to_string().into_bytes()
}

macro_rules! assert_matches {
    ($value:expr, $($pattern:tt)+) => {
        match $value {
            $($pattern)+ => {}
            other => panic!("expected {}, got {other:?}", stringify!($($pattern)+)),
        }
    };
}

#[test]
fn messages_that_cannot_be_read() {
    within(LIMIT, async {
        let mut stage = Stage::new().await;
        let (offer, _) = stage.offer("readable");
        let json = &offer.json;
        let decode = |bytes: Vec<u8>| RdmaMetadata::decode(&bytes).unwrap_err();

        // Not JSON.
        assert_matches!(decode(b"hello".to_vec()), MetadataError::NotJson { .. });
        assert_matches!(decode(Vec::new()), MetadataError::Truncated { field: Field::Document });
        // Unknown, missing and repeated fields.
        let unknown = change(json, |v| v["extra"] = json!(1));
        assert_matches!(decode(unknown), MetadataError::UnknownField { .. });
        let unknown = change(json, |v| v["descriptors"][0]["extra"] = json!(1));
        assert_matches!(decode(unknown), MetadataError::UnknownField { .. });
        let missing = change(json, |v| drop(v.as_object_mut().unwrap().remove("nixl_metadata")));
        assert_matches!(decode(missing), MetadataError::MissingField { .. });
        // Wrong kinds.
        let kind = change(json, |v| v["operation_kind"] = json!(3));
        assert_matches!(decode(kind), MetadataError::WrongKind { value: 3 });
        let kind = change(json, |v| v["operation_kind"] = json!("READ"));
        assert_matches!(decode(kind), MetadataError::WrongType { .. });
        // Null, empty and overflowing ranges; an empty list.
        let range =
            |field: &str, value: Value| change(json, |v| v["descriptors"][0][field] = value);
        assert_matches!(decode(range("ptr", json!(0))), MetadataError::NullPointer { index: 0 });
        assert_matches!(decode(range("size", json!(0))), MetadataError::ZeroSize { index: 0 });
        assert_matches!(decode(range("size", json!(-1))), MetadataError::NotUnsigned { .. });
        assert_matches!(
            decode(range("size", json!(u64::MAX))),
            MetadataError::WrapAround { index: 0 }
        );
        assert_matches!(
            decode(change(json, |v| v["descriptors"] = json!([]))),
            MetadataError::NoDescriptors
        );
        assert_matches!(
            decode(range("device", json!("tpu:0"))),
            MetadataError::BadDevice { index: 0, .. }
        );
        // Oversized messages and blobs, and a blob that is cut.
        assert_matches!(decode(vec![b' '; 13 << 20]), MetadataError::TooLarge { .. });
        let blob = change(json, |v| v["nixl_metadata"] = json!("b64:!"));
        assert_matches!(decode(blob), MetadataError::BadBase64);

        stage.serve(&offer).await;
        stage.still_works().await;
    });
}

#[test]
fn blobs_that_are_no_blobs() {
    within(LIMIT, async {
        let mut stage = Stage::new().await;
        let (offer, honest) = stage.offer("readable");
        let blob = inflate(&honest);

        // Cut anywhere; a sample, since each is tried over the connection.
        for at in [1, 5, 11, 12, blob.len() / 3, blob.len() / 2, blob.len() - 1] {
            let cut = with_blob(&honest, &blob[..at]).unwrap();
            assert_matches!(
                stage.refusal(&cut).await,
                ConnectorError::Transport(TransportError::BadMetadata { .. })
            );
        }
        stage.still_works().await;

        // Bytes behind the end, noise, and more than the limit once inflated.
        let longer = [&blob[..], b"|"].concat();
        for bad in [longer, pattern(1, 600)] {
            assert_matches!(
                stage.refusal(&with_blob(&honest, &bad).unwrap()).await,
                ConnectorError::Transport(TransportError::BadMetadata { .. })
            );
        }
        let bomb = with_blob(&honest, &vec![0; 17 << 20]).unwrap();
        assert_matches!(
            stage.refusal(&bomb).await,
            ConnectorError::Metadata(MetadataError::TooLarge {
                field: Field::InflatedMetadata,
                ..
            })
        );

        // A zlib stream that is cut.
        let cut = change(&offer.json, |v| {
            let text = v["nixl_metadata"].as_str().unwrap();
            v["nixl_metadata"] = json!(text[..4 + (text.len() - 4) / 8 * 4]);
        });
        assert_matches!(
            stage.refusal(&RdmaMetadata::decode(&cut).unwrap()).await,
            ConnectorError::Metadata(MetadataError::Truncated { .. })
        );

        // Names that NIXL's binding would panic on, or NIXL misunderstand.
        for name in [&b"\xff\xfe"[..], b"", b"a\0b", &[b'a'; 256]] {
            let mut forged = Blob::of(&honest);
            forged.name = name.to_vec();
            assert_matches!(
                stage.refusal(&with_blob(&honest, &forged.bytes()).unwrap()).await,
                ConnectorError::Transport(TransportError::BadMetadata { .. })
            );
        }

        // No backend in common.
        let mut forged = Blob::of(&honest);
        forged.name = b"stranger".to_vec();
        forged.connections[0].0 = b"ABSENT".to_vec();
        assert_matches!(
            stage.refusal(&with_blob(&honest, &forged.bytes()).unwrap()).await,
            ConnectorError::Transport(TransportError::BadMetadata { .. })
        );

        stage.serve(&offer).await;
        stage.still_works().await;
    });
}

#[test]
fn identities_that_are_not_the_senders() {
    within(LIMIT, async {
        let mut stage = Stage::new().await;
        let (offer, honest) = stage.offer("readable");

        // Our own, by reflection and by forgery.
        let ours = stage.connector.create_readable(Region::zeroed(LEN).unwrap()).await.unwrap();
        let reflected = RdmaMetadata::decode(ours.metadata().to_dynamo_json().as_bytes()).unwrap();
        let name = stage.connector.name().to_owned();
        assert_eq!(
            stage.refusal(&reflected).await,
            ConnectorError::Transport(TransportError::OwnIdentity { name: name.clone() })
        );
        let mut forged = Blob::of(&honest);
        forged.name = name.clone().into_bytes();
        assert_eq!(
            stage.refusal(&with_blob(&honest, &forged.bytes()).unwrap()).await,
            ConnectorError::Transport(TransportError::OwnIdentity { name })
        );

        // Another peer's, which is healthy and stays so.
        let mut other = Stage {
            connector: stage.connector.clone(),
            peer: Peer::start(PEER, &[]),
            seed: 0,
            open: 0,
        };
        let (theirs, metadata) = other.offer("readable");
        other.serve(&theirs).await;
        let mut forged = Blob::of(&honest);
        forged.name = Blob::of(&metadata).name;
        assert_matches!(
            stage.refusal(&with_blob(&honest, &forged.bytes()).unwrap()).await,
            ConnectorError::Transport(TransportError::IdentityConflict { .. })
        );

        // The operation that was reflected is still outstanding: the peer serves it.
        let json = ours.metadata().to_dynamo_json();
        let read = stage.peer.ask(&format!("read {json}")).unwrap();
        stage.peer.ask(&format!("wait {read}")).unwrap();
        assert!(ours.reclaim().await.outcome.is_ok());
        stage.serve(&offer).await;
        stage.still_works().await;
        other.still_works().await;
    });
}

#[test]
fn memory_that_was_not_offered() {
    within(LIMIT, async {
        let mut stage = Stage::new().await;
        let (offer, honest) = stage.offer("readable");
        let real = honest.descriptors()[0];

        // Ranges that the peer has not registered.
        for (ptr, size) in
            [(real.ptr() + 1, real.size()), (real.ptr() - 1, real.size()), (4096, 64)]
        {
            let range = SerializedDescriptor::new(real.device(), ptr, size).unwrap();
            let forged = RdmaMetadata::new(
                OperationKind::Read,
                vec![range],
                honest.agent_metadata().clone(),
                NotificationKey::random(),
            )
            .unwrap();
            let local = Region::zeroed(usize::try_from(size).unwrap()).unwrap();
            let error = stage.connector.begin_read(&forged, local).await.unwrap_err();
            assert_matches!(
                error,
                ConnectorError::Transport(TransportError::NotRegistered { index: 0, .. })
            );
        }
        stage.serve(&offer).await;
        stage.still_works().await;
    });
}

/// A healthy peer's blob in which the keys of its memory were changed: NIXL 1.5.1 by itself would lock the peer out for
/// good. Keys that are too short would crash UCX.
#[test]
fn keys_that_were_changed() {
    within(LIMIT, async {
        let mut stage = Stage::new().await;
        let (offer, honest) = stage.offer("readable");
        let (other, _) = stage.offer("readable");
        let with_keys = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut forged = Blob::of(&honest);
            for memory in forged.sections.iter_mut().flat_map(|s| &mut s.memories) {
                let mut key = memory.split_off(KEY);
                change(&mut key);
                memory.append(&mut key);
            }
            with_blob(&honest, &forged.bytes()).unwrap()
        };
        type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
        let short: [Change<'_>; 4] =
            [&Vec::clear, &|key| key.truncate(8), &|key| key[..8].fill(0xff), &|key| key[8] = 0xff];
        for change in short {
            assert_matches!(
                stage.refusal(&with_keys(change)).await,
                ConnectorError::Transport(TransportError::BadMetadata { .. })
            );
            stage.still_works().await;
        }

        // UCX ignores what follows a key, so this one differs and still fits; the read with it is good, unless the
        // honest key has come first, and then the peer was taken for one that registered its memory anew.
        let forged = with_keys(&|key| key.push(0xff));
        let region = Region::zeroed(LEN).unwrap();
        let mut read = stage.connector.begin_read(&forged, region.clone()).await.unwrap();
        read.wait_for_completion().await.unwrap();
        stage.peer.ask(&format!("wait {}", offer.id)).unwrap();
        stage.open -= 1;
        stage.serve(&other).await;
        stage.still_works().await;
    });
}

#[test]
fn sides_that_do_not_pair() {
    within(LIMIT, async {
        let mut stage = Stage::new().await;
        let (readable, read) = stage.offer("readable");
        let (writable, write) = stage.offer("writable");
        let region = Region::zeroed(2 * LEN).unwrap();
        let half = || region.descriptor(..LEN).unwrap();
        let connector = stage.connector.clone();

        // A READ offered to begin_write, and the reverse.
        assert_eq!(
            connector.begin_write(half(), &read).await.unwrap_err(),
            ConnectorError::Pairing(PairingError::WrongKind {
                offered: OperationKind::Read,
                wanted: OperationKind::Write,
            })
        );
        assert_eq!(
            connector.begin_read(&write, half()).await.unwrap_err(),
            ConnectorError::Pairing(PairingError::WrongKind {
                offered: OperationKind::Write,
                wanted: OperationKind::Read,
            })
        );
        // Counts and sizes.
        let two = vec![half(), region.descriptor(LEN..).unwrap()];
        assert_eq!(
            connector.begin_read(&read, two).await.unwrap_err(),
            ConnectorError::Pairing(PairingError::Count { local: 2, remote: 1 })
        );
        assert_eq!(
            connector.begin_read(&read, region.clone()).await.unwrap_err(),
            ConnectorError::Pairing(PairingError::Size {
                index: 0,
                local: 2 * LEN as u64,
                remote: LEN as u64,
            })
        );
        // An empty list, for each call.
        let none = Vec::<Descriptor>::new;
        let empty = ConnectorError::Descriptor(DescriptorError::EmptyList);
        assert_eq!(connector.begin_read(&read, none()).await.unwrap_err(), empty);
        assert_eq!(connector.begin_write(none(), &write).await.unwrap_err(), empty);
        assert_eq!(connector.create_readable(none()).await.unwrap_err(), empty);
        assert_eq!(connector.create_writable(none()).await.unwrap_err(), empty);
        // Local ranges that are empty or overflow.
        assert_matches!(region.descriptor(5..5).unwrap_err(), DescriptorError::ZeroLength { .. });
        assert_matches!(
            region.descriptor(1..=usize::MAX).unwrap_err(),
            DescriptorError::OutOfBounds { .. }
        );
        // Memory that must not be written, and memory that is in use.
        let fixed = Region::try_from(bytes::Bytes::from(vec![0; LEN])).unwrap();
        assert_eq!(
            connector.begin_read(&read, fixed.clone()).await.unwrap_err(),
            ConnectorError::Pairing(PairingError::ReadOnly { index: 0 })
        );
        assert_eq!(
            connector.create_writable(fixed).await.unwrap_err(),
            ConnectorError::ReadOnly { index: 0 }
        );
        let offered = connector.create_writable(half()).await.unwrap();
        assert_matches!(
            connector.begin_read(&read, half()).await.unwrap_err(),
            ConnectorError::Lease(LeaseError::Conflict { .. })
        );
        drop(offered);

        stage.serve(&readable).await;
        stage.serve(&writable).await;
        stage.still_works().await;
    });
}

#[test]
fn peers_that_are_gone() {
    within(LIMIT, async {
        let mut stage = Stage::new().await;
        let gone = |error: &ConnectorError| {
            matches!(
                error,
                ConnectorError::Transport(TransportError::PeerGone { .. })
                    | ConnectorError::Operation(OperationError::Transport(
                        TransportError::PeerGone { .. }
                    ))
            )
        };
        // Dead before it was met; tried again at once, and once it has been tried too often.
        let mut dead = Peer::start(PEER, &[]);
        let offer = dead.offer("readable", LEN, 1).unwrap();
        dead.kill().unwrap();
        let remote = RdmaMetadata::decode(offer.json.as_bytes()).unwrap();
        for _ in 0..3 {
            let error = stage.refusal(&remote).await;
            assert!(gone(&error), "{error:?}");
            stage.still_works().await;
        }
        // Dead after it was met.
        let mut dead = Peer::start(PEER, &[]);
        let mut unused = Vec::new();
        for seed in 0..5 {
            let offer = dead.offer("readable", LEN, seed).unwrap();
            let remote = RdmaMetadata::decode(offer.json.as_bytes()).unwrap();
            if seed < 2 {
                let region = Region::zeroed(LEN).unwrap();
                let mut read = stage.connector.begin_read(&remote, region).await.unwrap();
                read.wait_for_completion().await.unwrap();
            } else {
                unused.push(remote);
            }
        }
        dead.kill().unwrap();
        // Each is used once: a post that failed may have begun, and its offer counts as used.
        for remote in &unused {
            let error = stage.refusal(remote).await;
            assert!(gone(&error), "{error:?}");
            stage.still_works().await;
        }
    });
}

/// Listens, but so badly that a client that connects gets no answer, not even a refusal. Lives as long as what it returns.
fn deaf(address: Ipv4Addr) -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let here = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&here, Duration::from_millis(300)).ok();
    let waiting: Vec<_> = iter::from_fn(connect).take(64).collect();
    assert!(waiting.len() < 64, "the system answers for the listener");
    (listener, waiting)
}

/// The ports on which this machine listens, as UCX writes them.
fn listening() -> Vec<[u8; 2]> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut ports = Vec::new();
    for line in table.lines().skip(1) {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next().unwrap(), fields.nth(1).unwrap());
        if state == "0A" {
            let port = local.split_once(':').unwrap().1;
            ports.push(u16::from_str_radix(port, 16).unwrap().to_be_bytes());
        }
    }
    ports
}

/// A peer that does not answer. By itself UCX waits for it for minutes, and lets nothing else happen meanwhile.
#[test]
fn peers_that_do_not_answer() {
    // The address by which peers know us. Nothing is sent to that one, which is reserved for documentation.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let ours = socket.connect(("203.0.113.1", 9)).and_then(|()| socket.local_addr());
    let Ok(IpAddr::V4(ours)) = ours.map(|a| a.ip()) else {
        return skip("a network", "peers_that_do_not_answer");
    };
    alone("peers_that_do_not_answer", &[("UCX_TLS", Path::new("tcp"))], || {
        within(LIMIT, async {
            let mut stage = Stage::new().await;
            const LENGTH: u8 = 0x82;
            // Each offer is used once.
            let (offer, _) = stage.offer("readable");
            let (_, honest) = stage.offer("readable");
            let mut forged = Blob::of(&honest);
            forged.name = b"deaf".to_vec();
            let details = &mut forged.connections[0].1;
            let theirs = listening();
            let (listener, _waiting) = deaf(ours);
            let port = listener.local_addr().unwrap().port().to_be_bytes();
            // Other bytes may be some listener's port by chance: UCX's length of an address comes before one.
            let is_port = |w: &[u8]| w[0] == LENGTH && theirs.contains(&[w[1], w[2]]);
            let at = details.windows(3).position(is_port).unwrap();
            details[at + 1..at + 3].copy_from_slice(&port);
            let forged = with_blob(&honest, &forged.bytes()).unwrap();

            let started = Instant::now();
            let timeout = Duration::from_secs(1);
            let options = OperationOptions::new().timeout(timeout);
            let region = Region::zeroed(LEN).unwrap();
            let begun = stage.connector.begin_read_with(&forged, region, options).await;
            // Others are not kept waiting.
            stage.serve(&offer).await;
            assert!(started.elapsed() < timeout, "others waited for {:?}", started.elapsed());
            let error = match begun {
                Err(error) => error,
                Ok(mut read) => read.wait_for_completion().await.unwrap_err().into(),
            };
            assert_matches!(
                error,
                ConnectorError::Transport(TransportError::PeerGone { .. })
                    | ConnectorError::Operation(
                        OperationError::TimedOut { .. }
                            | OperationError::Transport(TransportError::PeerGone { .. })
                    )
            );
            assert!(started.elapsed() < 2 * timeout, "it took {:?}", started.elapsed());
        });
    });
}

/// What a process says whose NIXL is like this.
fn first_words(variables: &[(&str, &Path)]) -> String {
    let mut peer = Peer::spawn(PEER, variables).unwrap();
    let said = peer.answer("start").unwrap_err().to_string();
    let status = peer.wait().unwrap();
    assert!(status.success(), "it ended by itself, not by a signal: {status}");
    said
}

#[test]
fn libraries_that_are_not_nixl() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libnixl_capi.so");
    let prefix: [(&str, &Path); 1] = [("NIXL_PREFIX", folder.path())];

    fs::write(&library, "not a library").unwrap();
    let said = first_words(&prefix);
    assert!(said.contains("Nixl(NotLoadable"), "{said}");

    // Any other library stands for one that is too old: it lacks what is needed.
    fs::copy(libc(), &library).unwrap();
    let said = first_words(&prefix);
    assert!(said.contains("Nixl(MissingSymbol"), "{said}");
}

#[test]
fn plugins_that_do_not_load() {
    let folder = tempfile::tempdir().unwrap();
    let plugins: [(&str, &Path); 1] = [("NIXL_PLUGIN_DIR", folder.path())];
    let said = first_words(&plugins);
    assert!(said.contains("Nixl(NoPlugin { backend: \"UCX\""), "{said}");
    assert!(said.contains(&*folder.path().to_string_lossy()), "{said}");

    fs::write(folder.path().join("libplugin_UCX.so"), "not a library").unwrap();
    let said = first_words(&plugins);
    assert!(said.contains("Nixl(NoPlugin { backend: \"UCX\""), "{said}");

    // A library that loads, and is no plugin.
    fs::copy(libc(), folder.path().join("libplugin_UCX.so")).unwrap();
    let said = first_words(&plugins);
    assert!(said.contains("Nixl(NoPlugin { backend: \"UCX\""), "{said}");
}

/// The C library that this process uses.
fn libc() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("/libc.so") || line.contains("/libc-"));
    PathBuf::from(line.unwrap().split_whitespace().last().unwrap())
}

//! Peers whose name others use, with agents of NIXL's.

use std::error::Error;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use nixl_ops::{ConnectSpec, OperationError, PeerId, Transport, TransportError};
use nixl_sys::NixlError;
use uuid::Uuid;

use super::super::blob::{Blob, Memory, UCX};
use super::super::transport::NixlTransport;
use super::failed;
use crate::control::ControlThread;

fn agent(name: &str) -> NixlTransport {
    let name = format!("{name}-{}", Uuid::new_v4());
    NixlTransport::open(&name, ControlThread::spawn().unwrap()).unwrap()
}

/// How an agent is reached, under a name and with memories of choice.
fn metadata(agent: &NixlTransport, name: &str, memories: &[Memory<'_>]) -> Vec<u8> {
    let metadata = agent.local_metadata().unwrap();
    let blob = Blob::parse(&metadata).unwrap();
    Blob { name, memories: memories.to_vec(), connections: blob.connections }.encode()
}

#[test]
fn errors_of_the_engine_are_sources() {
    let error = OperationError::from(failed("get_local_md", NixlError::BackendError));
    assert!(error.source().is_some_and(|source| source.is::<NixlError>()), "{error:?}");
}

#[test]
fn the_identifier_of_a_connect_leads_to_what_is_loaded_now() {
    let [here, other, peer] = ["here", "other", "peer"].map(agent);
    let metadata = peer.local_metadata().unwrap();
    let connect = |agent: &NixlTransport| agent.connect(&metadata).unwrap().into_peer();
    let (first, of_another) = (connect(&here), connect(&other));
    let loaded = |id: &PeerId| here.directory.loaded_by_id(id).map(|loaded| loaded.peer.connection);
    let connection = loaded(&first);
    assert!(connection.is_some() && connection == loaded(&PeerId::new(peer.agent_name())));
    assert_eq!(
        loaded(&of_another),
        connection,
        "it is of another agent's entry, and counts as a name"
    );
    // As a transfer that is being prepared holds it.
    let _held = here.directory.loaded_by_id(&first);
    here.disconnect(&first).unwrap();
    assert_eq!(loaded(&first), None);
    let second = connect(&here);
    assert!(loaded(&second).is_some() && loaded(&second) != connection);
    assert_eq!(loaded(&first), loaded(&second));
}

/// Sends a message, which arrives.
fn check_reaches(agent: &NixlTransport, peer: &NixlTransport) {
    /// Far longer than any message takes.
    const PATIENCE: Duration = Duration::from_secs(20);
    let (name, until) = (PeerId::new(peer.agent_name()), Instant::now() + PATIENCE);
    while let sent = agent.notify(&name, b"hello")
        && sent != Poll::Ready(Ok(()))
    {
        assert!(sent.is_pending() && Instant::now() < until, "{sent:?}");
        thread::yield_now();
    }
    let mut arrived = false;
    while !arrived {
        assert!(Instant::now() < until, "the message does not arrive");
        let note = &mut |from: &str, _: &[u8]| arrived |= from == agent.agent_name();
        peer.take_notifications(note).unwrap();
        thread::yield_now();
    }
}

/// What a peer can make grow is visible.
fn check_says(agent: &NixlTransport, counts: &str) {
    assert!(format!("{agent:?}").contains(counts), "{agent:?}");
}

#[test]
fn memory_that_nixl_refuses_costs_the_peer_of_that_name_nothing() {
    let [agent, peer] = ["agent", "peer"].map(agent);
    let name = peer.agent_name();
    agent.connect(&metadata(&peer, name, &[])).unwrap();
    // As a holder of the peer's metadata can send it in the peer's name.
    let memory = |kind, key| Memory { backend: UCX, kind, device: 0, address: 64, len: 64, key };
    let introduce = |memories: &[Memory<'_>]| {
        let forged = metadata(&peer, name, memories);
        agent.connect_for(&ConnectSpec::new(&forged).introduced_by(name))
    };
    let (key, other) = ([0; 9], [0, 0, 0, 0, 0, 0, 0, 0, 1]);
    for kind in 2..5 {
        introduce(&[memory(kind, &key)]).unwrap();
        check_reaches(&agent, &peer);
    }
    for refused in [&[memory(0, &key), memory(0, &other)][..], &vec![memory(0, &key); 5000]] {
        let refused = introduce(refused);
        assert!(matches!(refused, Err(TransportError::BadMetadata { .. })), "{refused:?}");
        check_reaches(&agent, &peer);
    }
}

#[test]
fn a_name_that_another_agent_took_by_introducing_itself_is_its_owners_once_it_is_used() {
    let [agent, peer, other] = ["agent", "peer", "other"].map(agent);
    let name = peer.agent_name();
    let taken = metadata(&other, name, &[]);
    let introduction = ConnectSpec::new(&taken).introduced_by(name);
    agent.connect_for(&introduction).unwrap();
    check_says(&agent, "peers: 1, introduced_peers: 1, forgotten_peers: 0, memories_of_peers: 0");
    let connected = agent.connect(&metadata(&peer, name, &[])).unwrap();
    assert!(connected.superseded());
    check_reaches(&agent, &peer);
    let conflict = TransportError::IdentityConflict { name: name.to_owned() };
    assert_eq!(agent.connect_for(&introduction), Err(conflict.clone()));
    assert_eq!(agent.connect(&taken), Err(conflict));
    check_reaches(&agent, &peer);
}

#[test]
fn a_name_that_this_process_has_used_is_no_other_agents_by_an_introduction() {
    let [agent, peer, other] = ["agent", "peer", "other"].map(agent);
    let name = peer.agent_name();
    let (own, taken) = (metadata(&peer, name, &[]), metadata(&other, name, &[]));
    agent.connect(&own).unwrap();
    // Broken, and then forgotten.
    agent.directory.peer(&PeerId::new(name)).unwrap().set_broken();
    let conflict = Err(TransportError::IdentityConflict { name: name.to_owned() });
    let introduction = ConnectSpec::new(&taken).introduced_by(name);
    assert_eq!(agent.connect_for(&introduction), conflict);
    agent.disconnect(&PeerId::new(name)).unwrap();
    check_says(&agent, "peers: 0, introduced_peers: 0, forgotten_peers: 1, memories_of_peers: 0");
    assert_eq!(agent.connect_for(&introduction), conflict);
    agent.connect_for(&ConnectSpec::new(&own).introduced_by(name)).unwrap();
    check_reaches(&agent, &peer);
}

/// The identity of this machine lies where UCX reads the length of a name: with that of another machine, which a peer without proof
/// gets, all that follows would be read from elsewhere.
#[test]
fn an_address_that_another_identity_damages_is_refused() {
    /// The header's first byte: version 0, with a worker, a client and a name.
    const NAMED: u8 = 0x70;
    let [agent, peer] = ["agent", "peer"].map(agent);
    let machine = agent.directory.machine.unwrap().to_le_bytes();
    let at = (0..7).find(|at| usize::from(machine[*at]) >= 7 - at).unwrap();
    let own = peer.local_metadata().unwrap();
    let (_, own) = Blob::parse(&own).unwrap().connections[0];
    let (worker, devices) = own[1..].split_at(8);
    let client = [&vec![0; 8 - at][..], &machine[..at]].concat();
    let name = vec![0; usize::from(machine[at]) - (7 - at)];
    let address = [&[NAMED], worker, &client, &machine[at..], &name, devices].concat();
    let connections = vec![(UCX, &address[..])];
    agent.directory.agent.check(&connections).unwrap();
    let forged = Blob { name: "nowhere", memories: Vec::new(), connections }.encode();
    let refused = agent.connect(&forged);
    assert!(matches!(refused, Err(TransportError::BadMetadata { .. })), "{refused:?}");
}

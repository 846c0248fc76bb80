//! Conformance of metadata: both encodings, repeated, out of date, and hostile.

use std::sync::Arc;

use nixl_device::Device;
use nixl_metadata::{AgentMetadata, Limits, NotificationKey, RdmaMetadata, SerializedDescriptor};
use nixl_ops::ConnectSpec;

use super::Failure;
use super::failure::ensure;
use super::support::{Pair, Scene, pattern, patterned, play, play_through, poisoned, still_works};
use crate::{Connector, ConnectorError, OperationKind, TransportError};

const LEN: usize = 4 << 10;

pub(super) async fn dynamo(pair: &Pair) -> Result<(), Failure> {
    for kind in [OperationKind::Read, OperationKind::Write] {
        play_through(pair, kind, &Scene::contiguous(1, LEN)?, |metadata| {
            Ok(RdmaMetadata::decode(metadata.to_dynamo_json().as_bytes())?)
        })
        .await?;
    }
    Ok(())
}

pub(super) async fn native(pair: &Pair) -> Result<(), Failure> {
    for kind in [OperationKind::Read, OperationKind::Write] {
        play_through(pair, kind, &Scene::contiguous(1, LEN)?, |metadata| {
            let decoded = RdmaMetadata::decode(&metadata.to_native_bytes()?)?;
            let named = decoded.peer().is_some_and(|p| p.agent_name() == pair.target.name());
            ensure(named, "the native profile names the target")?;
            Ok(decoded)
        })
        .await?;
    }
    Ok(())
}

/// Repeated metadata of one agent: one peer.
pub(super) async fn repeated(pair: &Pair) -> Result<(), Failure> {
    let scene = Scene::contiguous(1, LEN)?;
    for _ in 0..10 {
        play(pair, OperationKind::Read, &scene).await?;
        ensure(pair.initiator.stats().peers == 1, "the target is one peer")?;
    }
    Ok(())
}

/// The target registers more memory; earlier metadata stays valid.
pub(super) async fn changed_registrations(pair: &Pair) -> Result<(), Failure> {
    let mut offers = Vec::new();
    for seed in 0..4 {
        offers.push(pair.target.create_readable(patterned(seed, LEN)?).await?);
        if seed == 1 {
            still_works(pair).await?;
        }
    }
    // The newest first, so each later one is loaded on top of metadata with more memory.
    for (seed, offer) in (0..4).rev().zip(offers.iter_mut().rev()) {
        let local = poisoned(LEN)?;
        let mut read = pair.initiator.begin_read(offer.metadata(), local.clone()).await?;
        read.wait_for_completion().await?;
        offer.wait_for_completion().await?;
        ensure(local.to_vec()? == pattern(seed, LEN), "each read finds its own")?;
    }
    ensure(pair.initiator.stats().peers == 1, "the target is one peer")?;
    still_works(pair).await
}

/// The target's memory is freed. Engines need not detect it, but none may crash, hang or break.
pub(super) async fn stale(pair: &Pair) -> Result<(), Failure> {
    let mut offer = pair.target.create_readable(patterned(1, 1 << 20)?).await?;
    let remote = offer.metadata().clone();
    pair.initiator.begin_read(&remote, poisoned(1 << 20)?).await?.wait_for_completion().await?;
    offer.wait_for_completion().await?;
    drop(offer);
    if let Ok(mut read) = pair.initiator.begin_read(&remote, poisoned(1 << 20)?).await {
        // Any end is accepted.
        let _ = read.wait_for_completion().await;
    }
    still_works(pair).await
}

/// Addresses that the target has not registered are refused before a byte moves.
pub(super) async fn never_registered(pair: &Pair) -> Result<(), Failure> {
    let offer = pair.target.create_readable(patterned(1, LEN)?).await?;
    let own = offer.metadata().descriptors().first().copied();
    let own = own.ok_or_else(|| Failure::new("the offer has no descriptor"))?;
    let beyond = SerializedDescriptor::new(own.device(), own.ptr(), own.size() + 1)?;
    let elsewhere = SerializedDescriptor::new(Device::HOST, 0x1000, 16)?;
    for (descriptor, len) in [(beyond, LEN + 1), (elsewhere, 16)] {
        let forged = forge(offer.metadata(), vec![descriptor], None)?;
        let refused = pair.initiator.begin_read(&forged, poisoned(len)?).await.err();
        let not_registered = matches!(
            refused,
            Some(ConnectorError::Transport(TransportError::NotRegistered { index: 0, .. }))
        );
        ensure(not_registered, "memory that was not registered is refused")?;
    }
    still_works(pair).await
}

pub(super) async fn own(pair: &Pair) -> Result<(), Failure> {
    let offer = pair.initiator.create_readable(patterned(1, LEN)?).await?;
    let refused = pair.initiator.begin_read(offer.metadata(), poisoned(LEN)?).await.err();
    ensure(is_own(&refused, &pair.initiator), "an agent is not its own peer")?;
    still_works(pair).await
}

pub(super) async fn garbage(pair: &Pair) -> Result<(), Failure> {
    let offer = pair.target.create_readable(patterned(1, LEN)?).await?;
    for blob in
        [b"\0".to_vec(), b"not an agent's metadata".to_vec(), pattern(1, LEN), vec![0xff; LEN]]
    {
        let refused = read_with_blob(pair, offer.metadata(), &blob).await?;
        ensure(is_bad(&refused), "garbage is refused")?;
    }
    still_works(pair).await
}

pub(super) async fn truncated(pair: &Pair) -> Result<(), Failure> {
    let offer = pair.target.create_readable(patterned(1, LEN)?).await?;
    let blob = offer.metadata().agent_metadata().inflate(&Limits::default())?;
    let step = (blob.len() / 50).max(1);
    for cut in (1..blob.len()).step_by(step).chain([blob.len() - 1]) {
        let refused =
            read_with_blob(pair, offer.metadata(), blob.get(..cut).unwrap_or(&blob)).await?;
        ensure(is_bad(&refused), "half of the metadata is refused")?;
    }
    let mut longer = blob.to_vec();
    longer.push(0);
    let refused = read_with_blob(pair, offer.metadata(), &longer).await?;
    ensure(is_bad(&refused), "metadata with something behind it is refused")?;
    still_works(pair).await
}

/// An outsider's metadata that claims to be the initiator's own.
pub(super) async fn under_our_name(pair: &Pair, outsider: &Connector) -> Result<(), Failure> {
    let offer = outsider.create_readable(patterned(1, LEN)?).await?;
    let blob = rename(offer.metadata(), outsider.name(), pair.initiator.name())?;
    let refused = read_with_blob(pair, offer.metadata(), &blob).await?;
    ensure(is_own(&refused, &pair.initiator), "no other agent may use our name")?;
    still_works(pair).await
}

/// An outsider's metadata that claims to be the target's, which is connected already.
pub(super) async fn under_a_foreign_name(pair: &Pair, outsider: &Connector) -> Result<(), Failure> {
    still_works(pair).await?;
    let offer = outsider.create_readable(patterned(1, LEN)?).await?;
    let blob = rename(offer.metadata(), outsider.name(), pair.target.name())?;
    let refused = read_with_blob(pair, offer.metadata(), &blob).await?;
    let conflict =
        matches!(refused, Some(ConnectorError::Transport(TransportError::IdentityConflict { .. })));
    ensure(conflict, "one name is one agent")?;
    still_works(pair).await
}

/// An outsider introduces itself under the target's name, before the target is met and afterwards.
pub(super) async fn introduced_under_a_foreign_name(
    pair: &Pair,
    outsider: &Connector,
) -> Result<(), Failure> {
    let offer = outsider.create_readable(patterned(1, LEN)?).await?;
    let blob = rename(offer.metadata(), outsider.name(), pair.target.name())?;
    for _ in 0..2 {
        let (connection, name) = (pair.initiator.connection(), pair.target.name().to_owned());
        let (transport, blob) = (Arc::clone(connection.transport()), blob.clone());
        let introduce = move || {
            transport.connect_for(&ConnectSpec::new(&blob).needing(&[]).introduced_by(&name))
        };
        // An engine may know that it is another's name.
        let _ = connection.control().run(introduce).await?;
        still_works(pair).await?;
    }
    Ok(())
}

async fn read_with_blob(
    pair: &Pair,
    genuine: &RdmaMetadata,
    blob: &[u8],
) -> Result<Option<ConnectorError>, Failure> {
    let forged = forge(genuine, genuine.descriptors().to_vec(), Some(blob))?;
    Ok(pair.initiator.begin_read(&forged, poisoned(LEN)?).await.err())
}

fn forge(
    genuine: &RdmaMetadata,
    descriptors: Vec<SerializedDescriptor>,
    blob: Option<&[u8]>,
) -> Result<RdmaMetadata, Failure> {
    let agent = match blob {
        Some(blob) => AgentMetadata::compress(blob)?,
        None => genuine.agent_metadata().clone(),
    };
    Ok(RdmaMetadata::new(genuine.operation_kind(), descriptors, agent, NotificationKey::random())?)
}

/// The blob with one agent's name in place of another's.
fn rename(metadata: &RdmaMetadata, from: &str, to: &str) -> Result<Vec<u8>, Failure> {
    if from.len() != to.len() {
        return Err(Failure::new(format!("{from} and {to} differ in length: see Harness::pair")));
    }
    let mut blob = metadata.agent_metadata().inflate(&Limits::default())?.to_vec();
    let places: Vec<_> = blob
        .windows(from.len())
        .enumerate()
        .filter_map(|(at, window)| (window == from.as_bytes()).then_some(at))
        .collect();
    ensure(!places.is_empty(), "metadata names its agent")?;
    for at in places {
        if let Some(place) = blob.get_mut(at..at + to.len()) {
            place.copy_from_slice(to.as_bytes());
        }
    }
    Ok(blob)
}

fn is_bad(refused: &Option<ConnectorError>) -> bool {
    matches!(refused, Some(ConnectorError::Transport(TransportError::BadMetadata { .. })))
}

fn is_own(refused: &Option<ConnectorError>, connector: &Connector) -> bool {
    matches!(
        refused,
        Some(ConnectorError::Transport(TransportError::OwnIdentity { name })) if name == connector.name()
    )
}

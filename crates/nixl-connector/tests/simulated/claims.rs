//! Claims by messages: what initiators do that cannot reach the slot of an offer.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nixl_connector::simulated::Fabric;
use nixl_connector::{
    ClaimDemand, Connector, ConnectorError, EndedOffer, OperationError, OperationOptions,
    RevokeOutcome, TransportError, WritableOperation, WriteOperation,
};
use nixl_descriptor::Region;
use nixl_metadata::{OfferTerms, RdmaMetadata};
use nixl_ops::SystemClock;

const LEN: usize = 5000;

struct Net {
    target: Connector,
    initiators: [Connector; 2],
}

async fn net(claims: ClaimDemand) -> Net {
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let build = |name| {
        let connector = Connector::builder().transport(fabric.transport(name)).claims(claims);
        connector.build()
    };
    Net {
        target: build("target").await.unwrap(),
        initiators: [build("first").await.unwrap(), build("second").await.unwrap()],
    }
}

/// The offer as an initiator of another host has it: its slot cannot be reached.
fn from_afar(offer: &RdmaMetadata, terms: OfferTerms) -> RdmaMetadata {
    let (kind, descriptors) = (offer.operation_kind(), offer.descriptors().to_vec());
    let (agent, key) = (offer.agent_metadata().clone(), offer.notification_key().clone());
    RdmaMetadata::new(kind, descriptors, agent, key)
        .unwrap()
        .with_peer(offer.peer().unwrap().clone())
        .with_terms(terms)
        .unwrap()
}

fn remote(offer: &RdmaMetadata) -> RdmaMetadata {
    from_afar(offer, *offer.terms().unwrap())
}

fn bytes() -> Region {
    Region::try_from(vec![9; LEN]).unwrap()
}

async fn write(from: &Connector, remote: &RdmaMetadata) -> Result<(), ConnectorError> {
    let mut write = from.begin_write(bytes(), remote).await?;
    write.wait_for_completion().await?;
    Ok(())
}

fn ended(why: EndedOffer) -> Result<(), ConnectorError> {
    Err(OperationError::Transport(TransportError::OfferEnded { why }).into())
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn one_initiator_is_granted_the_claim_and_the_other_is_refused() {
    let net = net(ClaimDemand::Everywhere).await;
    let memory = Region::zeroed(LEN).unwrap();
    let mut offer = net.target.create_writable(memory.clone()).await.unwrap();
    let remote = remote(offer.metadata());
    let [first, second] = &net.initiators;
    let (one, other) = tokio::join!(write(first, &remote), write(second, &remote));
    assert_eq!([&one, &other].iter().filter(|end| end.is_ok()).count(), 1, "{one:?} {other:?}");
    let refused = if one.is_ok() { other } else { one };
    // The two are of one process, which remembers the keys that it uses.
    let spent = TransportError::OfferEnded { why: EndedOffer::Spent };
    let why = |why| refused == ended(why);
    let refused_as_used = refused == Err(spent.into());
    assert!(refused_as_used || why(EndedOffer::Claimed) || why(EndedOffer::Revoked), "{refused:?}");
    offer.wait_for_completion().await.unwrap();
    assert_eq!(memory.to_vec().unwrap(), [9; LEN]);
}

#[tokio::test]
async fn an_offer_that_was_revoked_is_refused() {
    let net = net(ClaimDemand::Everywhere).await;
    let memory = Region::zeroed(LEN).unwrap();
    let mut offer = net.target.create_writable(memory.clone()).await.unwrap();
    let remote = remote(offer.metadata());
    assert_eq!(offer.revoke(), RevokeOutcome::Free);
    // The owner answers while another offer of its is open.
    let _open = net.target.create_writable(Region::zeroed(64).unwrap()).await.unwrap();
    assert_eq!(write(&net.initiators[0], &remote).await, ended(EndedOffer::Revoked));
    assert_eq!(memory.to_vec().unwrap(), [0; LEN]);
}

#[tokio::test]
async fn a_claim_with_a_wrong_token_is_neither_granted_nor_answered() {
    let net = net(ClaimDemand::Everywhere).await;
    let memory = Region::zeroed(LEN).unwrap();
    let mut offer = net.target.create_writable(memory.clone()).await.unwrap();
    let terms = *offer.metadata().terms().unwrap();
    let token = NonZeroU64::new(terms.token().get() ^ 1 << 63 | 1).unwrap();
    let forged = OfferTerms::new(terms.expires(), token).unwrap().with_claims(terms.claims());
    let forged = from_afar(offer.metadata(), forged);
    let options = OperationOptions::new().timeout(Duration::from_millis(700));
    let [stranger, holder] = &net.initiators;
    let mut refused = stranger.begin_write_with(bytes(), &forged, options).await.unwrap();
    let error = refused.wait_for_completion().await.unwrap_err();
    assert_eq!(error, OperationError::TimedOut { after: Duration::from_millis(700) });
    assert_eq!(memory.to_vec().ok(), None, "the offer is open");
    // Its holder has the token already.
    write(holder, &remote(offer.metadata())).await.unwrap();
    offer.wait_for_completion().await.unwrap();
    assert_eq!(memory.to_vec().unwrap(), [9; LEN]);
}

#[tokio::test]
async fn a_declined_offer_ends_without_its_deadline() {
    let net = net(ClaimDemand::SameHost).await;
    let mut offer = net.target.create_writable(Region::zeroed(LEN).unwrap()).await.unwrap();
    let far = remote(offer.metadata());
    net.initiators[0].decline(&far).await.unwrap();
    assert_eq!(offer.wait_for_completion().await, Err(OperationError::Declined));
    assert!(offer.reclaim().await.memory.is_some());
    let spent = TransportError::OfferEnded { why: EndedOffer::Spent };
    assert_eq!(write(&net.initiators[0], &far).await, Err(spent.into()), "it keeps its word");
}

#[tokio::test]
async fn a_known_initiator_is_asked_about_offers_that_demand_no_claim() {
    let net = net(ClaimDemand::WhereMapped).await;
    let initiator = &net.initiators[0];
    // The first write between the two is claimed, and makes the initiator known.
    let mut first = net.target.create_writable(Region::zeroed(LEN).unwrap()).await.unwrap();
    write(initiator, &remote(first.metadata())).await.unwrap();
    first.wait_for_completion().await.unwrap();
    let memory = Region::zeroed(LEN).unwrap();
    let mut second = made_later(&net.target, &memory).await;
    let far = remote(second.metadata());
    assert_eq!(second.revoke(), RevokeOutcome::Held, "the initiator may be writing");
    // It takes messages while it waits for one.
    let _open = initiator.create_writable(Region::zeroed(64).unwrap()).await.unwrap();
    eventually("its answer gives the memory back", || memory.copy_from_slice(0, &[1]).is_ok())
        .await;
    assert_eq!(net.target.stats().quarantined().offers(), 0);
    let revoked = TransportError::OfferEnded { why: EndedOffer::Revoked };
    let refused = write(initiator, &far).await;
    assert_eq!(refused, Err(OperationError::from(revoked).into()), "it keeps its word");
    assert_eq!(memory.to_vec().unwrap()[..2], [1, 0]);
}

/// An offer that is made at a later time than any before the call. Times are told in milliseconds, and the clock goes in steps of
/// some.
async fn made_later(target: &Connector, memory: &Region) -> WritableOperation {
    let made = |offer: &WritableOperation| offer.metadata().terms().unwrap().made_unix_millis();
    let before = made(&target.create_writable(Region::zeroed(64).unwrap()).await.unwrap());
    loop {
        // One whose metadata was not given out is free at once.
        let probe = target.create_writable(memory.clone()).await.unwrap();
        if made(&probe) > before {
            return probe;
        }
        drop(probe);
        eventually("the memory is free", || memory.copy_from_slice(0, &[0]).is_ok()).await;
    }
}

#[tokio::test]
async fn a_write_that_is_given_up_while_it_claims_is_over() {
    let net = net(ClaimDemand::Everywhere).await;
    let memory = Region::zeroed(LEN).unwrap();
    let mut offer = net.target.create_writable(memory.clone()).await.unwrap();
    let far = remote(offer.metadata());
    let abandoned: WriteOperation = net.initiators[0].begin_write(bytes(), &far).await.unwrap();
    drop(abandoned);
    // Its claim, if it was sent, is taken back, and the offer ends or is free for another initiator; or it was granted before, and
    // the write comes to its end.
    let second = write(&net.initiators[1], &far).await;
    let end = offer.wait_for_completion().await;
    assert!(end.is_ok() || second.is_err(), "{second:?} {end:?}");
    if end.is_ok() {
        assert_eq!(memory.to_vec().unwrap(), [9; LEN]);
    }
    assert!(offer.reclaim().await.memory.is_some());
}

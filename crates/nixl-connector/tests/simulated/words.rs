//! Offers with a word: initiators that cannot map the slot check through the engine that the offer stands.

use nixl_connector::simulated::Fault;
use nixl_connector::{
    Connector, ConnectorError, OperationError, OperationOptions, ReadOperation, ReadableOperation,
    TransportError,
};
use nixl_descriptor::Region;
use nixl_metadata::{NativeVersion, RdmaMetadata};

use crate::net::{Net, net};
use crate::side::pattern;

const LEN: usize = 5000;
/// All bytes move, and the end of the request is withheld.
const ALL: Fault = Fault::Stalls { after: u64::MAX };

fn checked() -> OperationOptions {
    OperationOptions::new().check_word(true)
}

async fn offer(net: &Net, options: OperationOptions) -> (ReadableOperation, Region) {
    let source = Region::try_from(pattern(LEN)).unwrap();
    let offer = net.target.create_readable_with(source.clone(), options).await.unwrap();
    (offer, source)
}

/// The offer as an initiator of another host has it: its slot cannot be reached.
fn from_afar(offer: &ReadableOperation) -> RdmaMetadata {
    let offer = RdmaMetadata::decode(&offer.metadata().to_native_bytes().unwrap()).unwrap();
    let (kind, descriptors) = (offer.operation_kind(), offer.descriptors().to_vec());
    let (agent, key) = (offer.agent_metadata().clone(), offer.notification_key().clone());
    let afar = RdmaMetadata::new(kind, descriptors, agent, key)
        .unwrap()
        .with_peer(offer.peer().unwrap().clone())
        .with_terms(*offer.terms().unwrap())
        .unwrap();
    match offer.word() {
        Some(word) => afar.with_word(word).unwrap(),
        None => afar,
    }
}

async fn begin(
    from: &Connector,
    remote: &RdmaMetadata,
    options: OperationOptions,
) -> (ReadOperation, Region) {
    let local = Region::zeroed(LEN).unwrap();
    let read = from.begin_read_with(remote, local.clone(), options).await.unwrap();
    (read, local)
}

async fn until_posted(net: &Net) {
    while net.fabric.faults().left() > 0 {
        tokio::task::yield_now().await;
    }
}

fn no_word<T>(begun: Result<T, ConnectorError>) -> bool {
    matches!(begun, Err(ConnectorError::NoOfferWord { .. }))
}

#[tokio::test]
async fn a_read_of_an_offer_that_stands_is_right_and_completes_it() {
    let net = net().await;
    for _ in 0..3 {
        let (mut offer, _) = offer(&net, checked()).await;
        let (mut read, local) = begin(&net.initiator, &from_afar(&offer), checked()).await;
        assert_eq!(read.wait_for_completion().await.unwrap().bytes(), LEN as u64);
        assert_eq!(local.to_vec().unwrap(), pattern(LEN));
        assert_eq!(offer.wait_for_completion().await.unwrap().bytes(), LEN as u64);
    }
}

/// The owner ends the offer and overwrites its memory, when the bytes have moved and the reader does not know it yet.
#[tokio::test]
async fn a_read_of_an_offer_that_ended_meanwhile_is_stale() {
    for asked in [true, false] {
        let net = net().await;
        let (mut offer, source) = offer(&net, checked()).await;
        let options = if asked { checked() } else { OperationOptions::new() };
        net.fabric.faults().next([ALL]);
        let (mut read, _local) = begin(&net.initiator, &from_afar(&offer), options).await;
        until_posted(&net).await;
        offer.cancel();
        source.copy_from_slice(0, &[0xee; LEN]).unwrap();
        net.fabric.faults().release();
        let ended = read.wait_for_completion().await.map(|done| done.bytes());
        match asked {
            true => assert_eq!(ended, Err(OperationError::Transport(TransportError::Stale))),
            // Not asked, it cannot be known.
            false => assert_eq!(ended, Ok(LEN as u64)),
        }
    }
}

/// A next offer of the same memory publishes another number, also at the same place.
#[tokio::test]
async fn a_word_of_the_next_offer_is_not_taken_for_that_of_the_last() {
    let net = net().await;
    let (mut first, source) = offer(&net, checked()).await;
    let afar = from_afar(&first);
    first.cancel();
    let mut offers = Vec::new();
    let second = loop {
        let offer = net.target.create_readable_with(source.clone(), checked()).await.unwrap();
        let word = offer.metadata().word().unwrap();
        offers.push(offer);
        assert_ne!(word.value(), afar.word().unwrap().value());
        if word.address() == afar.word().unwrap().address() {
            break word;
        }
    };
    let (mut read, _local) = begin(&net.initiator, &afar, checked()).await;
    let ended = read.wait_for_completion().await;
    assert_eq!(ended.unwrap_err(), OperationError::Transport(TransportError::Stale), "{second:?}");
}

#[tokio::test]
async fn what_cannot_be_checked_does_not_begin() {
    let net = net().await;
    let (plain, _) = offer(&net, OperationOptions::new()).await;
    assert_eq!(plain.metadata().word(), None);
    let (old, _) = offer(&net, checked()).await;
    let old = old.metadata().to_native_bytes_as(NativeVersion::V3).unwrap();
    let (json, _) = offer(&net, checked()).await;
    let json = json.metadata().to_dynamo_json().into_bytes();
    let decoded = |form: &[u8]| RdmaMetadata::decode(form).unwrap();
    for remote in [from_afar(&plain), decoded(&old), decoded(&json)] {
        let local = Region::zeroed(LEN).unwrap();
        let begun = net.initiator.begin_read_with(&remote, local.clone(), checked()).await;
        assert!(no_word(begun));
        assert_eq!(local.to_vec().unwrap(), [0; LEN]);
    }
    // It is usable without the check.
    let (mut read, _local) =
        begin(&net.initiator, &from_afar(&plain), OperationOptions::new()).await;
    read.wait_for_completion().await.unwrap();
}

#[tokio::test]
async fn writes_have_no_word() {
    let net = net().await;
    let memory = || Region::zeroed(64).unwrap();
    assert!(no_word(net.target.create_writable_with(memory(), checked()).await));
    let offer = net.target.create_writable(memory()).await.unwrap();
    assert!(no_word(net.initiator.begin_write_with(memory(), offer.metadata(), checked()).await));
}

#[tokio::test]
async fn where_the_slot_is_mapped_no_word_is_needed() {
    let net = net().await;
    let (mut offer, _) = offer(&net, OperationOptions::new()).await;
    let remote = RdmaMetadata::decode(&offer.metadata().to_native_bytes().unwrap()).unwrap();
    let (mut read, local) = begin(&net.initiator, &remote, checked()).await;
    read.wait_for_completion().await.unwrap();
    assert_eq!(local.to_vec().unwrap(), pattern(LEN));
    offer.wait_for_completion().await.unwrap();
}

#[tokio::test]
async fn a_word_that_cannot_be_read_is_an_error() {
    let net = net().await;
    for fault in [Fault::PostFails, Fault::Fails { after: 0 }] {
        let (offer, _) = offer(&net, checked()).await;
        // That of the bytes is spared.
        net.fabric.faults().next([]);
        net.fabric.faults().next([fault]);
        let (mut read, _local) = begin(&net.initiator, &from_afar(&offer), checked()).await;
        let ended = read.wait_for_completion().await;
        assert!(matches!(ended, Err(OperationError::Transport(_))), "{ended:?}");
        assert!(!offer.status().is_terminal(), "its owner hears of no end");
        assert!(read.reclaim().await.memory.is_some());
    }
}

#[tokio::test]
async fn a_check_that_is_given_up_gives_its_memory_back() {
    let net = net().await;
    let (offer, _source) = offer(&net, checked()).await;
    net.fabric.faults().next([]);
    net.fabric.faults().next([ALL]);
    let (mut read, _local) = begin(&net.initiator, &from_afar(&offer), checked()).await;
    until_posted(&net).await;
    read.cancel();
    net.fabric.faults().release();
    assert!(read.reclaim().await.memory.is_some());
}

#[tokio::test]
async fn offers_without_the_option_register_no_words() {
    let net = net().await;
    let misses = || net.target.stats().registrations().misses();
    let before = misses();
    let _plain = offer(&net, OperationOptions::new()).await;
    assert_eq!(misses() - before, 1, "its own memory");
    let _first = offer(&net, checked()).await;
    assert_eq!(misses() - before, 3, "and the words");
    let _second = offer(&net, checked()).await;
    assert_eq!(misses() - before, 4, "once");
}

#[tokio::test]
async fn an_offer_beyond_the_number_of_words_is_refused() {
    let net = net().await;
    let source = Region::try_from(pattern(LEN)).unwrap();
    let mut offers = Vec::new();
    for _ in 0..nixl_ops::OfferWords::MOST {
        offers.push(net.target.create_readable_with(source.clone(), checked()).await.unwrap());
    }
    assert!(no_word(net.target.create_readable_with(source.clone(), checked()).await));
    offers.pop();
    net.target.create_readable_with(source, checked()).await.unwrap();
}

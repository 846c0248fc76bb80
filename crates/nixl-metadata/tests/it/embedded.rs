//! Messages inside larger ones, in a format for people and in a binary one.

use crate::support::{
    DYNAMO_READ, any_export, any_metadata, any_ticket, golden_export, golden_ticket, golden_v4,
    minimal,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bincode::Options;
use nixl_metadata::{ExportMetadata, RdmaMetadata, Ticket};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Request {
    id: u64,
    offer: Option<RdmaMetadata>,
    export: ExportMetadata,
    tickets: Vec<Ticket>,
    prompt: String,
}

fn request() -> Request {
    Request {
        id: 7,
        offer: Some(golden_v4()),
        export: golden_export(),
        tickets: vec![golden_ticket(); 2],
        prompt: "why is the sky blue".to_owned(),
    }
}

/// What Dynamo's object carries of an offer.
fn as_dynamo(offer: &RdmaMetadata) -> RdmaMetadata {
    RdmaMetadata::from_dynamo_json(offer.to_dynamo_json().as_bytes()).unwrap()
}

fn any_request() -> impl Strategy<Value = Request> {
    let tickets = proptest::collection::vec(any_ticket(), 0..3);
    (any::<u64>(), proptest::option::of(any_metadata()), any_export(), tickets, ".*").prop_map(
        |(id, offer, export, tickets, prompt)| Request { id, offer, export, tickets, prompt },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_of_it_travels_in_binary(request in any_request()) {
        let bytes = bincode::serialize(&request).unwrap();
        prop_assert_eq!(&bincode::deserialize::<Request>(&bytes).unwrap(), &request);
        // From a stream there is nothing to borrow.
        prop_assert_eq!(&bincode::deserialize_from::<_, Request>(&bytes[..]).unwrap(), &request);
        let short = bincode::DefaultOptions::new();
        let bytes = short.serialize(&request).unwrap();
        prop_assert_eq!(&short.deserialize::<Request>(&bytes).unwrap(), &request);
    }

    #[test]
    fn what_dynamo_carries_travels_in_json(request in any_request()) {
        let expected =
            Request { offer: request.offer.as_ref().map(as_dynamo), ..request.clone() };
        let text = serde_json::to_string_pretty(&request).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Request>(&text).unwrap(), &expected);
        prop_assert_eq!(&serde_json::from_slice::<Request>(text.as_bytes()).unwrap(), &expected);
        prop_assert_eq!(&serde_json::from_reader::<_, Request>(text.as_bytes()).unwrap(), &expected);
        let value = serde_json::to_value(&request).unwrap();
        prop_assert_eq!(serde_json::from_value::<Request>(value).unwrap(), expected);
    }

    #[test]
    fn the_object_is_that_of_dynamo(offer in any_metadata()) {
        let dynamo: Value = serde_json::from_str(&offer.to_dynamo_json()).unwrap();
        prop_assert_eq!(serde_json::to_value(&offer).unwrap(), dynamo);
        prop_assert_eq!(serde_json::to_string(&offer).unwrap(), offer.to_dynamo_json());
    }

    #[test]
    fn damaged_messages_are_refused_or_hold(
        request in any_request(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let json = serde_json::to_vec(&request).unwrap();
        for (form, mut bytes) in [(0, bincode::serialize(&request).unwrap()), (1, json)] {
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
            let limited = bincode::DefaultOptions::new()
                .with_fixint_encoding()
                .allow_trailing_bytes()
                .with_limit(bytes.len() as u64);
            let read = match form {
                0 => limited.deserialize::<Request>(&bytes).ok(),
                _ => serde_json::from_slice::<Request>(&bytes).ok(),
            };
            // What is in an envelope, or has a digest, is as it was or refused. Lists may be shorter.
            if let Some(read) = read {
                prop_assert_eq!(read.export, request.export.clone());
                prop_assert!(read.tickets.iter().all(|ticket| request.tickets.contains(ticket)));
            }
        }
    }
}

#[test]
fn the_forms_are_as_documented() {
    let value = serde_json::to_value(request()).unwrap();
    let export = golden_export().encode().unwrap();
    assert_eq!(value["export"], STANDARD.encode(&export));
    assert_eq!(value["tickets"][1], STANDARD.encode(golden_ticket().encode()));
    assert_eq!(serde_json::to_string(&minimal()).unwrap(), DYNAMO_READ);

    let sized = |bytes: Vec<u8>| [&(bytes.len() as u64).to_le_bytes(), &bytes[..]].concat();
    assert_eq!(bincode::serialize(&golden_export()).unwrap(), sized(export));
    assert_eq!(bincode::serialize(&golden_ticket()).unwrap(), sized(golden_ticket().encode()));
    let native = golden_v4().to_native_bytes().unwrap();
    assert_eq!(bincode::serialize(&golden_v4()).unwrap(), sized(native));
}

#[test]
fn an_offer_in_json_counts_as_one_without_terms() {
    let offer = golden_v4();
    bincode::serialize(&offer).unwrap();
    assert!(!offer.was_encoded_without_terms());
    serde_json::to_string(&offer).unwrap();
    assert!(offer.was_encoded_without_terms());
}

/// An enum whose variant is found by trial, for which serde keeps the message in a buffer.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Ticket { ticket: Ticket },
    Offer { offer: RdmaMetadata },
}

#[test]
fn messages_survive_a_buffer() {
    for either in [Either::Ticket { ticket: golden_ticket() }, Either::Offer { offer: minimal() }] {
        let text = serde_json::to_string(&either).unwrap();
        assert_eq!(serde_json::from_str::<Either>(&text).unwrap(), either);
    }
}

#[test]
fn faults_are_named() {
    let text = |error: serde_json::Error| error.to_string();
    let ticket = |value: Value| text(serde_json::from_value::<Ticket>(value).unwrap_err());
    let good = golden_ticket().encode();
    let base64 = |bytes: &[u8]| json!(STANDARD.encode(bytes));
    assert_eq!(
        ticket(json!("?")),
        "the ticket is not padded standard base64: pass on the text as it was serialised"
    );
    assert_eq!(ticket(json!("")), "the ticket ends too early: the rest was lost in transit");
    assert_eq!(
        ticket(base64(&[&good[..], &[0]].concat())),
        "the ticket is followed by other bytes: pass on exactly one message, as it was encoded"
    );
    let mut altered = good.clone();
    altered[20] ^= 1;
    assert_eq!(
        ticket(base64(&altered)),
        "the ticket was altered: pass it on exactly as the owner made it"
    );
    assert!(ticket(json!(5)).contains("expected the ticket as base64 or bytes"));
    let limit = 64 + 5 * (1 << 20);
    assert!(ticket(json!("A".repeat(limit / 3 * 4 + 8))).contains("more than the 5242944 allowed"));

    let bytes = bincode::serialize(&altered).unwrap();
    let error = bincode::deserialize::<Ticket>(&bytes).unwrap_err();
    assert!(error.to_string().contains("was altered"), "{error}");
    let error = bincode::deserialize::<ExportMetadata>(&bytes).unwrap_err();
    assert!(error.to_string().contains("not in the native profile"), "{error}");
    let long = vec![0u8; (12 << 20) + 1];
    let error = bincode::deserialize::<RdmaMetadata>(&bincode::serialize(&long).unwrap());
    assert!(error.unwrap_err().to_string().contains("more than the 12582912 allowed"));
}

#[test]
fn faults_of_offers_are_named_and_quote_nothing() {
    let offer =
        |value: Value| serde_json::from_value::<RdmaMetadata>(value).unwrap_err().to_string();
    let good = serde_json::to_value(minimal()).unwrap();
    let with = |path: &str, value: Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(path).unwrap() = value;
        offer(bad)
    };
    let secret = json!("139638282145792");
    let wrong = |what: &str| format!("{what}, and the message around it well-formed");
    assert_eq!(offer(json!(DYNAMO_READ)), wrong("the message must be an object"));
    assert_eq!(with("/descriptors", secret.clone()), wrong("descriptors must be an array"));
    assert_eq!(with("/descriptors/0", secret.clone()), wrong("descriptors[0] must be an object"));
    assert_eq!(
        with("/descriptors/0/ptr", secret.clone()),
        wrong("descriptors[0].ptr must be an integer")
    );
    assert_eq!(with("/operation_kind", secret), wrong("operation_kind must be an integer"));
    assert_eq!(
        with("/operation_kind", json!(3)),
        "operation_kind 3 is unknown: it is 1 to offer reading or 2 to offer writing"
    );
    assert!(with("/descriptors/0/size", json!(-1)).contains("must be an integer from 0"));
    assert!(with("/descriptors", json!([])).contains("list of descriptors is empty"));
    let many = vec![good["descriptors"][0].clone(); (1 << 16) + 1];
    assert!(with("/descriptors", json!(many)).contains("more than 65536 descriptors"));
    let cut = &DYNAMO_READ[..DYNAMO_READ.len() - 1];
    let error = serde_json::from_str::<RdmaMetadata>(cut).unwrap_err().to_string();
    assert_eq!(error, wrong("the message must be an object"));
}

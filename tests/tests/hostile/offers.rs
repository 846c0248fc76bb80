//! Metadata of offers that the application of the target is given.

use nixl_metadata::{AgentMetadata, RdmaMetadata};
use nixl_tests::{hex_line, native_line};

use crate::bait::{sealed, with_baits};
use crate::pace::Pace;
use crate::scene::Outcome;
use crate::target::Target;

/// What is changed in it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// The native profile's bytes.
    Native,
    /// Dynamo's JSON.
    Dynamo,
    /// NIXL's blob in it.
    Blob,
    /// UCX's address in that.
    Address,
}

/// Gives the target changed metadata of offers to read.
pub(crate) fn offers(part: Part, target: &Target, seed: u64, count: usize) -> Outcome {
    let mut pace = Pace::new();
    with_baits(seed, count, |bait, forge, outcome| {
        let native = &bait.offers[forge.below(bait.offers.len() as u64) as usize];
        let line = match part {
            Part::Dynamo => forge.changed_json(&native.to_dynamo_json()),
            Part::Native => {
                let mut bytes = native.to_native_bytes().unwrap();
                forge.damage(&mut bytes);
                // Half of them are read further than the envelope.
                hex_line(&if forge.below(2) == 0 { bytes } else { sealed(bytes) })
            }
            Part::Blob | Part::Address => {
                let changed = match part {
                    Part::Blob => forge.changed_blob(),
                    _ => forge.changed_address(),
                };
                let Some(line) = with_agent(native, changed) else { return };
                line
            }
        };
        pace.wait();
        let begun = target.ask(&format!("read {line}"));
        outcome.count(begun.is_ok());
        if let Ok(begun) = begun {
            target.ask(&format!("drop {begun}")).unwrap();
        }
    })
}

/// The offer with other details of its agent. `None` if they cannot be in an envelope.
fn with_agent(offer: &RdmaMetadata, compressed: Vec<u8>) -> Option<String> {
    let agent = AgentMetadata::from_compressed(compressed.into(), &Default::default()).ok()?;
    let (memory, key) = (offer.descriptors().to_vec(), offer.notification_key().clone());
    let changed = RdmaMetadata::new(offer.operation_kind(), memory, agent, key).ok()?;
    Some(native_line(&changed))
}

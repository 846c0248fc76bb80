//! Terms of offers, and what becomes of them in a version that cannot carry them.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{golden, golden_v4, minimal, without_doorbell};
use nixl_metadata::{ClaimDemand, MetadataError as E, NativeVersion, OfferTerms, RdmaMetadata};

const TOKEN: NonZeroU64 = NonZeroU64::MIN;

fn terms(expires: SystemTime) -> Result<OfferTerms, E> {
    OfferTerms::new(expires, TOKEN)
}

#[test]
fn ends_that_the_wire_can_name() {
    let after = |nanos| terms(UNIX_EPOCH + Duration::from_nanos(nanos));
    assert_eq!(after(0), Err(E::BadExpiry));
    assert_eq!(after(999_999), Err(E::BadExpiry));
    assert_eq!(terms(UNIX_EPOCH - Duration::from_secs(1)), Err(E::BadExpiry));
    let first = after(1_999_999).unwrap();
    assert_eq!(first.expires_unix_millis().get(), 1);
    assert_eq!(first.expires(), UNIX_EPOCH + Duration::from_millis(1));
    // Received terms are those that were sent, to the millisecond.
    assert_eq!(after(1_000_000), Ok(first));

    let beyond = Duration::from_millis(u64::MAX) + Duration::from_millis(1);
    if let Some(beyond) = UNIX_EPOCH.checked_add(beyond) {
        assert_eq!(terms(beyond), Err(E::BadExpiry));
    }
}

#[test]
fn a_writable_offer_has_one_initiator() {
    let one = terms(SystemTime::now()).unwrap();
    assert_eq!((one.readers().get(), one.claims()), (1, ClaimDemand::WhereMapped));
    let many = one.with_readers(NonZeroU32::MAX);
    assert_eq!(golden().with_terms(many), Err(E::ReadersOfWritable { readers: u32::MAX }));
    let readable = minimal().with_terms(many).unwrap();
    assert_eq!(readable.terms(), Some(&many));
    let received = RdmaMetadata::decode(&readable.to_native_bytes().unwrap());
    assert_eq!(received, Ok(readable));
}

#[test]
fn claims_on_the_wire() {
    for value in 0..=2 {
        assert_eq!(ClaimDemand::from_wire(value).unwrap().to_wire(), value);
    }
    assert_eq!(ClaimDemand::from_wire(3), Err(E::UnknownClaimDemand { value: 3 }));
}

#[test]
fn version_3_does_not_drop_a_demand() {
    let version = NativeVersion::V3;
    let with = |claims| {
        let terms = golden_v4().terms().unwrap().with_claims(claims);
        golden_v4().with_terms(terms).unwrap().to_native_bytes_as(version)
    };
    let claims = ClaimDemand::Everywhere;
    assert_eq!(with(claims), Err(E::ClaimsNotCarried { version, claims }));
    for claims in [ClaimDemand::WhereMapped, ClaimDemand::SameHost] {
        assert_eq!(with(claims), without_doorbell().to_native_bytes_as(version));
    }
    let error = E::ClaimsNotCarried { version, claims };
    assert_eq!(
        error.to_string(),
        "the offer demands claims (everywhere), which version 3 of the native profile cannot carry: \
         write version 4, or demand claims on the same host alone"
    );
}

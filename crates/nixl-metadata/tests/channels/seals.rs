//! Seals that hold, and those that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use nixl_metadata::channel::{Channel, ChannelError, ChannelOptions, Hub, Incarnation, WatchEvent};
use nixl_metadata::seal::{OpenKey, Opener, SealError, SealKey, Sealer, Seals};
use proptest::prelude::*;

use crate::suite::{entry, name, options, soon};

const VALID: Duration = Duration::from_secs(60);

fn seals(sealing: &str, opening: &[&str], audience: &str) -> Seals {
    let sealer = Sealer::new(SealKey::from_paserk(sealing).unwrap(), audience, VALID).unwrap();
    let keys = opening.iter().map(|key| OpenKey::from_paserk(key).unwrap());
    Seals::new(sealer, Opener::new(keys, audience).unwrap())
}

fn local() -> String {
    SealKey::generate_local().unwrap()
}

/// An entry as it travels, from a channel without seals on the same hub.
async fn sealed(seals: Seals) -> nixl_metadata::channel::Entry {
    let hub = Hub::default();
    let _published =
        hub.channel(options().seals(seals)).publish(entry("w", 1, b"metadata")).await.unwrap();
    hub.channel(options().max_bytes(1 << 20)).fetch(&name("w")).await.unwrap()
}

/// What a reader with these seals makes of an entry.
async fn opened(
    found: nixl_metadata::channel::Entry,
    seals: Seals,
) -> Result<Vec<u8>, ChannelError> {
    let hub = Hub::default();
    let wanted = found.name().clone();
    let _published = hub.channel(ChannelOptions::new()).publish(found).await.unwrap();
    Ok(hub.channel(options().seals(seals)).fetch(&wanted).await?.payload().to_vec())
}

fn cause(result: Result<Vec<u8>, ChannelError>) -> SealError {
    match result {
        Err(ChannelError::Sealed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn sealed_entries_requests_and_replies_pass() {
    let (secret, public) = SealKey::generate_pair().unwrap();
    let key = local();
    for seals in [seals(&key, &[&key], "a"), seals(&secret, &[&public], "a")] {
        let hub = Hub::default();
        let channel = hub.channel(options().seals(seals.clone()));
        let published = channel.publish(entry("w", 1, b"metadata")).await.unwrap();
        assert_eq!(channel.fetch(&name("w")).await.unwrap(), entry("w", 1, b"metadata"));
        let raw = hub.channel(options()).fetch(&name("w")).await.unwrap();
        assert!(raw.payload().starts_with(b"v4."));
        let mut watch = channel.watch(&name("w")).await.unwrap();
        assert_eq!(watch.next().await.unwrap(), WatchEvent::Put(entry("w", 1, b"metadata")));
        let mut inbox = channel.serve(&name("w"), Incarnation::new(1)).await.unwrap();
        let (me, w) = (name("me"), name("w"));
        let asks = channel.request(&me, &w, "ticket?".into(), VALID);
        let (reply, ()) = tokio::join!(asks, async {
            let request = inbox.next().await.unwrap();
            assert_eq!(&request.payload()[..], b"ticket?");
            request.reply("ticket").unwrap();
        });
        assert_eq!(&reply.unwrap()[..], b"ticket");
        // An asker without the key.
        let stranger = hub.channel(options());
        let stranger = stranger.request(&me, &w, "ticket?".into(), VALID);
        let refused = soon("a refusal", stranger).await;
        assert!(matches!(refused, Err(ChannelError::Sealed(SealError::NotSealed))), "{refused:?}");
        drop(published);
    }
}

fn seals_for(key: &str, valid: Duration) -> Seals {
    let sealer = Sealer::new(SealKey::from_paserk(key).unwrap(), "a", valid).unwrap();
    Seals::new(sealer, Opener::new([OpenKey::from_paserk(key).unwrap()], "a").unwrap())
}

/// However long the entry lives.
#[tokio::test]
async fn a_seal_is_made_anew_before_it_ends() {
    let valid = Duration::from_secs(2);
    let options = options().life_time(Duration::from_secs(60)).seals(seals_for(&local(), valid));
    let channel = Hub::default().channel(options);
    let _published = channel.publish(entry("w", 1, b"metadata")).await.unwrap();
    // Longer than the first seal holds.
    tokio::time::sleep(valid + Duration::from_secs(1)).await;
    assert_eq!(channel.fetch(&name("w")).await.unwrap(), entry("w", 1, b"metadata"));
}

#[tokio::test]
async fn keys_are_replaced_under_a_watch_and_an_inbox() {
    let (old, new) = (local(), local());
    let hub = Hub::default();
    let (owners, readers) = (seals(&old, &[&old], "a"), seals(&old, &[&old], "a"));
    let life = options().life_time(Duration::from_millis(300));
    let owner = hub.channel(life.clone().seals(owners.clone()));
    let reader = hub.channel(life.seals(readers.clone()));
    let _published = owner.publish(entry("w", 1, b"metadata")).await.unwrap();
    let mut inbox = owner.serve(&name("w"), Incarnation::new(1)).await.unwrap();
    let mut watch = reader.watch(&name("w")).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), WatchEvent::Put(entry("w", 1, b"metadata")));
    let keys = |sealing: &str, opening: &[&str]| {
        let sealer = Sealer::new(SealKey::from_paserk(sealing).unwrap(), "a", VALID).unwrap();
        let opening = opening.iter().map(|key| OpenKey::from_paserk(key).unwrap());
        (sealer, Opener::new(opening, "a").unwrap())
    };
    for (sealing, opening) in [(&old, vec![&*old, &*new]), (&new, vec![&*old, &*new])] {
        for seals in [&readers, &owners] {
            let (sealer, opener) = keys(sealing, &opening);
            seals.replace(sealer, opener).unwrap();
        }
    }
    let only_new = hub.channel(options().seals(seals(&new, &[&new], "a")));
    soon("the renewal", async {
        while only_new.fetch(&name("w")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for seals in [&readers, &owners] {
        let (sealer, opener) = keys(&new, &[&new]);
        seals.replace(sealer, opener).unwrap();
    }
    let (me, w) = (name("me"), name("w"));
    let asks = reader.request(&me, &w, "ticket?".into(), VALID);
    let (reply, ()) = tokio::join!(asks, async {
        inbox.next().await.unwrap().reply("ticket").unwrap();
    });
    assert_eq!(&reply.unwrap()[..], b"ticket");
    let next = tokio::time::timeout(Duration::from_millis(600), watch.next()).await;
    assert!(next.is_err(), "{next:?}");
    let (secret, public) = SealKey::generate_pair().unwrap();
    let (sealer, opener) = keys(&secret, &[&public]);
    assert_eq!(owners.replace(sealer, opener), Err(SealError::NotSecret));
}

#[tokio::test]
async fn renewals_seal_anew_and_watchers_see_no_change() {
    let hub = Hub::default();
    let seals = seals_for(&local(), Duration::from_secs(3));
    let channel = hub.channel(options().life_time(Duration::from_millis(300)).seals(seals));
    let _published = channel.publish(entry("w", 1, b"metadata")).await.unwrap();
    let mut watch = channel.watch(&name("w")).await.unwrap();
    watch.next().await.unwrap();
    let raw = hub.channel(options());
    let first = raw.fetch(&name("w")).await.unwrap();
    soon("a renewal", async {
        while raw.fetch(&name("w")).await.unwrap() == first {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(tokio::time::timeout(Duration::from_millis(300), watch.next()).await.is_err());
}

#[tokio::test]
async fn keys_are_rotated_by_their_ids() {
    let (old, new) = (local(), local());
    // Openers get the new key first, then the sealer, then the old one goes.
    assert_eq!(
        opened(sealed(seals(&old, &[&old], "a")).await, seals(&old, &[&old, &new], "a"))
            .await
            .unwrap(),
        b"metadata"
    );
    assert_eq!(
        opened(sealed(seals(&new, &[&new], "a")).await, seals(&old, &[&old, &new], "a"))
            .await
            .unwrap(),
        b"metadata"
    );
    let gone = opened(sealed(seals(&old, &[&old], "a")).await, seals(&new, &[&new], "a")).await;
    assert_eq!(cause(gone), SealError::UnknownKey);
}

#[tokio::test]
async fn seals_of_other_places_and_audiences_are_refused() {
    let key = local();
    let found = sealed(seals(&key, &[&key], "a")).await;
    let again = |worker: &str, start| entry(worker, start, found.payload());
    let a = || seals(&key, &[&key], "a");
    assert_eq!(cause(opened(again("v", 1), a()).await), SealError::OtherPlace { what: "worker" });
    let what = "start of the worker";
    assert_eq!(cause(opened(again("w", 2), a()).await), SealError::OtherPlace { what });
    let b = opened(found.clone(), seals(&key, &[&key], "b")).await;
    assert_eq!(cause(b), SealError::OtherAudience);
    let unsealed = opened(entry("w", 1, b"metadata"), a()).await;
    assert_eq!(cause(unsealed), SealError::NotSealed);
    assert_eq!(opened(found, a()).await.unwrap(), b"metadata");
}

/// A request as it travels, from an inbox without seals on the same hub.
async fn sealed_request(hub: &Hub, asker: &Arc<dyn Channel>, within: Duration) -> bytes::Bytes {
    let (me, w) = (name("me"), name("w"));
    let mut raw = hub.channel(options()).serve(&w, Incarnation::new(1)).await.unwrap();
    tokio::select! {
        reply = asker.request(&me, &w, "ticket?".into(), within) => panic!("{reply:?}"),
        request = raw.next() => request.unwrap().payload().clone(),
    }
}

#[tokio::test]
async fn a_request_is_delivered_once_and_no_longer_than_its_sender_waits() {
    let (key, hub) = (local(), Hub::default());
    let channel = hub.channel(options().seals(seals(&key, &[&key], "a")));
    let (me, w) = (name("me"), name("w"));
    let token = sealed_request(&hub, &channel, VALID).await;
    let raw = hub.channel(options());
    let mut inbox = channel.serve(&w, Incarnation::new(2)).await.unwrap();
    let first = tokio::select! {
        reply = raw.request(&me, &w, token.clone(), VALID) => panic!("{reply:?}"),
        request = inbox.next() => request.unwrap(),
    };
    assert_eq!(&first.payload()[..], b"ticket?");
    let again = raw.request(&me, &w, token, VALID).await;
    let Err(ChannelError::Sealed(SealError::Replayed)) = again else { panic!("{again:?}") };
    // Five seconds are for the clocks of hosts, though the seals hold for a minute.
    let now = Arc::new(AtomicU64::new(1_000_000));
    let clock = || {
        let now = Arc::clone(&now);
        move || SystemTime::UNIX_EPOCH + Duration::from_secs(now.load(Ordering::Relaxed))
    };
    let sealer = Sealer::new(SealKey::from_paserk(&key).unwrap(), "a", VALID).unwrap();
    let opener = Opener::new([OpenKey::from_paserk(&key).unwrap()], "a").unwrap();
    let of_clock = Seals::new(sealer.clock(clock()), opener.clock(clock()));
    let (hub, within) = (Hub::default(), Duration::from_secs(3));
    let channel = hub.channel(options().seals(of_clock));
    let token = sealed_request(&hub, &channel, within).await;
    let _inbox = channel.serve(&w, Incarnation::new(2)).await.unwrap();
    now.fetch_add(8, Ordering::Relaxed);
    let late = hub.channel(options()).request(&me, &w, token, within).await;
    let Err(ChannelError::Sealed(SealError::Expired)) = late else { panic!("{late:?}") };
}

#[tokio::test]
async fn a_key_of_one_worker_speaks_for_no_other() {
    let (secret, public) = SealKey::generate_pair().unwrap();
    let reader = |worker: &str| {
        let sealer = Sealer::new(SealKey::from_paserk(&secret).unwrap(), "a", VALID).unwrap();
        let key = OpenKey::from_paserk(&public).unwrap().of_worker(name(worker));
        Seals::new(sealer, Opener::new([key], "a").unwrap())
    };
    let found = sealed(seals(&secret, &[&public], "a")).await;
    assert_eq!(opened(found.clone(), reader("w")).await.unwrap(), b"metadata");
    let other = opened(found, reader("v")).await;
    assert_eq!(cause(other), SealError::OtherPlace { what: "worker" });
}

#[tokio::test]
async fn seals_end_by_the_clock_that_is_given() {
    let key = local();
    let now = Arc::new(AtomicU64::new(1_000_000));
    let clock = || {
        let now = Arc::clone(&now);
        move || SystemTime::UNIX_EPOCH + Duration::from_secs(now.load(Ordering::Relaxed))
    };
    let of_clock = || {
        let sealer = Sealer::new(SealKey::from_paserk(&key).unwrap(), "a", VALID).unwrap();
        let opener = Opener::new([OpenKey::from_paserk(&key).unwrap()], "a").unwrap();
        Seals::new(sealer.clock(clock()), opener.clock(clock()))
    };
    let found = sealed(of_clock()).await;
    now.fetch_add(59, Ordering::Relaxed);
    assert_eq!(opened(found.clone(), of_clock()).await.unwrap(), b"metadata");
    now.fetch_add(1, Ordering::Relaxed);
    assert_eq!(cause(opened(found.clone(), of_clock()).await), SealError::Expired);
    now.fetch_sub(70, Ordering::Relaxed);
    assert_eq!(cause(opened(found, of_clock()).await), SealError::NotYet);
}

#[test]
fn keys_and_tokens_are_not_printed() {
    let key = local();
    let secret = key.strip_prefix("k4.local.").unwrap();
    let seals = seals(&key, &[&key], "a");
    let debug =
        format!("{seals:?} {:?} {:?}", SealKey::from_paserk(&key), options().seals(seals.clone()));
    assert!(debug.contains("k4.lid.") && !debug.contains(secret), "{debug}");
    assert_eq!(SealKey::from_paserk("k4.public.AAAA").err(), Some(SealError::BadKey));
}

/// Mutates a token at one place, or shortens or lengthens it, and opens it.
fn refused(
    token: &[u8],
    at: usize,
    with: u8,
    kind: u8,
    reader: &Arc<dyn Channel>,
    writer: &Arc<dyn Channel>,
    runtime: &tokio::runtime::Runtime,
) {
    let mut bytes = token.to_vec();
    let at = at % bytes.len();
    match kind % 4 {
        0 => bytes[at] = with,
        1 => bytes.truncate(at),
        2 => bytes.insert(at, with),
        _ => bytes[at] ^= 1 << (with % 8),
    }
    if bytes == token {
        return;
    }
    runtime.block_on(async {
        let published = writer.publish(entry("w", 1, &bytes)).await.unwrap();
        let found = reader.fetch(&name("w")).await;
        assert!(matches!(found, Err(ChannelError::Sealed(_))), "{at} {with} {kind}: {found:?}");
        published.withdraw().await;
    });
}

fn refuses(cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (secret, public) = SealKey::generate_pair().unwrap();
    let key = local();
    for seals in [seals(&key, &[&key], "a"), seals(&secret, &[&public], "a")] {
        let token = runtime.block_on(sealed(seals.clone())).payload().to_vec();
        let hub = Hub::default();
        let (reader, writer) = (hub.channel(options().seals(seals)), hub.channel(options()));
        let config = ProptestConfig {
            cases: cases / 2,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        proptest!(config, |(at in any::<usize>(), with in any::<u8>(), kind in any::<u8>())| {
            refused(&token, at, with, kind, &reader, &writer, &runtime);
        });
    }
}

/// A seal that holds elsewhere, opened here.
fn foreign(kind: u8, n: u64, sealing: &str, other: &str, here: &Seals) -> SealError {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (key, audience) = match kind {
        0 => (sealing, format!("a{n}")),
        1 => (other, "a".to_owned()),
        _ => (sealing, "a".to_owned()),
    };
    let sealer = Sealer::new(SealKey::from_paserk(key).unwrap(), audience, VALID).unwrap();
    let aside = Duration::from_secs(n % 1_000_000);
    let sealer = match kind {
        2 => sealer.clock(move || SystemTime::now() - VALID - aside),
        3 => sealer.clock(move || SystemTime::now() + VALID + aside),
        _ => sealer,
    };
    let there = Seals::new(sealer, Opener::new([], "").unwrap());
    runtime.block_on(async {
        let found = sealed(there).await;
        let found = match kind {
            4 => entry(&format!("w{n}"), 1, found.payload()),
            5 => entry("w", n.max(1) + 1, found.payload()),
            _ => found,
        };
        cause(opened(found, here.clone()).await)
    })
}

fn refuses_foreign(cases: u32) {
    let (secret, public) = SealKey::generate_pair().unwrap();
    let (key, other, other_secret) = (local(), local(), SealKey::generate_pair().unwrap().0);
    for (sealing, opening, other) in [(&key, &key, &other), (&secret, &public, &other_secret)] {
        let here = seals(sealing, &[opening], "a");
        let config = ProptestConfig {
            cases: cases / 2,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        proptest!(config, |(kind in 0u8..6, n in 0..u64::MAX / 2)| {
            let refused = foreign(kind, n, sealing, other, &here);
            let expected = match kind {
                0 => SealError::OtherAudience,
                1 => SealError::UnknownKey,
                2 => SealError::Expired,
                3 => SealError::NotYet,
                4 => SealError::OtherPlace { what: "worker" },
                _ => SealError::OtherPlace { what: "start of the worker" },
            };
            assert_eq!(refused, expected, "{kind} {n}");
        });
    }
}

async fn refuses_replayed(cases: u32) {
    let (key, hub, other) = (local(), Hub::default(), Hub::default());
    let seals = seals(&key, &[&key], "a");
    let [channel, elsewhere] =
        [&hub, &other].map(|hub| hub.channel(options().seals(seals.clone())));
    let (raw, me, w) = (hub.channel(options()), name("me"), name("w"));
    let mut inbox = channel.serve(&w, Incarnation::new(1)).await.unwrap();
    tokio::spawn(async move {
        while let Ok(request) = inbox.next().await {
            request.reply("ticket").unwrap();
        }
    });
    // They hold for five seconds longer, so few are remembered at one time.
    let within = Duration::from_secs(1);
    for _ in 0..cases {
        let token = sealed_request(&other, &elsewhere, within).await;
        raw.request(&me, &w, token.clone(), LONG).await.unwrap();
        let again = raw.request(&me, &w, token, LONG).await;
        let Err(ChannelError::Sealed(SealError::Replayed)) = again else { panic!("{again:?}") };
    }
}

/// For requests that have an answer.
const LONG: Duration = Duration::from_secs(30);

#[test]
fn mutated_seals_are_refused() {
    refuses(400);
}

#[tokio::test]
async fn foreign_and_replayed_seals_are_refused() {
    tokio::task::spawn_blocking(|| refuses_foreign(200)).await.unwrap();
    refuses_replayed(100).await;
}

#[test]
#[ignore = "a hundred thousand seals take a minute"]
fn a_hundred_thousand_mutated_seals_are_refused() {
    refuses(100_000);
}

#[tokio::test]
#[ignore = "a hundred thousand seals take some minutes"]
async fn a_hundred_thousand_foreign_and_replayed_seals_are_refused() {
    tokio::task::spawn_blocking(|| refuses_foreign(70_000)).await.unwrap();
    refuses_replayed(30_000).await;
}

/// The figures of docs/CHANNELS.md.
#[tokio::test]
#[ignore = "prints figures"]
async fn figures_of_seals() {
    let (secret, public) = SealKey::generate_pair().unwrap();
    let key = local();
    let all = [
        ("unsealed", options()),
        ("v4.local", options().seals(seals(&key, &[&key], "a"))),
        ("v4.public", options().seals(seals(&secret, &[&public], "a"))),
    ];
    for (kind, options) in all {
        for len in [4 << 10, 64 << 10] {
            let channel = Hub::default().channel(options.clone().max_bytes(1 << 20));
            let rounds = 500;
            let payload = vec![7; len];
            let begun = std::time::Instant::now();
            let mut published = Vec::new();
            for round in 0..rounds {
                published.push(channel.publish(entry("w", round, &payload)).await.unwrap());
            }
            let published_in = begun.elapsed();
            let begun = std::time::Instant::now();
            for _ in 0..rounds {
                channel.fetch(&name("w")).await.unwrap();
            }
            let each = |time: Duration| time.as_secs_f64() * 1e6 / rounds as f64;
            let line = format!(
                "{kind} {len} bytes: publish {:.1} us, fetch {:.1} us\n",
                each(published_in),
                each(begun.elapsed())
            );
            std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).unwrap();
        }
    }
}

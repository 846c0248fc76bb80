//! The suite that every channel passes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use nixl_metadata::channel::{
    Channel, ChannelError, ChannelOptions, Entry, Incarnation, PublishState, WatchEvent, WorkerName,
};
use tokio::time::{sleep, timeout};

use crate::servers::Backend;

/// More than anything takes on a machine that is busy.
const LONG: Duration = Duration::from_secs(30);

pub(crate) fn options() -> ChannelOptions {
    ChannelOptions::new().life_time(Duration::from_secs(2)).call_time(Duration::from_secs(10))
}

pub(crate) fn name(text: &str) -> WorkerName {
    WorkerName::new(text).unwrap()
}

pub(crate) fn entry(worker: &str, start: u64, payload: &[u8]) -> Entry {
    Entry::new(name(worker), Incarnation::new(start), payload.to_vec())
}

pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Waits until a worker has no entry.
async fn gone(channel: &Arc<dyn Channel>, worker: &str) {
    soon("an end", async {
        while !matches!(channel.fetch(&name(worker)).await, Err(ChannelError::NotFound { .. })) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

pub(crate) async fn entries_live_while_they_are_renewed(backend: &mut dyn Backend) {
    let (owner, reader) = (backend.channel(options()).await, backend.channel(options()).await);
    let missing = reader.fetch(&name("worker 0/é")).await;
    assert!(matches!(missing, Err(ChannelError::NotFound { .. })), "{missing:?}");
    let first = entry("worker 0/é", 1, b"metadata");
    let published = owner.publish(first.clone()).await.unwrap();
    assert_eq!(reader.fetch(first.name()).await.unwrap(), first);
    // Longer than it lives without renewals.
    sleep(Duration::from_secs(5)).await;
    assert_eq!(reader.fetch(first.name()).await.unwrap(), first);
    assert!(matches!(published.state(), PublishState::Current));
    published.withdraw().await;
    gone(&reader, "worker 0/é").await;
}

pub(crate) async fn entries_end_with_their_owners(backend: &mut dyn Backend) {
    let reader = backend.channel(options()).await;
    // An owner that ends without a word, as a killed process does: its runtime is gone.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let owner = backend.channel_on(&runtime, options()).await;
    let published = runtime.spawn(async move { owner.publish(entry("mortal", 1, b"x")).await });
    let published = published.await.unwrap().unwrap();
    reader.fetch(&name("mortal")).await.unwrap();
    runtime.shutdown_background();
    std::mem::forget(published);
    gone(&reader, "mortal").await;
}

pub(crate) async fn later_starts_replace_earlier_ones(backend: &mut dyn Backend) {
    let (old, new) = (backend.channel(options()).await, backend.channel(options()).await);
    let mut first = old.publish(entry("w", 7, b"first")).await.unwrap();
    let second = new.publish(entry("w", 8, b"second")).await.unwrap();
    soon("the replacement", first.replaced()).await;
    let refused = old.publish(entry("w", 6, b"older")).await;
    let is_older = matches!(&refused, Err(ChannelError::OlderIncarnation { offered, current, .. })
        if offered.value() == 6 && current.value() == 8);
    assert!(is_older, "{refused:?}");
    // The guard of an entry that was replaced withdraws nothing.
    first.withdraw().await;
    assert_eq!(&new.fetch(&name("w")).await.unwrap().payload()[..], b"second");
    drop(second);
    gone(&new, "w").await;
}

/// The end of the earlier one withdraws nothing, and no renewal of it comes back.
pub(crate) async fn publishing_again_replaces_what_the_same_start_published(
    backend: &mut dyn Backend,
) {
    let (owner, reader) = (backend.channel(options()).await, backend.channel(options()).await);
    let mut first = owner.publish(entry("w", 1, b"a")).await.unwrap();
    let mut watch = reader.watch(&name("w")).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), WatchEvent::Put(entry("w", 1, b"a")));
    let second = owner.publish(entry("w", 1, b"b")).await.unwrap();
    let put = soon("the change", watch.next()).await.unwrap();
    assert_eq!(put, WatchEvent::Put(entry("w", 1, b"b")));
    soon("the replacement", first.replaced()).await;
    assert!(matches!(first.state(), PublishState::Replaced(ChannelError::Republished { .. })));
    drop(first);
    // Two lives of the entry.
    let next = timeout(Duration::from_secs(4), watch.next()).await;
    assert!(next.is_err(), "{next:?}");
    assert_eq!(reader.fetch(&name("w")).await.unwrap(), entry("w", 1, b"b"));
    // Both at once, as `published = channel.publish(..).await?` does.
    let third = owner.publish(entry("w", 1, b"c")).await.unwrap();
    second.withdraw().await;
    assert_eq!(reader.fetch(&name("w")).await.unwrap(), entry("w", 1, b"c"));
    third.withdraw().await;
    gone(&reader, "w").await;
}

pub(crate) async fn watches_see_changes_or_a_resync(backend: &mut dyn Backend) {
    let (owner, reader) = (backend.channel(options()).await, backend.channel(options()).await);
    let mut watch = reader.watch(&name("w")).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), WatchEvent::Gone);
    let first = owner.publish(entry("w", 1, b"1")).await.unwrap();
    let put = soon("a put", watch.next()).await.unwrap();
    assert_eq!(put, WatchEvent::Put(entry("w", 1, b"1")));
    // The watcher is not looking.
    let mut last = Vec::new();
    for start in 2..30 {
        last.push(owner.publish(entry("w", start, &[start as u8])).await.unwrap());
    }
    drop(first);
    // It sees changes, or that it missed some, and the last.
    soon("the last", async {
        loop {
            match watch.next().await.unwrap() {
                WatchEvent::Put(now) | WatchEvent::Resync(Some(now)) => {
                    if now == entry("w", 29, &[29]) {
                        break;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    for published in last {
        published.withdraw().await;
    }
    soon("the end", async {
        while !matches!(watch.next().await.unwrap(), WatchEvent::Gone | WatchEvent::Resync(None)) {}
    })
    .await;
}

pub(crate) async fn a_watch_reports_what_it_cannot_take_and_goes_on(backend: &mut dyn Backend) {
    let (owner, reader) =
        (backend.channel(options()).await, backend.channel(options().max_bytes(1000)).await);
    let mut watch = reader.watch(&name("w")).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), WatchEvent::Gone);
    let long = owner.publish(entry("w", 1, &[7; 50_000])).await.unwrap();
    let error = soon("an error", watch.next()).await;
    assert!(matches!(error, Err(ChannelError::TooLarge { .. })), "{error:?}");
    // Once.
    let again = timeout(Duration::from_secs(1), watch.next()).await;
    assert!(again.is_err(), "{again:?}");
    let short = owner.publish(entry("w", 2, b"x")).await.unwrap();
    let put = soon("a put", watch.next()).await.unwrap();
    assert!(
        matches!(put, WatchEvent::Put(now) | WatchEvent::Resync(Some(now)) if now == entry("w", 2, b"x"))
    );
    drop((long, short));
}

pub(crate) async fn names_are_listed_by_their_beginning(backend: &mut dyn Backend) {
    let channel = backend.channel(options()).await;
    let mut published = Vec::new();
    for (worker, start) in [("decode-1", 1), ("prefill-2", 2), ("prefill-1", 3), ("pre", 4)] {
        published.push(channel.publish(entry(worker, start, b"x")).await.unwrap());
    }
    let listed = channel.list("prefill-").await.unwrap();
    let found: Vec<_> =
        listed.iter().map(|l| (l.name().as_str(), l.incarnation().value())).collect();
    assert_eq!(found, [("prefill-1", 3), ("prefill-2", 2)]);
    assert_eq!(channel.list("").await.unwrap().len(), 4);
    assert!(channel.list("x").await.unwrap().is_empty());
}

pub(crate) async fn requests_are_answered_or_fail_by_name(backend: &mut dyn Backend) {
    let (worker, asker) =
        (backend.channel(options().inbox_depth(2)).await, backend.channel(options()).await);
    let (me, w) = (name("asker"), name("w"));
    let ask = |payload: &'static [u8], within| asker.request(&me, &w, payload.into(), within);
    let missing = ask(b"?", LONG).await;
    assert!(matches!(missing, Err(ChannelError::NotFound { .. })), "{missing:?}");
    let mut inbox = worker.serve(&w, Incarnation::new(1)).await.unwrap();
    let answers = async {
        let request = inbox.next().await.unwrap();
        assert_eq!((request.sender(), &request.payload()[..]), (&me, &b"ticket?"[..]));
        assert!(request.time_left() <= LONG);
        request.reply(&b"ticket"[..]).unwrap();
        inbox.next().await.unwrap().refuse("no blocks\nleft");
        drop(inbox.next().await.unwrap());
    };
    let asks = async {
        assert_eq!(&ask(b"ticket?", LONG).await.unwrap()[..], b"ticket");
        let refused = ask(b"b", LONG).await;
        let is_refused = matches!(&refused, Err(ChannelError::Refused { reason }) if reason.contains("no blocks") && !reason.contains('\n'));
        assert!(is_refused, "{refused:?}");
        let dropped = ask(b"c", LONG).await;
        assert!(matches!(dropped, Err(ChannelError::Refused { .. })), "{dropped:?}");
    };
    soon("three requests", async { tokio::join!(answers, asks) }).await;
    // Two wait in the inbox, which is then full.
    let waits = [ask(b"d", Duration::from_secs(3)), ask(b"e", Duration::from_secs(3))];
    let [d, e] = waits;
    let third = async {
        sleep(Duration::from_millis(700)).await;
        ask(b"f", LONG).await
    };
    let (d, e, third) = tokio::join!(d, e, third);
    assert!(matches!(third, Err(ChannelError::Full { .. })), "{third:?}");
    for late in [d, e] {
        assert!(matches!(late, Err(ChannelError::TimedOut { .. })), "{late:?}");
    }
}

pub(crate) async fn many_requests_keep_their_replies_apart(backend: &mut dyn Backend) {
    let (worker, asker) = (backend.channel(options()).await, backend.channel(options()).await);
    let mut inbox = worker.serve(&name("w"), Incarnation::new(1)).await.unwrap();
    let server = tokio::spawn(async move {
        while let Ok(request) = inbox.next().await {
            let reply = [&request.payload()[..], b"!"].concat();
            let _late = request.reply(reply);
        }
    });
    let asks = (0..8).map(|lane| {
        let asker = Arc::clone(&asker);
        tokio::spawn(async move {
            for at in 0..12 {
                let payload = format!("{lane}.{at}");
                let reply =
                    asker.request(&name("a"), &name("w"), payload.clone().into(), LONG).await;
                assert_eq!(&reply.unwrap()[..], format!("{payload}!").as_bytes());
            }
        })
    });
    for ask in asks.collect::<Vec<_>>() {
        soon("a lane", ask).await.unwrap();
    }
    server.abort();
}

pub(crate) async fn later_starts_take_over_requests(backend: &mut dyn Backend) {
    if !backend.ends_older_inboxes() {
        return;
    }
    let channel = backend.channel(options()).await;
    let mut old = channel.serve(&name("w"), Incarnation::new(1)).await.unwrap();
    let mut new = channel.serve(&name("w"), Incarnation::new(2)).await.unwrap();
    let ended = soon("the end", old.next()).await;
    assert!(matches!(ended, Err(ChannelError::OlderIncarnation { .. })), "{ended:?}");
    let (me, w) = (name("a"), name("w"));
    let ask = channel.request(&me, &w, "x".into(), LONG);
    let (asked, ()) = tokio::join!(ask, async {
        new.next().await.unwrap().reply("y").unwrap();
    });
    assert_eq!(&asked.unwrap()[..], b"y");
}

pub(crate) async fn long_messages_are_refused_on_both_sides(backend: &mut dyn Backend) {
    let small = backend.channel(options().max_bytes(1000)).await;
    let large = backend.channel(options().max_bytes(100_000)).await;
    let own = small.publish(entry("w", 1, &[7; 1001])).await;
    assert!(matches!(own, Err(ChannelError::TooLarge { len: 1001, limit: 1000 })), "{own:?}");
    let published = large.publish(entry("w", 1, &[7; 50_000])).await.unwrap();
    let read = small.fetch(&name("w")).await;
    assert!(
        matches!(read, Err(ChannelError::TooLarge { limit, .. }) if limit < 50_000),
        "{read:?}"
    );
    assert_eq!(large.fetch(&name("w")).await.unwrap().payload().len(), 50_000);
    drop(published);
}

/// The server ends in the middle and is started anew, at once and later: calls wait and go on.
pub(crate) async fn a_restarted_server_gets_everything_back(backend: &mut dyn Backend) {
    if !backend.stop().await {
        return;
    }
    backend.start().await;
    let patient = options().call_time(LONG);
    let (owner, reader) = (backend.channel(patient.clone()).await, backend.channel(patient).await);
    let first = entry("w", 1, b"x");
    let published = owner.publish(first.clone()).await.unwrap();
    let mut inbox = owner.serve(first.name(), first.incarnation()).await.unwrap();
    let mut watch = reader.watch(first.name()).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), WatchEvent::Put(first.clone()));
    tokio::spawn(async move {
        while let Ok(request) = inbox.next().await {
            let _late = request.reply("pong");
        }
    });
    backend.stop().await;
    let hasty = backend.channel(options().call_time(Duration::from_millis(300))).await;
    let down = hasty.fetch(first.name()).await;
    let is_down = matches!(
        down,
        Err(ChannelError::Down { .. } | ChannelError::Lost { .. } | ChannelError::TimedOut { .. })
    );
    assert!(is_down, "{down:?}");
    let waits = tokio::spawn({
        let (reader, name) = (Arc::clone(&reader), first.name().clone());
        async move { reader.list(name.as_str()).await }
    });
    // Longer than an entry lives.
    sleep(Duration::from_secs(3)).await;
    backend.start().await;
    soon("a call that waited", waits).await.unwrap().unwrap();
    soon("the entry", async {
        while reader.fetch(first.name()).await.ok().as_ref() != Some(&first) {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    soon("a reply", async {
        let ask =
            || reader.request(first.name(), first.name(), "ping".into(), Duration::from_secs(5));
        while !ask().await.is_ok_and(|reply| &reply[..] == b"pong") {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // The watch goes on.
    let second = owner.publish(entry("w", 2, b"y")).await.unwrap();
    soon("the watch", async {
        loop {
            if let WatchEvent::Put(now) | WatchEvent::Resync(Some(now)) =
                watch.next().await.unwrap()
                && now == entry("w", 2, b"y")
            {
                break;
            }
        }
    })
    .await;
    drop((published, second));
}

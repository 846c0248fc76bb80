//! Notifications of importers over a network that loses, doubles and delays them.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::Poll;
use std::thread;

use futures_util::StreamExt as _;
use nixl_metadata::{MessageVersions, PeerInfo};
use nixl_ops::{ExportNotification, PeerId};

use super::*;
use crate::simulated::MessageFault;

fn numbered(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}

fn number_of(notification: &ExportNotification) -> u32 {
    u32::from_le_bytes((&*notification.payload).try_into().unwrap())
}

#[tokio::test]
async fn importers_notify_the_owner_in_order() {
    let world = World::new().await;
    let mut notifications = world.export.notifications().unwrap();
    assert!(world.export.notifications().is_none(), "there is a receiver");
    // Its owner's own, and those of a peer.
    let own = world.owner.import(world.export.metadata()).await.unwrap();
    let [here, afar] = world.imports().await;
    let mut senders = Vec::new();
    for (import, agent) in [(own, &world.owner), (here, &world.reader), (afar, &world.reader)] {
        for number in 0..20 {
            import.notify(&numbered(number)).await.unwrap();
        }
        let clone = import.clone();
        clone.notify(&numbered(20)).await.unwrap();
        for number in 0..=20 {
            let next = notifications.recv().await.unwrap();
            assert_eq!((number_of(&next), next.lost), (number, 0));
            assert_eq!(next.sender.agent_name(), agent.name());
            senders.push(next.sender);
        }
    }
    senders.dedup();
    assert_eq!(senders.len(), 3);
    let World { export, .. } = world;
    assert!(export.close(Duration::from_secs(10)).await);
    assert_eq!(notifications.recv().await, None);
}

#[tokio::test]
async fn notifications_are_a_stream_that_ends_with_the_export() {
    let world = World::new().await;
    let imports = world.imports().await;
    let mut notifications = world.export.notifications().unwrap();
    for import in &imports {
        {
            // A stream that found none is woken by the next.
            let mut next = notifications.next();
            let is_ready = poll_fn(|cx| Poll::Ready(Pin::new(&mut next).poll(cx).is_ready()));
            assert!(!is_ready.await);
            import.notify(&numbered(0)).await.unwrap();
            let first = next.await.unwrap();
            assert_eq!((number_of(&first), first.lost), (0, 0));
            assert_eq!(first.sender.agent_name(), world.reader.name());
        }
        for number in 1..20 {
            import.notify(&numbered(number)).await.unwrap();
        }
        let all: Vec<_> = notifications.by_ref().take(19).collect().await;
        assert!(all.iter().map(number_of).eq(1..20));
        assert!(all.iter().all(|next| next.sender == all[0].sender));
    }
    imports[0].notify(b"last").await.unwrap();
    let last = notifications.next().await.unwrap();
    assert_eq!(&*last.payload, b"last");
    let World { export, .. } = world;
    assert!(export.close(Duration::from_secs(10)).await);
    assert!(notifications.next().await.is_none());
}

#[tokio::test]
async fn a_receiver_waits_for_the_first_notification() {
    let world = World::new().await;
    let [_, afar] = world.imports().await;
    let mut notifications = world.export.notifications().unwrap();
    let mut receiving = Box::pin(notifications.recv());
    let is_ready = poll_fn(|cx| Poll::Ready(receiving.as_mut().poll(cx).is_ready()));
    assert!(!is_ready.await);
    afar.notify(b"first").await.unwrap();
    assert_eq!(&*receiving.await.unwrap().payload, b"first");
}

#[tokio::test]
async fn what_the_network_loses_is_counted_and_what_it_doubles_comes_once() {
    let world = World::new().await;
    let mut notifications = world.export.notifications().unwrap();
    let [_, afar] = world.imports().await;
    let faults = world.fabric.faults_of(world.reader.name()).unwrap();
    let (lost, twice) = (Some(MessageFault::Lost), Some(MessageFault::Twice));
    faults.messages([lost, None, twice, lost, lost, twice, None]);
    for number in 1..=7 {
        afar.notify(&numbered(number)).await.unwrap();
    }
    let mut received = Vec::new();
    for _ in 0..4 {
        let next = notifications.recv().await.unwrap();
        received.push((number_of(&next), next.lost));
    }
    assert_eq!(received, [(2, 1), (3, 0), (6, 2), (7, 0)]);
    // One that is late is received in its place, or was counted.
    let delayed = Some(MessageFault::Delayed(Duration::from_millis(3)));
    faults.messages((0..90).map(|number| [delayed, None, twice][number % 3]));
    for number in 8..98 {
        afar.notify(&numbered(number)).await.unwrap();
    }
    // It tells of all that were lost.
    afar.notify(&numbered(98)).await.unwrap();
    let mut last = 7;
    while last < 98 {
        let next = notifications.recv().await.unwrap();
        assert_eq!(u64::from(number_of(&next) - last - 1), next.lost);
        last = number_of(&next);
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_an_error_before_anything_is() {
    let world = World::new().await;
    let mut notifications = world.export.notifications().unwrap();
    let metadata = world.export.metadata();
    let [here, afar] = world.imports().await;
    for import in [&here, &afar] {
        let long = vec![1; RemoteExport::MAX_NOTIFICATION_BYTES + 1];
        let error = import.notify(&long).await.unwrap_err();
        assert_eq!(error, ConnectorError::NotificationTooLarge { bytes: 4097, limit: 4096 });
        import.notify(&long[1..]).await.unwrap();
        let next = notifications.recv().await.unwrap();
        assert_eq!((next.payload.len(), next.lost), (4096, 0));
    }
    let peer = PeerInfo::clone(metadata.peer()).with_versions(MessageVersions::default());
    let earlier = ExportMetadata::new(
        metadata.export(),
        metadata.agent_metadata().clone(),
        peer,
        metadata.layouts().to_vec(),
        WordsLocation { file: None, ..*metadata.words() },
    );
    let earlier = earlier.unwrap();
    let import = world.reader.import_unless(&earlier, None, ImportOptions::new()).await.unwrap();
    let error = import.notify(b"one").await.unwrap_err();
    let owner = world.owner.name().to_owned();
    assert_eq!(error, ConnectorError::NoNotifications { owner });
}

#[tokio::test]
async fn the_owner_is_notified_after_a_read_that_was_good_and_of_no_other() {
    let world = World::new().await;
    let mut notifications = world.export.notifications().unwrap();
    let [here, afar] = world.imports().await;
    for import in [here, afar] {
        let (local, bytes) = contiguous();
        let grant = world.export.grant(0, &[3], GrantOptions::new()).unwrap();
        let ticket = grant.ticket().clone();
        let read = import.read_blocks(&ticket, &local, &[1]);
        let (_, notified) = import.notify_after(read, b"read").await.unwrap();
        notified.unwrap();
        assert_eq!(super::read(&bytes, 1), block(3));
        assert!(grant.end());
        let stale = import.read_blocks(&ticket, &local, &[1]);
        let error = import.notify_after(stale, b"stale").await.unwrap_err();
        assert!(is_stale(error.cause()), "{error}");
        import.notify(b"last").await.unwrap();
        for payload in [&b"read"[..], b"last"] {
            let next = notifications.recv().await.unwrap();
            assert_eq!((&*next.payload, next.lost), (payload, 0));
        }
    }
}

#[tokio::test]
async fn a_notification_that_is_given_up_is_lost_or_received() {
    let world = World::new().await;
    let mut notifications = world.export.notifications().unwrap();
    let [_, afar] = world.imports().await;
    for number in 1..=50 {
        let payload = numbered(2 * number);
        let mut notify = Box::pin(afar.notify(&payload));
        poll_fn(|cx| Poll::Ready(_ = notify.as_mut().poll(cx))).await;
        drop(notify);
        afar.notify(&numbered(2 * number + 1)).await.unwrap();
    }
    let mut last = 1;
    while last < 101 {
        let next = notifications.recv().await.unwrap();
        assert_eq!(u64::from(number_of(&next) - last - 1), next.lost);
        last = number_of(&next);
    }
}

#[tokio::test]
async fn notifications_for_no_export_here_are_ignored() {
    let world = World::new().await;
    let mut notifications = world.export.notifications().unwrap();
    // The owner is met.
    let _imports = world.imports().await;
    let (import, driver) = ([7; 16], world.reader.connection().driver());
    let (export, owner) =
        (world.export.metadata().export().value(), PeerId::new(world.owner.name()));
    let to = (&owner, None);
    let send = async |export, message| {
        let options = OperationOptions::new();
        driver.notify_export(export, import, message, to.clone(), options).await.unwrap();
    };
    send(export ^ 1, (1, b"forged")).await;
    send(export, (0, b"zero")).await;
    let long = [0; RemoteExport::MAX_NOTIFICATION_BYTES + 1];
    send(export, (1, &long)).await;
    send(export, (1 << 63, b"far")).await;
    let next = notifications.recv().await.unwrap();
    assert_eq!((&*next.payload, next.lost), (&b"far"[..], (1 << 63) - 1));
    assert_eq!(world.owner.stats().unexpected_notifications(), 3);
}

/// An import of this host writes to the owner's mailbox: what the network loses does not matter.
#[tokio::test]
async fn importers_of_the_host_notify_and_end_grants_without_the_network() {
    let world = World::new().await;
    let mut notifications = world.export.notifications().unwrap();
    let [here, afar] = world.imports().await;
    let faults = world.fabric.faults_of(world.reader.name()).unwrap();
    faults.messages([Some(MessageFault::Lost); 3]);
    afar.notify(b"lost").await.unwrap();
    let grant = world.export.grant(0, &[3], GrantOptions::new()).unwrap();
    here.notify(b"one").await.unwrap();
    here.done(grant.ticket()).await.unwrap();
    here.notify(b"two").await.unwrap();
    for payload in [&b"one"[..], b"two"] {
        let next = notifications.recv().await.unwrap();
        assert_eq!((&*next.payload, next.lost), (payload, 0));
    }
    grant.free_blocks().unwrap().await;
}

#[tokio::test]
async fn a_thread_that_blocks_receives_until_the_export_is_closed() {
    let world = World::new().await;
    let mut notifications = world.export.notifications().unwrap();
    let [here, afar] = world.imports().await;
    let (received, all) = mpsc::channel();
    let receiver = thread::spawn(move || {
        let mut heard = Vec::new();
        while let Some(next) = notifications.recv_blocking() {
            heard.push(next);
            if heard.len() == 200 {
                received.send(()).unwrap();
            }
        }
        (heard, notifications.recv_blocking())
    });
    for number in 0..100 {
        here.notify(&numbered(number)).await.unwrap();
        afar.notify(&numbered(number)).await.unwrap();
        // Between bursts the thread sleeps.
        if number % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    tokio::task::spawn_blocking(move || all.recv().unwrap()).await.unwrap();
    let World { export, .. } = world;
    assert!(export.close(Duration::from_secs(10)).await);
    let (heard, after) = receiver.join().unwrap();
    assert_eq!((heard.len(), after), (200, None));
    assert!(heard.iter().all(|next| next.lost == 0));
}

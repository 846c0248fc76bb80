//! Notifications of importers, between processes and in both directions.

use std::time::Duration;

use nixl_connector::RemoteExport;
use nixl_metadata::{ExportMetadata, Ticket};
use nixl_tests::{Cache, Peer, alone_within, block_of, bytes_of, hex_line, within};

use super::{By, PEER, local, start};

const SEED: u64 = 11;
const LIMIT: Duration = Duration::from_secs(120);
const COUNT: usize = 200;

fn peer(by: By) -> Peer {
    match by {
        By::Engine => Peer::start(PEER, &[]),
        By::Paths => start(by, 16),
    }
}

fn notifications(name: &str, by: By) {
    alone_within(LIMIT, name, &local(), || {
        within(LIMIT, async {
            let mut owner = peer(by);
            let export = owner.ask(&format!("export {SEED}")).unwrap();
            let metadata = ExportMetadata::decode(&bytes_of(&export).unwrap()).unwrap();
            let connector = by.builder().build().await.unwrap();
            let import = connector.import(&metadata).await.unwrap();
            owner.ask("hear 0").unwrap();
            // Another importer, which is killed then.
            let mut other = peer(by);
            other.ask(&format!("import {export}")).unwrap();
            other.ask("notify before").unwrap();
            let heard = owner.ask("hear 1").unwrap();
            assert!(heard.ends_with(" before 0,"), "{heard}");
            other.kill().unwrap();
            let me = connector.name();
            for number in 0..COUNT {
                import.notify(format!("n{number}").as_bytes()).await.unwrap();
            }
            let expected: String = (0..COUNT).map(|number| format!("{me} n{number} 0,")).collect();
            assert_eq!(owner.ask(&format!("hear {COUNT}")).unwrap(), expected);
            // After a read.
            let answer = owner.ask("grant 3").unwrap();
            let ticket = answer.split_once(' ').unwrap().1;
            let ticket = Ticket::decode(&bytes_of(ticket).unwrap()).unwrap();
            let cache = Cache::of_pages(&connector, 16).unwrap();
            let read = import.read_blocks(&ticket, &cache.layout, &[1]);
            let (_, notified) = import.notify_after(read, b"read").await.unwrap();
            notified.unwrap();
            assert_eq!(owner.ask("hear 1").unwrap(), format!("{me} read 0,"));
            assert!(cache.block(1).unwrap() == block_of(SEED, 3), "wrong bytes");
            // The longest.
            let longest = vec![b'x'; RemoteExport::MAX_NOTIFICATION_BYTES];
            import.notify(&longest).await.unwrap();
            let heard = owner.ask("hear 1").unwrap();
            assert_eq!(heard, format!("{me} {} 0,", str::from_utf8(&longest).unwrap()));
            // This process as the owner, of which the receiver waits.
            let cache = Cache::of_pages(&connector, 16).unwrap();
            let export = connector.export([("cache", cache.layout.clone())]).await.unwrap();
            let mut received = export.notifications().unwrap();
            let line = hex_line(&export.metadata().encode().unwrap());
            owner.ask(&format!("import {line}")).unwrap();
            for number in 0..COUNT {
                owner.tell(&format!("notify {number}")).unwrap();
                let next = received.recv().await.unwrap();
                assert_eq!((&*next.payload, next.lost), (number.to_string().as_bytes(), 0));
                assert_eq!(next.sender.agent_name(), metadata.peer().agent_name());
                owner.answer("notify").unwrap();
            }
            assert!(export.close(LIMIT).await);
            assert_eq!(received.recv().await, None);
        });
    });
}

#[test]
fn owners_are_notified_in_order_by_the_engine() {
    notifications("notifications::owners_are_notified_in_order_by_the_engine", By::Engine);
}

#[test]
fn owners_are_notified_in_order_by_paths() {
    notifications("notifications::owners_are_notified_in_order_by_paths", By::Paths);
}

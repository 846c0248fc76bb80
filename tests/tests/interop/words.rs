//! Notifications that are for no operation, from NIXL agents of any name.

use std::path::Path;
use std::process::Command;
use std::{env, thread};

use nixl_connector::{ConnectionStats, Connector};
use nixl_descriptor::Region;
use nixl_metadata::{Limits, RdmaMetadata};

use crate::DEADLINE;
use crate::child::Child;

const ADVICE: &str = "run `cargo xtask setup --interop` once";

/// Agents that have met the target and wait to be let go.
struct Senders(Child);

impl Senders {
    fn start(target: &RdmaMetadata, count: u64, bytes: usize, names: &[&str]) -> Self {
        let packages = env::var_os("NIXL_TEST_PYTHONPATH")
            .unwrap_or_else(|| panic!("NIXL_TEST_PYTHONPATH is not set: use cargo, and {ADVICE}"));
        let blob = target.agent_metadata().inflate(&Limits::default()).unwrap();
        let hex: String = blob.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut command = Command::new("python3");
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/words.py"))
            .args([&hex, &count.to_string(), &bytes.to_string()])
            .args(names)
            .env("PYTHONPATH", packages)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let mut senders = Self(Child::spawn(&mut command));
        senders.expect("ready");
        senders
    }

    fn begin(&mut self) {
        self.0.send("go");
    }

    fn expect(&mut self, word: &str) {
        match self.0.line() {
            Some(line) => assert_eq!(line, word),
            None => panic!("the senders end; they say:\n{}", self.0.kill()),
        }
    }
}

async fn connector() -> Connector {
    Connector::builder().timeout(DEADLINE).build().await.unwrap()
}

/// One read of 4 KiB, whose end the target learns by a notification: this metadata names no slot.
async fn exchange(target: &Connector, initiator: &Connector) -> RdmaMetadata {
    let (ours, theirs) = (Region::zeroed(4096).unwrap(), Region::zeroed(4096).unwrap());
    let mut offer = target.create_readable(ours).await.unwrap();
    let remote = RdmaMetadata::decode(offer.metadata().to_dynamo_json().as_bytes()).unwrap();
    initiator.begin_read(&remote, theirs).await.unwrap().wait_for_completion().await.unwrap();
    offer.wait_for_completion().await.unwrap();
    remote
}

/// Waits until the target has taken so many, without an operation of its own.
fn until(target: &Connector, is_enough: impl Fn(&ConnectionStats) -> bool) -> ConnectionStats {
    let begun = std::time::Instant::now();
    loop {
        let stats = target.stats();
        if is_enough(&stats) {
            return stats;
        }
        assert!(begun.elapsed() < DEADLINE, "{stats:?}");
        thread::yield_now();
    }
}

#[tokio::test]
async fn an_idle_connector_takes_what_arrives_and_counts_it() {
    let (target, initiator) = (connector().await, connector().await);
    let metadata = exchange(&target, &initiator).await;
    let mut senders = Senders::start(&metadata, 10_000, 4096, &["plain"]);
    assert_eq!(
        (target.stats().active(), target.stats().passive()),
        (0, 0),
        "nothing is outstanding"
    );
    senders.begin();
    senders.expect("sent");
    let stats = until(&target, |stats| stats.unexpected_notifications() == 10_000);
    assert_eq!((stats.unexpected_bytes(), stats.unreadable_notifications()), (10_000 * 4096, 0));
    exchange(&target, &initiator).await;
}

#[tokio::test]
async fn a_name_that_cannot_be_read_keeps_no_word_of_others_back() {
    let (target, initiator) = (connector().await, connector().await);
    let metadata = exchange(&target, &initiator).await;
    // The binding ends a name at its NUL: one is then empty, the other that of a peer that sends, too.
    let names = ["evil%00x", "twin", "twin%00x"];
    let mut senders = Senders::start(&metadata, 20_000, 16, &names);
    senders.begin();
    // Each ends by its message: a lost one would be a time-out.
    for _ in 0..100 {
        exchange(&target, &initiator).await;
    }
    senders.expect("sent");
    let stats = until(&target, |stats| stats.unexpected_notifications() >= 20_000);
    assert!(stats.unreadable_notifications() > 0, "{stats:?}");
    exchange(&target, &initiator).await;
    assert_eq!(target.stats().unexpected_notifications(), 20_000, "no word counts twice");
}

//! A live process that strangers and holders of its offers attack, with honest traffic beside: it goes on, loses no byte, takes no
//! more memory, and answers others in time.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so, by failing too")]

mod attacker;
mod forge;
mod honest;
mod inputs;
mod scene;
mod target;

use std::env;
use std::path::Path;
use std::time::Duration;

use nixl_tests::{alone_within, metadata, within};

use attacker::Attack;
use honest::{connector, one};
use scene::Scene;
use target::Target;

const LEN: usize = 4096;
const LIMIT: Duration = Duration::from_secs(900);

/// Attacks a process in every way, `count` times each. `is_timed`: honest operations must take no longer than beside the same attack on
/// another process.
fn attack(name: &str, count: usize, is_timed: bool) {
    alone_within(LIMIT, name, &[("UCX_MEM_EVENTS", Path::new("no"))], || {
        let mut scene = Scene::new();
        let mut late = Vec::new();
        let mut is_late = |row: scene::Row| {
            assert_eq!(row.honest.failed, 0, "{}: honest operations failed", row.what);
            if row.ratio() > 3.0 {
                late.push(row.what);
            }
        };
        let messages = |kind| move |target: &Target, seed, count| target.send(kind, seed, count);
        is_late(scene.row("messages of strangers", count, messages(Attack::Stranger)));
        is_late(scene.row("words about grants", count, messages(Attack::GrantDone)));
        is_late(scene.row("metadata of offers", count, inputs::offers));
        is_late(scene.row("metadata of exports", count, inputs::exports));
        is_late(scene.row("tickets", count, inputs::tickets));
        scene.still_works();
        is_late(scene.row("messages of holders", count, |target, seed, count| {
            target.send_as_holder(seed, count)
        }));
        scene.still_works();
        // What is written there may be the word of any holder: honest ends are lost, and bytes are not.
        scene.row("pages that a holder writes", count, inputs::pages);
        let blocked: u64 = scene.victim.ask("blocked").unwrap().parse().unwrap();
        println!("\nthe longest call on the target's control thread: {blocked} us");
        println!("{}", scene.victim.ask("stats").unwrap());
        println!("{}", scene.victim.ask("slots").unwrap());
        assert!(!is_timed || late.is_empty(), "honest operations are late beside {late:?}");
    });
}

#[test]
fn a_process_under_attack_goes_on() {
    attack("a_process_under_attack_goes_on", 200, false);
}

#[test]
#[ignore = "takes minutes: cargo test --release -p nixl-tests --test hostile -- --ignored --nocapture a_process_goes_on_after"]
fn a_process_goes_on_after_a_hundred_thousand_inputs_of_each_kind() {
    let count = env::var("NIXL_TEST_HOSTILE_COUNT").ok().and_then(|count| count.parse().ok());
    let name = "a_process_goes_on_after_a_hundred_thousand_inputs_of_each_kind";
    attack(name, count.unwrap_or(100_000), true);
}

/// Holders whose addresses are well formed, and who do not answer.
#[test]
fn holders_that_do_not_answer_delay_no_others() {
    const OFFERS: usize = 40;
    /// More than a loaded machine takes, and much less than an engine waits for a peer.
    const LONGEST: Duration = Duration::from_secs(5);
    let name = "holders_that_do_not_answer_delay_no_others";
    alone_within(LIMIT, name, &[], || {
        let target = Target::new();
        let offers: Vec<_> =
            (0..OFFERS).map(|_| target.offer(&format!("readable {LEN} 0")).unwrap().1).collect();
        let silent = target.introduce_and_stop(&offers);
        within(LIMIT, async {
            let connector = connector("honest").await;
            for seed in 0..50 {
                let took = one(&connector, &target, seed).await.unwrap();
                assert!(took < LONGEST, "{took:?}");
            }
        });
        let blocked: u64 = target.ask("blocked").unwrap().parse().unwrap();
        println!("the longest call: {blocked} us");
        assert!(Duration::from_micros(blocked) < LONGEST, "{blocked} us");
        drop(silent);
    });
}

/// Tickets of an export that is read, and the page of their words, as others may not change it.
#[test]
fn the_words_of_an_export_cannot_be_written_by_readers() {
    alone_within(LIMIT, "the_words_of_an_export_cannot_be_written_by_readers", &[], || {
        let target = Target::new();
        let file = target.export.words().file.unwrap();
        assert!(inputs::write_to((file.pid(), file.fd()), &[7; 8], 0).is_err());
        // That of offers can be.
        let doorbell = *metadata(&target.offer).unwrap().doorbell().unwrap();
        inputs::write_to(
            (doorbell.file().pid(), doorbell.file().fd()),
            &[0],
            doorbell.file().length() - 1,
        )
        .unwrap();
    });
}

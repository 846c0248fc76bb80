//! A live process that strangers and holders of its offers attack, with honest traffic beside: it goes on, loses no byte, takes no
//! more memory, and answers others in time.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so, by failing too")]

mod attacker;
mod bait;
mod exports;
mod forge;
mod forged_tickets;
mod honest;
mod offers;
mod pace;
mod pages;
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
const LIMIT: Duration = Duration::from_secs(3600);

/// Attacks a process in every way, with `count` inputs of each decoder and protocol, after honest traffic was alone for `quiet`.
fn attack(name: &str, count: usize, quiet: Duration) {
    alone_within(LIMIT, name, &[("UCX_MEM_EVENTS", Path::new("no"))], || {
        let mut scene = Scene::new(quiet);
        let offers = [
            ("metadata, native profile", offers::Part::Native),
            ("metadata, Dynamo's profile", offers::Part::Dynamo),
            ("NIXL's blob", offers::Part::Blob),
            ("UCX's worker address", offers::Part::Address),
        ];
        let messages = [
            ("messages of strangers, of every kind", Attack::Stranger),
            ("claims", Attack::Claims),
            ("staging messages", Attack::Staging),
            ("messages of remote copies", Attack::RemoteCopy),
            ("messages about grants", Attack::GrantDone),
            ("notifications of importers", Attack::Importers),
            ("requests for reads by ticket", Attack::TicketRequests),
        ];
        let pages = [
            ("mailbox, written by a holder", pages::Part::Mailbox),
            ("doorbell page, written by a holder", pages::Part::Doorbells),
        ];
        for (what, part) in offers {
            let honest =
                scene.row(what, count, |t, seed, count| offers::offers(part, t, seed, count));
            assert_eq!(honest.failed, 0, "{what}: honest operations failed");
        }
        let exports = scene.row("metadata of exports", count, exports::exports);
        let tickets = scene.row("tickets", count, exports::tickets);
        assert_eq!((exports.failed, tickets.failed), (0, 0), "honest operations failed");
        for (what, kind) in messages {
            let honest =
                scene.row(what, count, |target, seed, count| target.send(kind, seed, count));
            assert_eq!(honest.failed, 0, "{what}: honest operations failed");
            scene.still_works();
        }
        for (what, part) in pages {
            // What is written there may be the word of any holder: honest ends are lost, and bytes are not.
            scene.row(what, count, |target, seed, count| pages::pages(part, target, seed, count));
        }
        scene.assert_some_row_ran();
        let blocked: u64 = scene.victim.ask("blocked").unwrap().parse().unwrap();
        println!("\nthe longest call on the target's control thread: {blocked} us");
        println!("{}", scene.victim.ask("stats").unwrap());
        println!("{}", scene.victim.ask("slots").unwrap());
    });
}

#[test]
fn a_process_under_attack_goes_on() {
    attack("a_process_under_attack_goes_on", 200, Duration::from_millis(100));
}

#[test]
#[ignore = "takes minutes: cargo test --release -p nixl-tests --test hostile -- --ignored --nocapture a_process_goes_on_after; NIXL_TEST_HOSTILE_COUNT and NIXL_TEST_HOSTILE_RATE set the inputs of each kind, and those of a second"]
fn a_process_goes_on_after_a_hundred_thousand_inputs_of_each_kind() {
    let count = env::var("NIXL_TEST_HOSTILE_COUNT").ok().and_then(|count| count.parse().ok());
    let name = "a_process_goes_on_after_a_hundred_thousand_inputs_of_each_kind";
    attack(name, count.unwrap_or(100_000), Duration::from_secs(10));
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
        assert!(pages::write_to(file, &[7; 8], 0).is_err());
        // That of offers can be.
        let file = metadata(&target.offer).unwrap().slot_address().unwrap().file();
        pages::write_to(file, &[0], file.length() - 1).unwrap();
    });
}

//! A measured scene: an attack, honest traffic beside it, and its cost for the target.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nixl_tests::within;

use crate::LIMIT;
use crate::honest::{Honest, connector, one};
use crate::pace::Pace;
use crate::target::Target;

/// What became of the inputs of an attack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) sent: usize,
    /// Of messages, those that were counted as dropped. `None` where the target does not tell.
    pub(crate) refused: Option<usize>,
    pub(crate) accepted: Option<usize>,
}

impl Outcome {
    pub(crate) fn none() -> Self {
        Self { sent: 0, refused: Some(0), accepted: Some(0) }
    }

    pub(crate) fn count(&mut self, is_accepted: bool) {
        self.sent += 1;
        let which = if is_accepted { &mut self.accepted } else { &mut self.refused };
        *which.get_or_insert_default() += 1;
    }
}

/// The process that is attacked, and another of its kind.
pub(crate) struct Scene {
    pub(crate) victim: Arc<Target>,
    decoy: Target,
    /// For so long, honest traffic is alone before each attack.
    quiet: Duration,
    seed: u64,
    /// Rows that ran.
    rows: usize,
}

impl Scene {
    /// What was sent is still being received for so long.
    const AFTER: Duration = Duration::from_millis(500);
    /// Part of the name of the only row to run, with the same inputs as among the others.
    const ONLY: &str = "NIXL_TEST_HOSTILE_ONLY";
    /// Such a part of the inputs is for the other process.
    const ELSEWHERE: usize = 10;
    /// More than caches with bounds take, and less than what each input leaves behind would.
    const GROWTH: u64 = 256 << 10;

    pub(crate) fn new(quiet: Duration) -> Self {
        println!("{} inputs a second at most (0: no bound)\n", Pace::rate());
        println!(
            "| inputs | number, time | refused | accepted | honest operations: quiet, attacked | wrong bytes | p99 quiet | p99, another process attacked | p99 attacked | ratio | memory, KiB | files |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
        Self { victim: Arc::new(Target::new()), decoy: Target::new(), quiet, seed: 0, rows: 0 }
    }

    /// Lets honest traffic run alone, then beside a tenth of the attack on the other process, by which the machine has as much to do,
    /// and then beside the attack.
    pub(crate) fn row(
        &mut self,
        what: &'static str,
        count: usize,
        attack: impl Fn(&Target, u64, usize) -> Outcome,
    ) -> Honest {
        self.seed += 2;
        if env::var(Self::ONLY).is_ok_and(|only| !what.contains(&only)) {
            return Honest::default();
        }
        self.rows += 1;
        let ((), quiet) = self.beside(|| thread::sleep(self.quiet));
        let (_, elsewhere) =
            self.beside(|| attack(&self.decoy, self.seed - 1, count.div_ceil(Self::ELSEWHERE)));
        let (memory, files) = (self.victim.memory(), self.victim.files());
        let ((outcome, took), honest) = self.beside(|| {
            let began = Instant::now();
            let outcome = attack(&self.victim, self.seed, count);
            let took = began.elapsed();
            thread::sleep(Self::AFTER);
            (outcome, took)
        });
        let [alone, elsewhere, beside] =
            [&quiet, &elsewhere, &honest].map(|honest| honest.percentile(99));
        let or_unknown = |n: Option<usize>| n.map_or_else(|| "–".to_owned(), |n| n.to_string());
        println!(
            "| {what} | {} in {took:.1?} | {} | {} | {}, {} | {} | {alone:.1?} | {elsewhere:.1?} | {beside:.1?} | {:.1} | {memory} -> {} | {files} -> {} |",
            outcome.sent,
            or_unknown(outcome.refused),
            or_unknown(outcome.accepted),
            quiet.said(),
            honest.said(),
            quiet.wrong + honest.wrong,
            beside.as_secs_f64() / alone.as_secs_f64().max(1e-6),
            self.victim.memory(),
            self.victim.files(),
        );
        assert_eq!((quiet.wrong, quiet.failed), (0, 0), "{what}: before it");
        assert_eq!(honest.wrong, 0, "{what}: wrong bytes");
        assert!(self.victim.memory() < memory + Self::GROWTH, "{what}: memory grows");
        honest
    }

    fn beside<T>(&self, attack: impl FnOnce() -> T) -> (T, Honest) {
        let stop = Arc::<AtomicBool>::default();
        let (victim, stopped) = (Arc::clone(&self.victim), Arc::clone(&stop));
        let honest =
            thread::spawn(move || within(LIMIT, async { Honest::until(&stopped, &victim).await }));
        let outcome = attack();
        stop.store(true, Ordering::Relaxed);
        (outcome, honest.join().unwrap())
    }

    /// At the end: a name of no row would pass for a row that held.
    pub(crate) fn assert_some_row_ran(&self) {
        assert!(self.rows > 0, "{} is part of no row's name", Self::ONLY);
    }

    pub(crate) fn still_works(&self) {
        within(LIMIT, async {
            let connector = connector("after").await;
            for seed in 900..920 {
                one(&connector, &self.victim, seed).await.unwrap();
            }
        });
    }
}

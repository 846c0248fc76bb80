//! What is measured: an attack, honest traffic beside it, and what it costs the target.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nixl_tests::within;

use crate::LIMIT;
use crate::honest::{Honest, connector, one};
use crate::target::Target;

/// The process that is attacked, and another of its kind.
pub(crate) struct Scene {
    pub(crate) victim: Arc<Target>,
    decoy: Target,
    seed: u64,
}

/// What came of one attack.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) honest: Honest,
    /// Beside the same attack on the other process: the machine has as much to do.
    elsewhere: Honest,
}

impl Row {
    /// How much longer honest operations took because of the attack.
    pub(crate) fn ratio(&self) -> f64 {
        let [here, elsewhere] = [&self.honest, &self.elsewhere].map(|honest| honest.percentile(99));
        here.as_secs_f64() / elsewhere.as_secs_f64().max(1e-3)
    }
}

impl Scene {
    /// What was sent is still being received for so long.
    const AFTER: Duration = Duration::from_millis(500);

    pub(crate) fn new() -> Self {
        println!(
            "| inputs | number, time | honest ones | median | p99 | p99 beside the attack on another process | memory, KiB | files |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        Self { victim: Arc::new(Target::new()), decoy: Target::new(), seed: 0 }
    }

    /// Attacks while honest traffic goes on, the other process first.
    pub(crate) fn row(
        &mut self,
        what: &'static str,
        count: usize,
        attack: impl Fn(&Target, u64, usize) -> usize,
    ) -> Row {
        self.seed += 1;
        let (_, elsewhere) = self.beside(|scene| attack(&scene.decoy, scene.seed, count));
        self.seed += 1;
        let (memory, files) = (self.victim.memory(), self.victim.files());
        let began = Instant::now();
        let ((inputs, took), honest) = self.beside(|scene| {
            let inputs = attack(&scene.victim, scene.seed, count);
            (inputs, began.elapsed())
        });
        println!(
            "| {what} | {inputs} in {took:.1?} | {} ok, {} failed | {:.0?} | {:.0?} | {:.0?} | {memory} -> {} | {files} -> {} |",
            honest.ok(),
            honest.failed,
            honest.percentile(50),
            honest.percentile(99),
            elsewhere.percentile(99),
            self.victim.memory(),
            self.victim.files(),
        );
        assert!(self.victim.memory() < memory + (256 << 10), "{what}: memory grows");
        Row { what, honest, elsewhere }
    }

    fn beside<T>(&self, attack: impl FnOnce(&Self) -> T) -> (T, Honest) {
        let stop = Arc::<AtomicBool>::default();
        let (victim, stopped) = (Arc::clone(&self.victim), Arc::clone(&stop));
        let honest =
            thread::spawn(move || within(LIMIT, async { Honest::until(&stopped, &victim).await }));
        let outcome = attack(self);
        thread::sleep(Self::AFTER);
        stop.store(true, Ordering::Relaxed);
        (outcome, honest.join().unwrap())
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

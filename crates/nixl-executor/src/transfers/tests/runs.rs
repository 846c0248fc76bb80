//! Transfers under random schedules and faults: every one ends, nothing is lost, and nothing is touched after it has
//! been given back.

use std::time::Duration;

use nixl_connector::simulated::{Fault, MessageFault};
use nixl_device::Device;
use nixl_metadata::OperationKind;
use nixl_ops::{OperationOptions, OperationStatus};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::gpus;
use super::world::{Active, DRAIN, Memory, Messages, Mode, Passive, World, config, pattern};

/// One operation, as it is asked for.
#[derive(Clone, Debug)]
struct Asked {
    kind: OperationKind,
    initiator: usize,
    here: Option<u32>,
    there: Option<u32>,
    together: bool,
    exported: bool,
    lens: Vec<usize>,
    reversed: (bool, bool),
}

fn asked() -> impl Strategy<Value = Asked> {
    let kind = prop_oneof![Just(OperationKind::Read), Just(OperationKind::Write)];
    let device = || prop_oneof![1 => Just(None), 2 => (0u32..2).prop_map(Some)];
    let lens = prop_oneof![
        8 => vec(1usize..200, 1..12),
        2 => vec(1usize..9, 1..300),
        1 => Just(vec![1]),
        1 => Just(vec![64, 64]),
        2 => vec(600usize..3000, 1..3),
    ];
    (kind, 0usize..2, device(), device(), any::<(bool, bool)>(), lens, any::<(bool, bool)>())
        .prop_map(|(kind, initiator, here, there, (together, exported), lens, reversed)| Asked {
            kind,
            initiator,
            here,
            there,
            together,
            exported,
            lens,
            reversed,
        })
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Turn(usize),
    Copies(usize, usize),
    Job(usize),
    Time(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..2).prop_map(Step::Turn),
        4 => (0usize..2, 1usize..12).prop_map(|(side, count)| Step::Copies(side, count)),
        2 => (0usize..2).prop_map(Step::Job),
        1 => (1u64..300).prop_map(Step::Time),
    ]
}

/// An operation under way.
struct Running {
    asked: Asked,
    stream: Vec<u8>,
    /// Of the initiator and of the target.
    memory: [Memory; 2],
    passive: Option<Passive>,
    active: Option<Active>,
    /// What the owner put into its memory once it had it back.
    given_back: [Option<Vec<u8>>; 2],
    done: [Option<OperationStatus>; 2],
}

struct Run {
    world: World,
    running: Vec<Running>,
}

impl Run {
    fn new(
        slots: [usize; 2],
        window: usize,
        operations: &[Asked],
        timeouts: [Option<Duration>; 2],
        messages: Messages,
    ) -> Self {
        let world = World::with_messages(slots.map(|slots| config(slots, window)), messages);
        let mut run = Self { world, running: Vec::new() };
        for (seed, asked) in operations.iter().enumerate() {
            let device = |gpu: Option<u32>| gpu.map_or(Device::HOST, Device::cuda);
            let memory = [
                Memory::new(device(asked.here), &asked.lens, asked.reversed.0),
                Memory::new(device(asked.there), &asked.lens, asked.reversed.1),
            ];
            let stream = pattern(seed as u64, asked.lens.iter().sum());
            let from = usize::from(asked.kind == OperationKind::Read);
            gpus::overwrite(&memory[from].region, &memory[from].image(&stream));
            // The others only where the peer's memory is the host's and there is something to stage.
            let one_sided = asked.there.is_none() && asked.here.is_some() && !asked.together;
            let both_on_gpus = asked.there.is_some() && asked.here.is_some();
            let mode = match one_sided {
                true if asked.exported => Mode::PeerCopies,
                true => Mode::OneSided,
                false if both_on_gpus && !asked.together => Mode::OnGpu,
                false => Mode::TwoSided,
            };
            let options = timeouts.map(|timeout| match timeout {
                Some(timeout) => OperationOptions::new().timeout(timeout),
                None => OperationOptions::new(),
            });
            let (passive, active) = run.world.begin(
                asked.kind,
                asked.initiator,
                (&memory[0], &memory[1]),
                mode,
                (options[0], options[1]),
            );
            run.running.push(Running {
                asked: asked.clone(),
                stream,
                memory,
                passive: Some(passive),
                active: Some(active.unwrap()),
                given_back: [None, None],
                done: [None, None],
            });
        }
        run
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Turn(side) => {
                self.world.sides[side].reactor.turn();
            }
            Step::Copies(side, count) => self.world.sides[side].gpus.run(count),
            Step::Job(side) => {
                self.world.sides[side].jobs.next();
            }
            Step::Time(ms) => self.world.clock.advance(Duration::from_millis(ms)),
        }
        self.check();
    }

    /// What must hold at any time.
    fn check(&mut self) {
        for running in &mut self.running {
            let sink = usize::from(running.asked.kind == OperationKind::Write);
            let statuses = [
                running.active.as_ref().map(Active::status),
                running.passive.as_ref().map(Passive::status),
            ];
            for (side, status) in statuses.into_iter().enumerate() {
                assert!(running.memory[side].guards_hold(), "written outside of the descriptors");
                if let Some(status) = status.filter(|s| s.is_terminal()) {
                    running.done[side] = Some(status);
                }
                if running.given_back[side].is_some() || running.memory[side].is_leased() {
                    continue;
                }
                if running.done[side] == Some(OperationStatus::Complete) && side == sink {
                    let expected = running.memory[side].image(&running.stream);
                    assert_eq!(gpus::look(&running.memory[side].region), expected, "wrong bytes");
                }
                // The owner uses its memory again at once.
                let image = running.memory[side].image(&vec![0x5A; running.stream.len()]);
                gpus::overwrite(&running.memory[side].region, &image);
                running.given_back[side] = Some(image);
            }
        }
    }

    /// Everything has ended: nothing may have touched what was given back.
    fn finish(mut self, quarantine: bool) -> Vec<[Option<OperationStatus>; 2]> {
        self.check();
        // What a peer said at last of slots that it was exported. One that cancelled a copy that had ended is answered for the silence
        // time-out.
        let silence = self.world.sides[0].services.sessions.config().silence;
        for time in [Duration::from_secs(1); 4].into_iter().chain([silence]) {
            self.world.clock.advance(time);
            self.world.turn();
        }
        for running in &self.running {
            for side in 0..2 {
                if let Some(image) = &running.given_back[side] {
                    let found = gpus::look(&running.memory[side].region);
                    assert!(
                        found == *image,
                        "touched after it was given back: {:?}",
                        running.asked
                    );
                }
            }
        }
        for side in &self.world.sides {
            let (stats, config) = (side.stats(), side.services.sessions.config());
            let overdue = side.driver.stats().overdue().operations();
            assert!(stats.sessions <= overdue, "{stats:?}");
            for pool in [stats.outgoing, stats.incoming] {
                // What is overdue keeps its slots until its engine is quiet.
                let rest = pool.free + pool.quarantined;
                assert!(rest == config.slots || (overdue > 0 && rest < config.slots), "{stats:?}");
                assert!(quarantine || pool.quarantined == 0, "slots were given up: {stats:?}");
            }
            let on_gpus = stats.on_gpus;
            let rest = on_gpus.free + on_gpus.quarantined;
            assert!(rest.is_multiple_of(config.gpu_slots) || overdue > 0, "{stats:?}");
            assert!(quarantine || on_gpus.quarantined == 0, "slots were given up: {stats:?}");
        }
        self.running.iter().map(|running| running.done).collect()
    }

    /// Turns everything until all has ended, for at most `time`. Returns whether it has.
    fn settle(&mut self, time: Duration) -> bool {
        let mut passed = Duration::ZERO;
        while passed < time {
            // Much may happen at first, and little after long.
            for _ in 0..if passed < Duration::from_secs(5) { 60 } else { 6 } {
                self.world.turn();
            }
            self.check();
            let ended = self.running.iter().all(|r| {
                let ended =
                    |status: Option<OperationStatus>| status.is_none_or(|s| s.is_terminal());
                ended(r.active.as_ref().map(Active::status))
                    && ended(r.passive.as_ref().map(Passive::status))
            });
            if ended && self.world.is_idle() {
                return true;
            }
            let step = (passed / 20).max(Duration::from_millis(100));
            self.world.clock.advance(step);
            passed += step;
        }
        false
    }
}

const COMPLETE: [Option<OperationStatus>; 2] = [Some(OperationStatus::Complete); 2];

fn slots() -> impl Strategy<Value = [usize; 2]> {
    [1usize..5, 1usize..5]
}

fn messages() -> impl Strategy<Value = Messages> {
    prop_oneof![Just(Messages::ByEngine), Just(Messages::ByMailbox)]
}

/// As many as are asked for, or as take some seconds.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// No circle of waits, no lost credit: in every order of events, all complete, and soon.
    #[test]
    fn all_complete_in_any_order(
        by in messages(), slots in slots(), window in 1usize..6, operations in vec(asked(), 1..6),
        steps in vec(step(), 0..200), delays in vec(proptest::option::of(1u64..50), 0..60),
        slow in vec(proptest::option::of(1u64..50), 0..30),
    ) {
        let mut run = Run::new(slots, window, &operations, [None, None], by);
        let delay = |ms: u64| MessageFault::Delayed(Duration::from_millis(ms));
        run.world.fabric.faults().messages(delays.into_iter().map(|ms| ms.map(delay)));
        for ms in slow {
            run.world.fabric.faults().next(ms.map(|ms| Fault::Delay(Duration::from_millis(ms))));
        }
        steps.into_iter().for_each(|step| run.step(step));
        prop_assert!(run.settle(Duration::from_secs(20)), "they wait for each other");
        for done in run.finish(false) {
            prop_assert_eq!(done, COMPLETE);
        }
    }

    /// Cancelled or dropped, by either side, at any step: everything comes back.
    #[test]
    fn any_side_may_give_up_at_any_step(
        by in messages(), slots in slots(), window in 1usize..6, operations in vec(asked(), 1..5),
        steps in vec(step(), 0..120),
        gives_up in vec((any::<Index>(), any::<Index>(), any::<bool>(), any::<bool>()), 1..4),
        timeout in proptest::option::of(1u64..2000),
    ) {
        let timeout = timeout.map(Duration::from_millis);
        let mut run = Run::new(slots, window, &operations, [timeout, None], by);
        for at in 0..=steps.len() {
            for (when, which, active, drops) in &gives_up {
                if when.index(steps.len() + 1) != at {
                    continue;
                }
                let running = which.get(&run.running);
                let index = run.running.iter().position(|r| std::ptr::eq(r, running)).unwrap();
                let running = &mut run.running[index];
                match (active, drops) {
                    (true, false) => {
                        running.active.iter_mut().for_each(|active| { active.cancel(); });
                    }
                    (true, true) => running.active = None,
                    (false, _) => running.passive = None,
                }
                run.check();
            }
            steps.get(at).into_iter().for_each(|step| run.step(*step));
        }
        // Offers whose initiator gave up wait for another, and are given up now.
        run.settle(Duration::from_secs(5));
        run.running.iter_mut().for_each(|r| r.passive = None);
        prop_assert!(run.settle(DRAIN * 3), "something never ends");
        run.finish(false);
    }

    /// Either side dies at any step: every wait ends.
    #[test]
    fn either_side_may_die_at_any_step(
        by in messages(), slots in slots(), window in 1usize..6, operations in vec(asked(), 1..5),
        steps in vec(step(), 0..120), dies in 0usize..2, when in any::<Index>(),
    ) {
        let timeout = Some(Duration::from_secs(10));
        let mut run = Run::new(slots, window, &operations, [timeout; 2], by);
        let when = when.index(steps.len() + 1);
        for at in 0..=steps.len() {
            if at == when {
                prop_assert!(run.world.fabric.kill(run.world.sides[dies].transport.agent_name()));
            }
            steps.get(at).into_iter().for_each(|step| run.step(*step));
        }
        prop_assert!(run.settle(DRAIN * 3), "something never ends");
        run.finish(true);
    }

    /// The engine fails, and messages get lost or come twice: every wait ends, and complete means complete.
    #[test]
    fn an_engine_may_fail_at_any_step(
        by in messages(), slots in slots(), window in 1usize..6, operations in vec(asked(), 1..5),
        steps in vec(step(), 0..120),
        faults in vec(proptest::option::weighted(0.15, 0u8..7), 0..40),
        lost in vec(proptest::option::weighted(0.1, 0u8..3), 0..40),
        lose in proptest::option::weighted(0.1, (0usize..2, any::<Index>())),
    ) {
        let timeout = Some(Duration::from_secs(10));
        let mut run = Run::new(slots, window, &operations, [timeout; 2], by);
        let after = 20;
        for fault in faults {
            run.world.fabric.faults().next(fault.map(|fault| match fault {
                0 => Fault::PostFails,
                1 => Fault::Fails { after },
                2 => Fault::Stalls { after },
                3 => Fault::NotificationLost,
                4 => Fault::NotificationTwice,
                5 => Fault::NotificationFails,
                _ => Fault::Delay(Duration::from_secs(1)),
            }));
        }
        run.world.fabric.faults().messages(lost.into_iter().map(|fault| fault.map(|fault| {
            match fault {
                0 => MessageFault::Lost,
                1 => MessageFault::Twice,
                _ => MessageFault::Delayed(Duration::from_secs(1)),
            }
        })));
        for (at, step) in steps.iter().enumerate() {
            if let Some((side, when)) = &lose && when.index(steps.len()) == at {
                run.world.sides[*side].gpus.lose();
            }
            run.step(*step);
        }
        run.settle(DRAIN * 3);
        // Late writes come last, and must hit no other memory.
        run.world.fabric.faults().release();
        prop_assert!(run.settle(DRAIN * 3), "something never ends");
        run.finish(true);
    }
}

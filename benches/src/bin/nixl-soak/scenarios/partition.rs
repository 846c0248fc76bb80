//! An owner that is silent for a while: stopped, or behind a network that carries nothing.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Signal;

use super::network::Network;
use super::{Bench, Rounds, Trial, Variant};
use crate::growth::Pace;
use crate::messages::{Executor, Load, Memory, Setup};
use crate::process::{Node, Place};
use crate::side::Side;
use crate::watch;

/// Deadline of operations and offers.
const DEADLINE_MS: u64 = 500;
/// The life time of offers. It is over before a silence is: what was sent in time arrives when the memory would be free.
const LIFE_TIME_MS: u64 = 600;
/// How long the engine may take to be quiet afterwards. Both together are shorter than the shortest silence, so that the
/// end of it is met by operations that were given up.
const DRAIN_MS: u64 = 300;
/// Within this time after the silence operations succeed again.
const USABLE: Duration = Duration::from_secs(5);
/// How long to wait between attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// Within this time memory is back.
const BACK: Duration = Duration::from_secs(15);

pub(super) fn variants() -> Vec<Variant> {
    let stop = |executor: Executor, place| {
        let name = match place {
            Place::Host => format!("{} executor, stopped", executor.name()),
            _ => format!("{} executor over TCP, stopped", executor.name()),
        };
        let run =
            move |bench: &mut Bench, trial: &mut Trial| stopped(executor, place, bench, trial);
        Variant::new(name, Pace::Events, run)
    };
    vec![
        stop(Executor::Transport, Place::Tcp),
        stop(Executor::Path, Place::Host),
        Variant::new("transport executor, network cut", Pace::Events, cut),
    ]
}

fn stopped(executor: Executor, place: Place, bench: &mut Bench, trial: &mut Trial) -> Result<()> {
    let setups = [setup(executor, bench), setup(executor, bench)];
    let [owner, reader] = bench.start(place, setups)?;
    silences(bench, trial, Memory::Vec, owner, reader, &mut |owner, is_silent| {
        owner.signal(if is_silent { Signal::STOP } else { Signal::CONT })
    })
}

fn cut(bench: &mut Bench, trial: &mut Trial) -> Result<()> {
    if let Err(reason) = Network::available() {
        trial.skipped = Some(reason);
        return Ok(());
    }
    let (mut owner, mut reader) = (Node::spawn(Place::Namespace)?, Node::spawn(Place::Namespace)?);
    let network = Network::between(owner.pid(), reader.pid())?;
    for node in [&mut owner, &mut reader] {
        node.set_up(&setup(Executor::Transport, bench))?;
    }
    for node in [&mut owner, &mut reader] {
        node.ready()?;
    }
    // The application's own memory would come back only once TCP has given the connection up, after a quarter of an hour.
    let memory = Memory::Buffer;
    silences(bench, trial, memory, owner, reader, &mut |_, is_silent| network.set(!is_silent))
}

fn setup(executor: Executor, bench: &mut Bench) -> Setup {
    let setup = bench.setup(executor);
    Setup { timeout_ms: DEADLINE_MS, life_time_ms: LIFE_TIME_MS, drain_ms: DRAIN_MS, ..setup }
}

/// The silence of a round: a second, but in one round out of four of a long run ten, and in one of them a hundred.
fn silence(round: usize, is_quick: bool) -> Duration {
    let seconds = match round {
        _ if is_quick => 1,
        round if round % 16 == 15 => 100,
        round if round % 4 == 3 => 10,
        _ => 1,
    };
    Duration::from_secs(seconds)
}

fn silences(
    bench: &mut Bench,
    trial: &mut Trial,
    memory: Memory,
    mut owner: Node,
    mut reader: Node,
    silent: &mut dyn FnMut(&Node, bool) -> Result<()>,
) -> Result<()> {
    trial.sides.extend([Side::new("owner"), Side::new("reader")]);
    let mut slowest = Duration::ZERO;
    let mut rounds = 0;
    while trial.goes_on(rounds, Rounds::of(4, 1)) {
        let silence = bench.silence.unwrap_or_else(|| silence(rounds, trial.time.is_quick()));
        let load = load(bench, &owner, memory, silence);
        reader.begin(&load)?;
        thread::sleep(Duration::from_millis(bench.random.between(100, 200)));
        silent(&owner, true)?;
        thread::sleep(silence);
        silent(&owner, false)?;
        let over = Instant::now();
        let ran = reader.ran(&load)?;
        let [owner_side, reader_side] = &mut trial.sides[..] else { return Ok(()) };
        reader_side.add(ran);
        let usable = loop {
            let ran = reader.run(&Load { tasks: 1, ms: 0, ahead: 0, ..load.clone() })?;
            let failed = ran.ended.clone();
            reader_side.add(ran);
            if failed.is_empty() {
                break true;
            }
            thread::sleep(PAUSE);
            if over.elapsed() > USABLE {
                trial.failures.push(format!(
                    "round {rounds}: {:.1?} after a silence of {silence:?} operations still end with {}",
                    over.elapsed(),
                    failed.into_keys().collect::<Vec<_>>().join(", ")
                ));
                break false;
            }
        };
        slowest = slowest.max(over.elapsed());
        let mut pairs = [(owner_side, &mut owner), (reader_side, &mut reader)];
        let left = watch::quiet(&mut pairs, BACK)?;
        if let Some(left) = left {
            trial.failures.push(format!("round {rounds}: {left}"));
            break;
        }
        if !usable {
            break;
        }
        rounds += 1;
    }
    trial.notes.push(format!("usable {slowest:.1?} after a silence at the latest"));
    Ok(())
}

fn load(bench: &mut Bench, owner: &Node, memory: Memory, silence: Duration) -> Load {
    let ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX) + 300;
    let load = bench.load(owner, ms);
    Load { memory, timeout_ms: DEADLINE_MS, ahead: 3, lenient: true, ..load }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silences_outlive_deadline_and_drain() {
        assert!(silence(0, true) > Duration::from_millis(DEADLINE_MS + DRAIN_MS));
        assert!(silence(0, true) > Duration::from_millis(LIFE_TIME_MS));
        let seconds: Vec<_> = (0..16).map(|round| silence(round, false).as_secs()).collect();
        assert_eq!(seconds.iter().filter(|&&s| s == 10).count(), 3);
        assert_eq!(seconds.iter().filter(|&&s| s == 100).count(), 1);
    }
}

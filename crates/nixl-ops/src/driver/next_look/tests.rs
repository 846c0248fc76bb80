//! The table and the properties of the schedule.

use proptest::prelude::*;

use super::*;

const MICRO: Duration = Duration::from_micros(1);
const NOW: Duration = Duration::from_secs(100);
/// The longest sleep of the back-off.
const LONGEST: Duration = Duration::from_micros(1200);

/// Nothing is in flight, and nothing has been for long.
fn at_rest() -> LookState {
    LookState {
        backoff: Backoff::default(),
        last_progress: NOW - Duration::from_secs(10),
        has_polled: false,
        awaits_message: false,
        callers_first_until: None,
        callers_spin_until: None,
        posts_expected_until: None,
        wake_waiter_at: None,
        poll_closely_from: None,
        due: None,
        ending: None,
    }
}

fn polling() -> LookState {
    LookState { has_polled: true, ..at_rest() }
}

fn awaiting() -> LookState {
    LookState { awaits_message: true, ..at_rest() }
}

fn since(state: LookState, micros: u32) -> LookState {
    LookState { last_progress: NOW - micros * MICRO, ..state }
}

fn ending(retains: bool, ago: Duration) -> LookState {
    let drain = Duration::from_secs(60);
    LookState { ending: Some(Ending { since: NOW - ago, retains, drain }), ..at_rest() }
}

#[test]
fn table() {
    let soon = |micros: u32| Some(NOW + micros * MICRO);
    let sleep = |micros: u32| Next::Sleep(micros * MICRO);
    let fresh = since(polling(), 0);
    let cases = [
        ("a transfer that came further is polled at once", fresh, Next::Spin),
        ("one that did not, less closely", since(polling(), 30), sleep(50)),
        ("in proportion to the wait", since(polling(), 1600), sleep(100)),
        ("up to a bound", polling(), sleep(1200)),
        ("so is a message", since(awaiting(), 0), Next::Spin),
        ("less closely, too", awaiting(), sleep(1200)),
        (
            "a transfer that has begun is left to its caller",
            LookState { callers_first_until: soon(50), ..fresh },
            sleep(50),
        ),
        (
            "also if it is the caller's for longer",
            LookState { callers_first_until: soon(50), callers_spin_until: soon(10), ..fresh },
            sleep(50),
        ),
        (
            "while all waiters spin, they are left alone",
            LookState { callers_spin_until: soon(40), ..fresh },
            sleep(40),
        ),
        (
            "but for messages, which no waiter sees",
            LookState { callers_spin_until: soon(40), awaits_message: true, ..fresh },
            Next::Spin,
        ),
        (
            "a sleep ends with the spinning",
            LookState { callers_spin_until: soon(40), ..polling() },
            sleep(40),
        ),
        (
            "or with the back-off",
            LookState { callers_spin_until: soon(4000), ..polling() },
            sleep(1200),
        ),
        ("a waiter is woken in time", LookState { wake_waiter_at: soon(7), ..polling() }, sleep(7)),
        (
            "an end that is near is looked for closely",
            LookState { poll_closely_from: soon(0), ..polling() },
            Next::Spin,
        ),
        (
            "from then on",
            LookState { poll_closely_from: soon(9), wake_waiter_at: soon(11), ..polling() },
            sleep(9),
        ),
        ("another operation usually follows", since(at_rest(), 400), sleep(600)),
        (
            "another transfer may be left to its waiter",
            LookState { posts_expected_until: soon(50), ..at_rest() },
            sleep(1000),
        ),
        (
            "or not any more",
            LookState { posts_expected_until: Some(NOW), ..at_rest() },
            Next::Park(None),
        ),
        ("nothing is in flight", since(at_rest(), 1000), Next::Park(None)),
        (
            "something is due later",
            LookState { due: soon(5000), ..at_rest() },
            Next::Park(Some(5000 * MICRO)),
        ),
        ("or now", LookState { due: Some(NOW), ..at_rest() }, Next::Park(Some(Duration::ZERO))),
        (
            "what is due ends no sleep",
            LookState { due: soon(5), ..since(at_rest(), 0) },
            sleep(1000),
        ),
        (
            "a transfer that wakes has an expected end",
            LookState { wake_waiter_at: soon(3000), due: soon(5000), ..at_rest() },
            Next::Park(Some(3000 * MICRO)),
        ),
        (
            "which is near",
            LookState { poll_closely_from: soon(0), due: soon(5000), ..at_rest() },
            Next::Spin,
        ),
        ("the driver was dropped", ending(false, Duration::ZERO), Next::Exit),
        ("peers may be reading", ending(true, Duration::from_secs(59)), sleep(10_000)),
        ("for too long", ending(true, Duration::from_secs(60)), Next::Exit),
    ];
    for (name, state, next) in cases {
        assert_eq!(next_look(&state, NOW), next, "{name}");
    }
}

/// A time within some milliseconds of now, or none.
fn near() -> impl Strategy<Value = Option<Duration>> {
    proptest::option::of((0..10_000u32).prop_map(|micros| NOW + micros * MICRO - 5000 * MICRO))
}

prop_compose! {
    fn states()(
        idle in 0..5_000_000u32,
        (has_polled, awaits_message) in any::<(bool, bool)>(),
        callers_first_until in near(),
        callers_spin_until in near(),
        posts_expected_until in near(),
        wake_waiter_at in near(),
        poll_closely_from in near(),
        due in near(),
    ) -> LookState {
        let state = LookState {
            has_polled,
            awaits_message,
            callers_first_until,
            callers_spin_until,
            posts_expected_until,
            wake_waiter_at,
            poll_closely_from,
            due,
            ..at_rest()
        };
        since(state, idle)
    }
}

proptest! {
    #[test]
    fn what_is_to_be_polled_is_never_slept_through(state in states()) {
        let next = next_look(&state, NOW);
        let first = state.wake_waiter_at.into_iter().chain(state.poll_closely_from).min();
        match next {
            Next::Spin => prop_assert!(
                state.has_polled || state.awaits_message || first.is_some_and(|at| at <= NOW)
            ),
            Next::Sleep(sleep) => {
                prop_assert!(sleep <= LONGEST);
                prop_assert!(first.is_none_or(|at| NOW + sleep <= at));
            }
            Next::Park(bound) => {
                prop_assert!(!state.has_polled && !state.awaits_message);
                let until = bound.map(|bound| NOW + bound);
                for at in [state.due, first].into_iter().flatten() {
                    prop_assert!(until.is_some_and(|until| until <= at.max(NOW)));
                }
            }
            Next::Exit => prop_assert!(false, "the driver was not dropped"),
        }
    }

    #[test]
    fn only_transfers_that_are_polled_or_posted_and_messages_keep_it_from_parking(state in states()) {
        let rests = LookState {
            has_polled: false,
            awaits_message: false,
            posts_expected_until: None,
            wake_waiter_at: None,
            poll_closely_from: None,
            ..since(state, 1000)
        };
        prop_assert!(matches!(next_look(&rests, NOW), Next::Park(_)));
    }

    #[test]
    fn it_looks_no_sooner_the_longer_nothing_happens(
        state in states(),
        (a, b) in any::<(u16, u16)>(),
    ) {
        let until = |idle: u16| match next_look(&since(state, idle.into()), NOW) {
            Next::Spin => Duration::ZERO,
            Next::Sleep(sleep) => sleep,
            Next::Park(_) | Next::Exit => LONGEST,
        };
        if state.has_polled || state.awaits_message {
            // While callers spin, the first sleep is theirs.
            let alone = state.callers_first_until.is_none() && state.callers_spin_until.is_none();
            prop_assert!(!alone || until(a.min(b)) <= until(a.max(b)));
        }
    }
}

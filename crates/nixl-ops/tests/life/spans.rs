//! Spans and events of operations, as subscribers of `tracing` see them.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nixl_device::Device;
use nixl_metadata::{AgentMetadata, NotificationKey, RdmaMetadata, SerializedDescriptor};
use nixl_ops::{OperationError, OperationKind, OperationOptions};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::world::{Engine, Memory, World, broken, now, timeout};

/// Keeps what happens as `span > span: message`, of one thread.
#[derive(Clone, Default)]
struct Told(Arc<Inner>);

#[derive(Default)]
struct Inner {
    spans: Mutex<Vec<String>>,
    entered: Mutex<Vec<u64>>,
    events: Mutex<Vec<String>>,
}

impl Told {
    fn here(&self) -> Option<String> {
        let at = usize::try_from(*self.0.entered.lock().unwrap().last()?).unwrap();
        Some(self.0.spans.lock().unwrap()[at - 1].clone())
    }
}

impl Subscriber for Told {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let name = span.metadata().name();
        let path = match self.here() {
            Some(parent) => format!("{parent} > {name}"),
            None => name.to_owned(),
        };
        let mut spans = self.0.spans.lock().unwrap();
        spans.push(path);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let place = self.here().unwrap_or_default();
        self.0.events.lock().unwrap().push(format!("{place}: {}", message.0));
    }

    fn enter(&self, span: &Id) {
        self.0.entered.lock().unwrap().push(span.into_u64());
    }

    fn exit(&self, _: &Id) {
        self.0.entered.lock().unwrap().pop();
    }
}

/// Keeps the field `traceparent` of each new span.
#[derive(Clone, Default)]
struct Traces(Arc<Mutex<Vec<String>>>);

impl Visit for Traces {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "traceparent" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl Subscriber for Traces {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut self.clone());
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn the_span_has_the_trace_of_the_offer_or_of_the_options() {
    let [offered, own] = ["4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000001"]
        .map(|trace_id| format!("00-{trace_id}-00f067aa0ba902b7-01"));
    let memory = Memory::small();
    let descriptor = SerializedDescriptor::new(Device::HOST, 4096, 64).unwrap();
    let agent = AgentMetadata::compress(b"agent").unwrap();
    let key = NotificationKey::random();
    let remote = RdmaMetadata::new(OperationKind::Read, vec![descriptor], agent, key).unwrap();
    let remote = remote.with_trace_context(offered.parse().unwrap());
    let traces = Traces::default();
    tracing::subscriber::with_default(traces.clone(), || {
        let world = World::new();
        let begun = |options| {
            let engine = Engine::ready(Ok(()));
            now(world.read(&engine, &memory, options).unwrap().wait_for_completion()).unwrap();
        };
        begun(OperationOptions::new());
        begun(OperationOptions::new().within_trace_of(&remote));
        let options = OperationOptions::new().trace_context(own.parse().unwrap());
        begun(options.within_trace_of(&remote));
    });
    assert_eq!(*traces.0.lock().unwrap(), [offered, own]);
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[test]
fn an_operation_has_a_span_below_that_of_its_caller() {
    let told = Told::default();
    tracing::subscriber::with_default(told.clone(), || {
        let world = World::new();
        let memory = Memory::small();
        let engine = Engine::pending();
        let mut read = tracing::info_span!("caller")
            .in_scope(|| world.read(&engine, &memory, OperationOptions::new()).unwrap());
        engine.end(Ok(()));
        // Outside the caller's span.
        now(read.wait_for_completion()).unwrap();
    });
    let events = told.0.events.lock().unwrap();
    assert_eq!(*events, ["caller > operation: operation completed"]);
    assert!(told.0.entered.lock().unwrap().is_empty());
}

/// Panics at each call of one sort.
struct Panicking(Call);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Call {
    Clone,
    Enter,
    Exit,
    Event,
    Close,
}

impl Panicking {
    fn at(&self, call: Call) {
        assert_ne!(self.0, call, "a subscriber's panic");
    }
}

impl Subscriber for Panicking {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.at(Call::Event);
    }

    fn enter(&self, _: &Id) {
        self.at(Call::Enter);
    }

    fn exit(&self, _: &Id) {
        self.at(Call::Exit);
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.at(Call::Clone);
        id.clone()
    }

    fn try_close(&self, _: Id) -> bool {
        self.at(Call::Close);
        false
    }
}

#[test]
fn a_subscriber_that_panics_costs_no_operation() {
    for call in [Call::Clone, Call::Enter, Call::Exit, Call::Event, Call::Close] {
        tracing::subscriber::with_default(Panicking(call), || {
            let mut world = World::new();
            let engines = [(); 3].map(|()| Engine::pending());
            let after = Duration::from_secs(1);
            // Large ones, which the driver posts.
            let mut reads = engines
                .each_ref()
                .map(|engine| world.read(engine, &Memory::large(), timeout(after)).unwrap());
            world.reactor.turn();
            assert!(engines.iter().all(|engine| engine.in_flight()), "{call:?}");
            engines[0].end(Ok(()));
            engines[1].end(Err(broken()));
            world.reactor.turn();
            world.clock.advance(after);
            world.reactor.turn();
            assert!(now(reads[0].wait_for_completion()).is_ok(), "{call:?}");
            assert_eq!(now(reads[1].wait_for_completion()), Err(broken().into()), "{call:?}");
            let timed_out = OperationError::TimedOut { after };
            assert_eq!(now(reads[2].wait_for_completion()), Err(timed_out), "{call:?}");
            engines[2].end(Ok(()));
            world.reactor.turn();
            assert_eq!(world.driver.stats().active(), 0, "{call:?}");
        });
    }
}

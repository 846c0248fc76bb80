//! Spans and events of operations, as subscribers of `tracing` see them.

use std::fmt;
use std::sync::{Arc, Mutex};

use nixl_ops::OperationOptions;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::world::{Engine, Memory, World, now};

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

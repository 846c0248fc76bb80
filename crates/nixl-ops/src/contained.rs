//! Containment of panics in code of users and other crates, on threads that all operations share.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::TransportError;

/// Runs code that may panic. The panic is logged and becomes an error; the thread continues.
///
/// State that `work` was changing may be inconsistent afterwards: the caller discards it.
///
/// # Errors
///
/// [`TransportError::Panicked`].
pub fn contained<R>(what: &'static str, work: impl FnOnce() -> R) -> Result<R, TransportError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let reason = message(&*panic);
        // A payload whose destructor panics too.
        forget_panic(|| drop(panic));
        // Also for a panic of a subscriber.
        forget_panic(|| tracing::error!(what, reason, "a panic was contained"));
        TransportError::Panicked { what, reason }
    })
}

fn forget_panic(work: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
        mem::forget(panic);
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a payload that is no text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a payload's destructor");
        }
    }

    #[test]
    fn a_panic_becomes_an_error_whatever_its_payload() {
        assert_eq!(contained("sum", || 1 + 1), Ok(2));
        for (panic, expected) in [
            (Box::new(|| -> () { panic!("text") }) as Box<dyn Fn()>, "text"),
            (Box::new(|| -> () { panic!("number {}", 7) }), "number 7"),
            (Box::new(|| -> () { std::panic::panic_any(Bomb) }), "a payload that is no text"),
        ] {
            let reason = expected.to_owned();
            assert_eq!(
                contained("test", panic),
                Err(TransportError::Panicked { what: "test", reason })
            );
        }
    }
}

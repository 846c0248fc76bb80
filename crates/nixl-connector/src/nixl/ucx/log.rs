//! UCX's messages, passed to `tracing`.
#![allow(unsafe_code, reason = "reads the arguments of UCX's message handler")]

use std::cell::RefCell;
use std::env;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use tracing::subscriber::NoSubscriber;

use super::library::Ucx;
use crate::nixl::exit;

/// UCX calls its own writer next.
const CONTINUE: c_uint = 1;
/// The message ends here.
const STOP: c_uint = 0;

/// Longer messages are cut, as UCX cuts its own.
const LONGEST: usize = 1024;

/// Passes UCX's messages on, once for the process, unless `UCX_LOG_FILE` is set.
pub(super) fn hand_on(ucx: &Ucx) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if env::var_os("UCX_LOG_FILE").is_none() && !ucx.add_log_handler(handle) {
            tracing::debug!("this UCX writes its messages itself");
        }
    });
}

/// Called by UCX on any of its threads, with its locks held.
extern "C" fn handle(
    file: *const c_char,
    line: c_uint,
    _function: *const c_char,
    level: c_uint,
    _component: *const c_void,
    format: *const c_char,
    arguments: *mut c_void,
) -> c_uint {
    // SAFETY: this is the C library's function. Its last parameter is a `va_list`, which x86-64 and AArch64 pass as a pointer.
    unsafe extern "C" {
        fn vsnprintf(
            to: *mut c_char,
            len: usize,
            format: *const c_char,
            arguments: *mut c_void,
        ) -> c_int;
    }
    // While the process exits, a subscriber may have been torn down.
    let Some(_busy) = exit::enter() else { return CONTINUE };
    let mut message = [0_u8; LONGEST];
    // SAFETY: the buffer has the given length; format and arguments are those that UCX passes to its own writer, unchanged, and
    // UCX makes new arguments for the next handler.
    let len = unsafe { vsnprintf(message.as_mut_ptr().cast(), message.len(), format, arguments) };
    if len < 0 {
        return CONTINUE;
    }
    let message = CStr::from_bytes_until_nul(&message).unwrap_or(c"").to_string_lossy();
    let message = message.trim_end();
    if level <= WARN {
        note(level, message);
    }
    if !is_heard() {
        return CONTINUE;
    }
    // SAFETY: UCX's macros pass the name of the file as a string literal.
    let file = unsafe { CStr::from_ptr(file) }.to_string_lossy();
    // A subscriber that panics does not end the process here.
    let told = catch_unwind(AssertUnwindSafe(|| tell(level, &file, line, message)));
    // UCX ends the process after a fatal message, so UCX's own writer prints it too.
    if told.is_err() || level == FATAL { CONTINUE } else { STOP }
}

thread_local! {
    /// The first of the most severe errors and warnings that UCX writes on this thread during [`first_error`].
    static FIRST_ERROR: RefCell<Option<(c_uint, String)>> = const { RefCell::new(None) };
}

/// Runs a call, and returns the first error that UCX writes meanwhile on this thread, or the first warning. Empty without one.
pub(super) fn first_error<T>(call: impl FnOnce() -> T) -> (T, String) {
    FIRST_ERROR.set(Some((c_uint::MAX, String::new())));
    let result = call();
    (result, FIRST_ERROR.take().map(|(_, message)| message).unwrap_or_default())
}

fn note(level: c_uint, message: &str) {
    // Not on a thread that ends.
    let _ = FIRST_ERROR.try_with(|first| {
        if let Ok(mut first) = first.try_borrow_mut()
            && let Some(first) = first.as_mut().filter(|first| level.max(ERROR) < first.0)
        {
            *first = (level.max(ERROR), message.to_owned());
        }
    });
}

/// Whether a subscriber is installed. Without one UCX writes its messages itself.
fn is_heard() -> bool {
    tracing::dispatcher::get_default(|dispatch| !dispatch.is::<NoSubscriber>())
}

const FATAL: c_uint = 0;
const ERROR: c_uint = 1;
const WARN: c_uint = 2;

/// UCX logs as errors conditions that its caller handles and a connector reports itself, such as an ended peer.
fn tell(level: c_uint, file: &str, line: c_uint, message: &str) {
    match level {
        FATAL => tracing::error!(target: "ucx", file, line, "{message}"),
        ERROR | WARN => tracing::warn!(target: "ucx", file, line, "{message}"),
        3 | 4 => tracing::info!(target: "ucx", file, line, "{message}"),
        5 => tracing::debug!(target: "ucx", file, line, "{message}"),
        _ => tracing::trace!(target: "ucx", file, line, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{self, Write as _};
    use std::ptr;
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    #[derive(Clone, Default)]
    struct Collects(Arc<Mutex<String>>);

    impl Visit for Collects {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            write!(self.0.lock().unwrap(), " {field}={value:?}").unwrap();
        }
    }

    impl Subscriber for Collects {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            let metadata = event.metadata();
            write!(self.0.lock().unwrap(), "{} {}", metadata.level(), metadata.target()).unwrap();
            event.record(&mut self.clone());
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    /// As UCX calls it, with a format that takes no arguments.
    fn said(level: c_uint) -> c_uint {
        // The longest `va_list` has 32 bytes.
        let mut arguments = [0_u64; 8];
        let (name, format) = (c"sock.c".as_ptr(), c"gone\n".as_ptr());
        handle(name, 7, name, level, ptr::null(), format, arguments.as_mut_ptr().cast())
    }

    #[test]
    fn messages_are_told_to_a_subscriber() {
        let heard = Collects::default();
        let results =
            tracing::subscriber::with_default(heard.clone(), || [said(1), said(5), said(0)]);
        assert_eq!(results, [STOP, STOP, CONTINUE]);
        let heard = heard.0.lock().unwrap();
        for part in ["WARN ucx", "DEBUG ucx", "ERROR ucx", "gone", "file=\"sock.c\"", "line=7"] {
            assert!(heard.contains(part), "{part}: {heard}");
        }
    }

    #[test]
    fn the_first_error_of_a_call_is_known() {
        let none = NoSubscriber::default();
        let (result, error) =
            tracing::subscriber::with_default(none, || first_error(|| [said(2), said(1), said(1)]));
        assert_eq!((result, error.as_str()), ([CONTINUE; 3], "gone"));
        assert_eq!(first_error(|| said(2)).1, "gone");
        assert_eq!(first_error(|| said(3)).1, "");
        let all = first_error(|| {
            note(WARN, "warning");
            note(ERROR, "error");
            note(FATAL, "fatal");
        });
        assert_eq!(all.1, "error", "later errors follow from the first");
    }

    #[test]
    fn without_a_subscriber_ucx_writes_them() {
        let none = NoSubscriber::default();
        assert_eq!(tracing::subscriber::with_default(none, || said(1)), CONTINUE);
    }

    #[test]
    fn a_subscriber_that_panics_is_contained() {
        struct Panics;
        impl Subscriber for Panics {
            fn enabled(&self, _: &Metadata<'_>) -> bool {
                // A panic here would poison `tracing` for the other tests.
                true
            }
            fn new_span(&self, _: &Attributes<'_>) -> Id {
                Id::from_u64(1)
            }
            fn record(&self, _: &Id, _: &Record<'_>) {}
            fn record_follows_from(&self, _: &Id, _: &Id) {}
            fn event(&self, _: &Event<'_>) {
                panic!("by order")
            }
            fn enter(&self, _: &Id) {}
            fn exit(&self, _: &Id) {}
        }
        assert_eq!(tracing::subscriber::with_default(Panics, || said(1)), CONTINUE);
    }
}

//! Methods that a wrapper of an execution forwards to the inner one.

/// Forwards methods of [`Execution`](crate::Execution) to a field, in the `impl` of a wrapper.
///
/// The wrapper names each method, so none falls back to its default silently: `clippy::missing_trait_methods` finds methods
/// that it neither implements nor names.
///
/// ```
/// use std::task::{Context, Poll};
/// use nixl_ops::{Execution, TransportError, forward_execution};
///
/// struct Counted { polls: u64, execution: Box<dyn Execution> }
///
/// impl Execution for Counted {
///     fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
///         self.polls += 1;
///         self.execution.poll(cx)
///     }
///
///     forward_execution! {
///         execution: abandon awaits_notification completion_mode expected peer_memory posts_quickly report steps takes_turns
///             target_told
///     }
/// }
/// ```
#[macro_export]
macro_rules! forward_execution {
    ($to:ident: $($method:ident)*) => { $($crate::forward_execution!(@ $to $method);)* };
    (@ $to:ident abandon) => {
        fn abandon(&mut self) -> bool {
            self.$to.abandon()
        }
    };
    (@ $to:ident awaits_notification) => {
        fn awaits_notification(&self) -> bool {
            self.$to.awaits_notification()
        }
    };
    (@ $to:ident completion_mode) => {
        fn completion_mode(&self) -> $crate::CompletionMode {
            self.$to.completion_mode()
        }
    };
    (@ $to:ident expected) => {
        fn expected(&self) -> ::std::option::Option<::std::time::Duration> {
            self.$to.expected()
        }
    };
    (@ $to:ident peer_memory) => {
        fn peer_memory(&self) -> $crate::PeerMemory {
            self.$to.peer_memory()
        }
    };
    (@ $to:ident posts_quickly) => {
        fn posts_quickly(&self) -> bool {
            self.$to.posts_quickly()
        }
    };
    (@ $to:ident report) => {
        fn report(&self) -> $crate::PathReport {
            self.$to.report()
        }
    };
    (@ $to:ident steps) => {
        fn steps(&self) -> u64 {
            self.$to.steps()
        }
    };
    (@ $to:ident takes_turns) => {
        fn takes_turns(&self) -> bool {
            self.$to.takes_turns()
        }
    };
    (@ $to:ident target_told) => {
        fn target_told(&self) -> bool {
            self.$to.target_told()
        }
    };
}

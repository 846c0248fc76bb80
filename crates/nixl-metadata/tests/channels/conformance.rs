//! The suite over each backend.

use crate::servers::{Backend, Etcd, Http, InProcess, Nats, Socket};
use crate::suite;

macro_rules! conforms {
    ($backend:ident, $start:expr, [$($test:ident)*]) => {
        mod $backend {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let name = concat!("channels::", stringify!($backend), "::", stringify!($test));
                    if let Some(mut backend) = $start(name).await {
                        suite::$test(&mut backend as &mut dyn Backend).await;
                    }
                }
            )*
        }
    };
    ($($backend:ident: $start:expr,)*) => {
        $(conforms!($backend, $start, [
            entries_live_while_they_are_renewed
            entries_end_with_their_owners
            later_starts_replace_earlier_ones
            publishing_again_replaces_what_the_same_start_published
            watches_see_changes_or_a_resync
            a_watch_reports_what_it_cannot_take_and_goes_on
            names_are_listed_by_their_beginning
            requests_are_answered_or_fail_by_name
            many_requests_keep_their_replies_apart
            later_starts_take_over_requests
            long_messages_are_refused_on_both_sides
            a_restarted_server_gets_everything_back
        ]);)*
    };
}

conforms! {
    in_process: InProcess::start,
    tcp: Socket::tcp,
    unix: Socket::unix,
    http: Http::start,
    nats: Nats::start,
    etcd: Etcd::start,
}

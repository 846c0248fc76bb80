//! Replies of UCX to a peer that has died.
//!
//! TCP has no reads. UCX sends a request to the owner of the memory, whose UCX replies with the bytes; so do other transports
//! without access to memory. If the reader has died, UCX ends the *owner's* process:
//!
//! * A reply that cannot be sent is an impossible error to UCX (`ucp_request_try_send`: "unexpected error: Endpoint timeout").
//!   So a wrapper replaces the send function of UCX's TCP, and reports "no room now" for a reply on a failed connection: UCX
//!   queues it at the endpoint, and empties that queue when it detects the failure. The functions of failed endpoints, which
//!   get the replies to earlier requests, report the same, and that the reply is queued: it is dropped.
//! * A failed reply that waited for room in the socket returns to its endpoint's queue after UCX has emptied it, and must not
//!   be there when the endpoint is destroyed (`uct_tcp_ep_t`'s clean-up: "Assertion `0' failed"). So the queue is emptied again
//!   first.
//!
//! The reader no longer exists, so it does not miss the reply. A dropped reply costs some hundred bytes, which stay allocated.
//!
//! The functions are found by UCX's exported symbols, and replaced only if they match the sources of UCX 1.22 and 1.23.
#![allow(unsafe_code, reason = "replaces functions in UCX's tables")]

use std::cell::Cell;
use std::ffi::{c_char, c_uint, c_void};
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Once, OnceLock};

use super::library::Ucx;
use super::settings::Process;

/// `uct_ep_am_bcopy_func_t`: endpoint, identifier of the message, packing and its argument, flags. Returns the length packed, or a
/// status below zero.
type SendMessage = unsafe extern "C" fn(*mut c_void, u8, Pack, *mut c_void, c_uint) -> isize;
/// `uct_pack_callback_t`: packs to an address, and returns how much.
type Pack = unsafe extern "C" fn(*mut c_void, *mut c_void) -> usize;
/// `uct_ep_pending_add_func_t`: endpoint, request, flags. Returns a status.
type Queue = unsafe extern "C" fn(*mut c_void, *mut c_void, c_uint) -> i8;
/// `uct_ep_destroy_func_t`.
type Destroy = unsafe extern "C" fn(*mut c_void);
/// `uct_ep_pending_purge_func_t`: endpoint, what to do with each request, and its argument.
type Purge =
    unsafe extern "C" fn(*mut c_void, unsafe extern "C" fn(*mut c_void, *mut c_void), *mut c_void);
/// `iface_open` of a transport.
type OpenInterface = unsafe extern "C" fn(
    *mut c_void,
    *mut c_void,
    *const c_void,
    *const c_void,
    *mut *mut Interface,
) -> i8;

/// The beginning of `uct_tl_t`.
#[repr(C)]
struct Transport {
    name: [c_char; 10],
    query_devices: *const c_void,
    open: AtomicPtr<c_void>,
}

/// The beginning of `uct_iface_t`: that of its table of functions, `uct_iface_ops_t`.
#[repr(C)]
struct Interface {
    functions: [AtomicPtr<c_void>; 34],
}

/// Places in that table.
const PUT_SHORT: usize = 0;
const PUT_BCOPY: usize = 1;
const PUT_ZCOPY: usize = 2;
const AM_SHORT: usize = 6;
const AM_BCOPY: usize = 8;
const QUEUE: usize = 24;
const DESTROY: usize = 33;

impl Interface {
    fn function(&self, place: usize) -> *mut c_void {
        self.functions
            .get(place)
            .map_or(ptr::null_mut(), |function| function.load(Ordering::Relaxed))
    }

    /// Replaces a function. Returns whether it was there.
    fn replace(&self, place: usize, theirs: *mut c_void, ours: *mut c_void) -> bool {
        self.functions.get(place).is_some_and(|function| {
            function.compare_exchange(theirs, ours, Ordering::Release, Ordering::Relaxed).is_ok()
        })
    }
}

/// `UCS_ERR_NO_RESOURCE`: not now.
const NO_RESOURCE: isize = -2;

/// Those that `ucp_request_send` sends for peers: `UCP_AM_ID_GET_REP`, `UCP_AM_ID_ATOMIC_REP`, `UCP_AM_ID_CMPL`. They are part of
/// UCX's wire protocol.
const REPLIES: [u8; 3] = [19, 21, 22];

/// The original functions of UCX's TCP.
struct Tcp {
    open: OpenInterface,
    send: SendMessage,
    purge: Purge,
    destroy: Destroy,
}

/// The original functions of UCX's failed endpoints.
struct Failed {
    send: SendMessage,
    queue: Queue,
}

static TCP: OnceLock<Tcp> = OnceLock::new();
static FAILED: OnceLock<Failed> = OnceLock::new();

/// Makes the process survive readers that die before their reply, in contexts made from now on. Once for the process.
pub(super) fn outlive_readers(ucx: &Ucx, alone: &Process) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if replace_of_failed(ucx, alone).is_none() || replace_of_tcp(ucx, alone).is_none() {
            warn();
        }
    });
}

fn warn() {
    tracing::warn!(
        "unknown form of UCX: a reader over TCP that dies before its reply may end this process; use the UCX of NIXL's wheel"
    );
}

/// Replaces the function of the interfaces of TCP that are opened from now on.
fn replace_of_tcp(ucx: &Ucx, _alone: &Process) -> Option<()> {
    // SAFETY: the symbol is `uct_tcp_tl`, a `uct_tl_t`; its content is compared before use.
    let transport = unsafe { ucx.function::<*const Transport>("uct_tcp_tl") }?;
    // SAFETY: the address alone is used.
    let query = unsafe { ucx.function::<*const c_void>("uct_tcp_query_devices") }?;
    // SAFETY: the function is a `uct_ep_am_bcopy_func_t`.
    let send = unsafe { ucx.function::<SendMessage>("uct_tcp_ep_am_bcopy") }?;
    // SAFETY: the function is a `uct_ep_pending_purge_func_t`.
    let purge = unsafe { ucx.function::<Purge>("uct_tcp_ep_pending_purge") }?;
    // SAFETY: the function is a `uct_ep_destroy_func_t`.
    let destroy = unsafe { ucx.function::<Destroy>("uct_tcp_ep_destroy") }?;
    // SAFETY: the symbol's object is in the library's data, which is never unloaded, and its first part is bytes and two pointers.
    let transport = unsafe { &*transport };
    let name = b"tcp\0".map(|byte| byte as c_char);
    if !transport.name.starts_with(&name) || transport.query_devices != query {
        return None;
    }
    let open = transport.open.load(Ordering::Relaxed);
    // SAFETY: the function after `query_devices` is `iface_open`, of this type; it is not null in a transport that is listed.
    let open =
        (!open.is_null()).then(|| unsafe { mem::transmute::<*mut c_void, OpenInterface>(open) })?;
    TCP.set(Tcp { open, send, purge, destroy }).ok()?;
    transport.open.store(open_tcp as OpenInterface as *mut c_void, Ordering::Release);
    Some(())
}

/// Replaces the function of endpoints that have failed.
fn replace_of_failed(ucx: &Ucx, _alone: &Process) -> Option<()> {
    type Get = unsafe extern "C" fn() -> *const Interface;
    // SAFETY: the signature is that of `ucp_failed_tl_iface_get`, which makes the interface once for the process.
    let get = unsafe { ucx.function::<Get>("ucp_failed_tl_iface_get") }?;
    // SAFETY: it takes nothing; what makes the interface is guarded by UCX.
    let interface = unsafe { get() };
    // SAFETY: it is never closed before the library's destructors, and begins with its table of functions.
    let interface = unsafe { interface.as_ref() }?;
    let send = interface.function(AM_BCOPY);
    // All fail alike: by one function those that return lengths, by another those that return a status.
    let fails = interface.function(PUT_SHORT);
    let is_known = !send.is_null()
        && fails != send
        && interface.function(PUT_BCOPY) == send
        && [PUT_ZCOPY, AM_SHORT].iter().all(|place| interface.function(*place) == fails);
    if !is_known {
        return None;
    }
    let queue = interface.function(QUEUE);
    if queue.is_null() {
        return None;
    }
    // SAFETY: it is the function for messages, of this type.
    let send = unsafe { mem::transmute::<*mut c_void, SendMessage>(send) };
    // SAFETY: it is the function for the queue, of this type: what it returns, a constant, needs no argument.
    let queue = unsafe { mem::transmute::<*mut c_void, Queue>(queue) };
    let failed = FAILED.get_or_init(|| Failed { send, queue });
    let (send, queue) = (failed.send as *mut c_void, failed.queue as *mut c_void);
    // First the function that receives the other's result.
    let is_replaced = interface.replace(QUEUE, queue, queue_of_failed as Queue as *mut c_void)
        && interface.replace(AM_BCOPY, send, send_to_failed as SendMessage as *mut c_void);
    is_replaced.then_some(())
}

unsafe extern "C" fn open_tcp(
    domain: *mut c_void,
    worker: *mut c_void,
    parameters: *const c_void,
    configuration: *const c_void,
    opened: *mut *mut Interface,
) -> i8 {
    const UNSUPPORTED: i8 = -22;
    let Some(tcp) = TCP.get() else { return UNSUPPORTED };
    // SAFETY: the arguments are UCX's, as they came.
    let status = unsafe { (tcp.open)(domain, worker, parameters, configuration, opened) };
    if status == 0 {
        // SAFETY: UCX has stored the interface there.
        let interface = unsafe { *opened };
        // SAFETY: it is not yet used, and begins with its table of functions.
        let interface = unsafe { &*interface };
        let (send, destroy) = (tcp.send as *mut c_void, tcp.destroy as *mut c_void);
        let is_replaced =
            interface.replace(DESTROY, destroy, empty_and_destroy as Destroy as *mut c_void)
                && interface.replace(AM_BCOPY, send, send_by_tcp as SendMessage as *mut c_void);
        if !is_replaced {
            warn();
        }
    }
    status
}

unsafe extern "C" fn empty_and_destroy(endpoint: *mut c_void) {
    let Some(tcp) = TCP.get() else { return };
    // SAFETY: the endpoint is one of TCP's, which lives until the next call. Requests in its queue are UCX's, and are never
    // used again.
    unsafe { (tcp.purge)(endpoint, forget, ptr::null_mut()) };
    // SAFETY: the argument is UCX's, as it came.
    unsafe { (tcp.destroy)(endpoint) };
}

/// A request in the queue of a destroyed endpoint, and in no other list: some hundred bytes are lost.
unsafe extern "C" fn forget(_request: *mut c_void, _argument: *mut c_void) {}

unsafe extern "C" fn send_by_tcp(
    endpoint: *mut c_void,
    id: u8,
    pack: Pack,
    argument: *mut c_void,
    flags: c_uint,
) -> isize {
    let Some(tcp) = TCP.get() else { return NO_RESOURCE };
    // SAFETY: the arguments are UCX's, as they came, and the function is the one that it called with them.
    let sent = unsafe { (tcp.send)(endpoint, id, pack, argument, flags) };
    unless_dead(id, sent)
}

/// The status for a message of this kind: no room, for a reply that cannot be sent.
fn unless_dead(id: u8, sent: isize) -> isize {
    if sent < 0 && REPLIES.contains(&id) { NO_RESOURCE } else { sent }
}

thread_local! {
    /// The address of the request whose reply was refused last by an endpoint that has failed.
    static REFUSED: Cell<usize> = const { Cell::new(0) };
}

unsafe extern "C" fn send_to_failed(
    endpoint: *mut c_void,
    id: u8,
    pack: Pack,
    argument: *mut c_void,
    flags: c_uint,
) -> isize {
    let Some(failed) = FAILED.get() else { return NO_RESOURCE };
    // SAFETY: as above.
    let sent = unsafe { (failed.send)(endpoint, id, pack, argument, flags) };
    let said = unless_dead(id, sent);
    if said != sent {
        REFUSED.set(argument as usize);
    }
    said
}

unsafe extern "C" fn queue_of_failed(
    endpoint: *mut c_void,
    request: *mut c_void,
    flags: c_uint,
) -> i8 {
    const QUEUED: i8 = 0;
    const BUSY: i8 = -15;
    if is_refused(request as usize) {
        return QUEUED;
    }
    let Some(failed) = FAILED.get() else { return BUSY };
    // SAFETY: the arguments are UCX's, as they came, and the function is the one that it called with them.
    unsafe { (failed.queue)(endpoint, request, flags) }
}

/// Whether it is the reply that was refused last on this thread. UCX queues a refused reply at once; the queued part lies
/// inside the request, whose address was the argument.
fn is_refused(request: usize) -> bool {
    /// UCX's requests are shorter.
    const REQUEST: usize = 1024;
    let refused = REFUSED.get();
    let is_it = refused != 0 && request.checked_sub(refused).is_some_and(|at| at < REQUEST);
    if is_it {
        REFUSED.set(0);
    }
    is_it
}

#[cfg(test)]
mod tests {
    use super::super::super::agent::Agent;
    use super::super::super::{NixlLibrary, NixlOptions};
    use super::*;
    use crate::control::ControlThread;

    #[test]
    fn the_engine_in_use_has_the_functions_that_are_replaced() {
        NixlLibrary::open().unwrap();
        let control = ControlThread::spawn().unwrap();
        let _agent = Agent::start("ucx-replies", control, &NixlOptions::new()).unwrap();
        assert!(TCP.get().is_some() && FAILED.get().is_some());
        let ucx = Ucx::loaded().unwrap();
        // SAFETY: the symbol is `uct_tcp_tl`, a `uct_tl_t`.
        let transport = unsafe { ucx.function::<*const Transport>("uct_tcp_tl") }.unwrap();
        // SAFETY: it is there as long as the library.
        let transport = unsafe { &*transport };
        assert_eq!(
            transport.open.load(Ordering::Relaxed),
            open_tcp as OpenInterface as *mut c_void
        );
    }

    #[test]
    fn replies_that_cannot_be_sent_are_to_be_queued_and_other_messages_fail() {
        const FAILED: isize = -80;
        for id in REPLIES {
            assert_eq!(
                [FAILED, NO_RESOURCE, 8].map(|sent| unless_dead(id, sent)),
                [NO_RESOURCE, NO_RESOURCE, 8]
            );
        }
        for id in [1, 2, 17, 18, 20, 23] {
            assert_eq!([FAILED, 8].map(|sent| unless_dead(id, sent)), [FAILED, 8]);
        }
    }

    #[test]
    fn what_was_refused_is_forgotten_once() {
        assert!(!is_refused(4096));
        REFUSED.set(4096);
        assert!(!is_refused(4095) && !is_refused(4096 + 1024));
        assert!(is_refused(4096 + 120) && !is_refused(4096 + 120));
    }
}

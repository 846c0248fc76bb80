//! Replies of UCX to a peer that has died.
//!
//! TCP has no reads. UCX carries one out by a request to the owner of the memory, whose UCX replies with the bytes; so do other
//! transports that reach no memory. Where the reader has died, UCX ends the process of the *owner*:
//!
//! * A reply that cannot be sent is taken for an error that cannot be (`ucp_request_try_send`: "unexpected error: Endpoint timeout").
//!   So the function by which UCX's TCP sends messages is replaced by one that calls it, and says of a reply to a connection that has
//!   failed that it was sent: the failure is handled where it is noticed, and the reader is not there to miss the reply. So is the
//!   function of endpoints that have failed already, to which UCX gives the replies to requests that had arrived before.
//! * A reply that waited for room in the socket is put back in its endpoint's queue when it fails, after UCX has emptied that, and may
//!   not be there when the endpoint is destroyed (`uct_tcp_ep_t`'s clean-up: "Assertion `0' failed"). So the queue is emptied
//!   again first.
//!
//! The functions are found by UCX's exported symbols, and replaced only where they are what the sources of UCX 1.20 to 1.23 say.
#![allow(unsafe_code, reason = "replaces functions in tables of UCX's")]

use std::ffi::{c_char, c_uint, c_void};
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, Once, OnceLock, PoisonError};

use super::library::Ucx;
use super::settings::Process;

/// `uct_ep_am_bcopy_func_t`: endpoint, identifier of the message, packing and its argument, flags. Returns the length packed, or a
/// status below zero.
type SendMessage = unsafe extern "C" fn(*mut c_void, u8, Pack, *mut c_void, c_uint) -> isize;
/// `uct_pack_callback_t`: packs to an address, and returns how much.
type Pack = unsafe extern "C" fn(*mut c_void, *mut c_void) -> usize;
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
const DESTROY: usize = 33;

impl Interface {
    fn function(&self, place: usize) -> *mut c_void {
        self.functions
            .get(place)
            .map_or(ptr::null_mut(), |function| function.load(Ordering::Relaxed))
    }

    /// Replaces a function. Another one there is left.
    fn replace(&self, place: usize, theirs: *mut c_void, ours: *mut c_void) {
        if let Some(function) = self.functions.get(place) {
            let _ = function.compare_exchange(theirs, ours, Ordering::Release, Ordering::Relaxed);
        }
    }
}

/// `UCS_ERR_NO_RESOURCE`: not now.
const NO_RESOURCE: isize = -2;

/// Those that `ucp_request_send` sends for peers: `UCP_AM_ID_GET_REP`, `UCP_AM_ID_ATOMIC_REP`, `UCP_AM_ID_CMPL`. They are part of
/// UCX's wire protocol.
const REPLIES: [u8; 3] = [19, 21, 22];

/// What UCX's TCP has by itself.
struct Tcp {
    open: OpenInterface,
    send: SendMessage,
    purge: Purge,
    destroy: Destroy,
}

static TCP: OnceLock<Tcp> = OnceLock::new();
static SEND_TO_FAILED: OnceLock<SendMessage> = OnceLock::new();

/// Has the process outlive readers that die while they are replied to, in contexts that are made from now on. Once for the process.
pub(super) fn outlive_readers(ucx: &Ucx, alone: &Process) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if replace_of_tcp(ucx, alone).is_none() || replace_of_failed(ucx, alone).is_none() {
            tracing::warn!(
                "this UCX is not one whose replies to peers that die are known: it may end the process"
            );
        }
    });
}

/// Replaces the function of the interfaces of TCP that are opened from now on.
fn replace_of_tcp(ucx: &Ucx, _alone: &Process) -> Option<()> {
    // SAFETY: the symbol is `uct_tcp_tl`, a `uct_tl_t`; what is read of it is compared before it is believed.
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
    // SAFETY: it is the function for messages, of this type.
    let theirs = is_known.then(|| unsafe { mem::transmute::<*mut c_void, SendMessage>(send) })?;
    SEND_TO_FAILED.set(theirs).ok()?;
    interface.replace(AM_BCOPY, send, send_to_failed as SendMessage as *mut c_void);
    Some(())
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
        interface.replace(AM_BCOPY, send, send_by_tcp as SendMessage as *mut c_void);
        interface.replace(DESTROY, destroy, empty_and_destroy as Destroy as *mut c_void);
    }
    status
}

unsafe extern "C" fn empty_and_destroy(endpoint: *mut c_void) {
    let Some(tcp) = TCP.get() else { return };
    // SAFETY: the endpoint is one of TCP's, which lives until the next call. What is in its queue is UCX's, and is never looked at
    // again.
    unsafe { (tcp.purge)(endpoint, forget, ptr::null_mut()) };
    // SAFETY: the argument is UCX's, as it came.
    unsafe { (tcp.destroy)(endpoint) };
}

/// A request that is in the queue of an endpoint that is destroyed, and is in no other list: some hundred bytes are lost.
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
    unsafe { send_or_drop(tcp.send, endpoint, id, (pack, argument), flags) }
}

unsafe extern "C" fn send_to_failed(
    endpoint: *mut c_void,
    id: u8,
    pack: Pack,
    argument: *mut c_void,
    flags: c_uint,
) -> isize {
    let Some(send) = SEND_TO_FAILED.get() else { return NO_RESOURCE };
    // SAFETY: as above.
    unsafe { send_or_drop(*send, endpoint, id, (pack, argument), flags) }
}

/// A message's packing, and how much it packed.
struct Packing {
    pack: Pack,
    argument: *mut c_void,
    packed: Option<usize>,
}

/// Sends a message; of a reply that cannot be sent, says that it was.
///
/// # Safety
///
/// `send` may be called with these arguments.
unsafe fn send_or_drop(
    send: SendMessage,
    endpoint: *mut c_void,
    id: u8,
    (pack, argument): (Pack, *mut c_void),
    flags: c_uint,
) -> isize {
    if !REPLIES.contains(&id) {
        // SAFETY: the caller's.
        return unsafe { send(endpoint, id, pack, argument, flags) };
    }
    let mut packing = Packing { pack, argument, packed: None };
    // SAFETY: the caller's; `note` packs what `pack` would, and its argument outlives the call, in which messages are packed.
    let sent = unsafe { send(endpoint, id, note, (&raw mut packing).cast(), flags) };
    if sent >= 0 || sent == NO_RESOURCE {
        return sent;
    }
    match packing.packed {
        Some(packed) => packed as isize,
        // UCX counts what is left by what was packed.
        None => discard(&packing).map_or(sent, |packed| packed as isize),
    }
}

unsafe extern "C" fn note(to: *mut c_void, packing: *mut c_void) -> usize {
    // SAFETY: the argument is that of `send_or_drop`, which lends it for the call.
    let packing = unsafe { &mut *packing.cast::<Packing>() };
    // SAFETY: the address is the one that the transport packs to, and the argument that of UCX.
    let packed = unsafe { (packing.pack)(to, packing.argument) };
    packing.packed = Some(packed);
    packed
}

/// Packs into memory that is not read. `None` if there is none.
fn discard(packing: &Packing) -> Option<usize> {
    /// Far more than a message of any transport: of TCP, 8 KiB by default.
    const LEN: usize = 64 << 20;
    static SCRATCH: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let mut scratch = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner);
    // The system provides what is packed to, and no more.
    scratch.try_reserve_exact(LEN).ok()?;
    // SAFETY: the memory is reserved, longer than a message, and this thread's while it has the lock; the argument is that with
    // which UCX would have had it packed.
    Some(unsafe { (packing.pack)(scratch.as_mut_ptr().cast(), packing.argument) })
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
        assert!(TCP.get().is_some() && SEND_TO_FAILED.get().is_some());
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

    /// A transport that packs a message and fails, and one that fails before.
    #[test]
    fn replies_that_cannot_be_sent_count_as_sent_and_other_messages_do_not() {
        const FAILED: isize = -80;
        unsafe extern "C" fn pack(_to: *mut c_void, length: *mut c_void) -> usize {
            length as usize
        }
        unsafe extern "C" fn packs(
            _: *mut c_void,
            _: u8,
            pack: Pack,
            argument: *mut c_void,
            _: c_uint,
        ) -> isize {
            let mut message = [0_u8; 8];
            // SAFETY: the function above and `note` may be called with any address.
            unsafe { pack(message.as_mut_ptr().cast(), argument) };
            FAILED
        }
        unsafe extern "C" fn fails(
            _: *mut c_void,
            _: u8,
            _: Pack,
            _: *mut c_void,
            _: c_uint,
        ) -> isize {
            FAILED
        }
        unsafe extern "C" fn waits(
            _: *mut c_void,
            _: u8,
            _: Pack,
            _: *mut c_void,
            _: c_uint,
        ) -> isize {
            NO_RESOURCE
        }
        let send = |by: SendMessage, id: u8| {
            let packing: (Pack, _) = (pack, ptr::without_provenance_mut(7));
            // SAFETY: the three functions may be called with any arguments.
            unsafe { send_or_drop(by, ptr::null_mut(), id, packing, 0) }
        };
        for id in REPLIES {
            assert_eq!([send(packs, id), send(fails, id), send(waits, id)], [7, 7, NO_RESOURCE]);
        }
        for id in [1, 2, 17, 18, 20, 23] {
            assert_eq!([send(packs, id), send(fails, id)], [FAILED; 2]);
        }
    }
}

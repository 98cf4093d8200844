//! A stand-in for `libnccl.so.2`, for tests only.
//!
//! Its collectives are real: they go over sockets between processes. Its device memory is host memory, and so are
//! its streams, which are made by functions of its own. It insists on NCCL's rules where a real one would only
//! sometimes fail: a call while another one is in progress, or on a communicator that is gone, is an error.
//! What it measures or prints says nothing about NCCL.
//!
//! `STANDIN_NCCL_FAULTS`, a list with commas, makes it fail: see `faults.rs`. `STANDIN_NCCL_VERSION` is the number
//! that it says to be.
#![allow(unsafe_code)]
// What callers promise is what `nccl.h` asks for.
#![allow(clippy::missing_safety_doc)]

mod communicator;
mod exchange;
mod faults;
mod mesh;
mod stream;

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use communicator::{Communicator, Op, Place};
use stream::Stream;

type Status = c_int;

const SUCCESS: Status = 0;
const SYSTEM_ERROR: Status = 2;
const INVALID_ARGUMENT: Status = 4;
const INVALID_USAGE: Status = 5;
const REMOTE_ERROR: Status = 6;
const IN_PROGRESS: Status = 7;

const FLOAT32: c_int = 7;
const SUM: c_int = 0;

/// `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UniqueId {
    internal: [u8; 128],
}

/// `ncclConfig_t`, the first fields.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

thread_local! {
    /// Started groups of this thread, and what was called in them.
    static GROUP: RefCell<Group> = const { RefCell::new(Group { depth: 0, ops: Vec::new() }) };
}

struct Group {
    depth: u32,
    ops: Vec<(Arc<Communicator>, *mut c_void, Op)>,
}

static LIVE: Mutex<Vec<Arc<Communicator>>> = Mutex::new(Vec::new());
static LAST_ERROR: Mutex<Option<CString>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn complain(status: Status, what: &str) -> Status {
    *lock(&LAST_ERROR) = CString::new(what).ok();
    status
}

/// The communicator behind a handle, if it is still there.
fn live(handle: *mut c_void) -> Result<Arc<Communicator>, Status> {
    let found = (lock(&LIVE).iter())
        .find(|live| Arc::as_ptr(live).cast::<c_void>() == handle.cast_const())
        .cloned();
    found.ok_or_else(|| complain(INVALID_ARGUMENT, "this communicator is not there any more"))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> Status {
    let said = std::env::var("STANDIN_NCCL_VERSION").ok();
    let number = said.and_then(|said| said.parse().ok()).unwrap_or(22809);
    // SAFETY: the caller gives a place for one number.
    unsafe { version.write(number) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetErrorString(status: Status) -> *const c_char {
    let text = match status {
        SUCCESS => c"no error",
        SYSTEM_ERROR => c"unhandled system error",
        INVALID_ARGUMENT => c"invalid argument",
        INVALID_USAGE => c"invalid usage",
        REMOTE_ERROR => c"remote process exited or there was a network error",
        IN_PROGRESS => c"NCCL operation in progress",
        _ => c"unknown result code",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetLastError(_comm: *mut c_void) -> *const c_char {
    thread_local! {
        static TOLD: RefCell<Option<CString>> = const { RefCell::new(None) };
    }
    TOLD.with_borrow_mut(|told| {
        told.clone_from(&lock(&LAST_ERROR));
        told.as_ref().map_or(std::ptr::null(), |text| text.as_ptr())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> Status {
    match mesh::meeting_point() {
        // SAFETY: the caller gives a place for one id.
        Ok(internal) => unsafe { id.write(UniqueId { internal }) },
        Err(error) => return complain(SYSTEM_ERROR, &error.to_string()),
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankConfig(
    comm: *mut *mut c_void,
    world_size: c_int,
    id: UniqueId,
    rank: c_int,
    config: *mut Config,
) -> Status {
    // SAFETY: the caller gives a configuration, or none.
    let config = unsafe { config.as_ref() };
    let Some(config) = config.filter(|config| config.magic == 0xcafe_beef) else {
        return complain(INVALID_ARGUMENT, "the configuration is none");
    };
    if config.size < size_of::<Config>() || config.version < 21400 || config.blocking != 0 {
        return complain(
            INVALID_USAGE,
            "only communicators that do not block are to be made",
        );
    }
    if rank < 0 || rank >= world_size {
        return complain(INVALID_ARGUMENT, "the rank is not among the members");
    }
    let made = Communicator::start(id.internal, rank as usize, world_size as usize);
    // SAFETY: the caller gives a place for one communicator.
    unsafe { comm.write(Arc::as_ptr(&made).cast_mut().cast()) };
    lock(&LIVE).push(made);
    IN_PROGRESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGetAsyncError(comm: *mut c_void, state: *mut Status) -> Status {
    match live(comm) {
        // SAFETY: the caller gives a place for one state.
        Ok(comm) => unsafe { state.write(comm.state()) },
        Err(status) => return status,
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclCommAbort(comm: *mut c_void) -> Status {
    let comm = match live(comm) {
        Ok(comm) => comm,
        Err(status) => return status,
    };
    lock(&LIVE).retain(|live| !Arc::ptr_eq(live, &comm));
    comm.abort();
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupStart() -> Status {
    GROUP.with_borrow_mut(|group| group.depth += 1);
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupEnd() -> Status {
    let ops = GROUP.with_borrow_mut(|group| {
        if group.depth == 0 {
            return None;
        }
        group.depth -= 1;
        Some(if group.depth == 0 {
            std::mem::take(&mut group.ops)
        } else {
            Vec::new()
        })
    });
    let Some(ops) = ops else {
        return complain(INVALID_USAGE, "no group was started on this thread");
    };
    let Some((comm, stream, _)) = ops.first() else {
        return SUCCESS;
    };
    let (comm, stream) = (comm.clone(), *stream);
    let one = ops
        .iter()
        .all(|(other, on, _)| Arc::ptr_eq(other, &comm) && *on == stream);
    if !one {
        return complain(
            INVALID_USAGE,
            "a group is of one communicator and one stream here",
        );
    }
    comm.put(
        Stream::of(stream),
        ops.into_iter().map(|(_, _, op)| op).collect(),
    );
    IN_PROGRESS
}

/// Takes a call into the group at hand, or makes it a group of its own.
fn call(comm: *mut c_void, stream: *mut c_void, op: Op) -> Status {
    let comm = match live(comm) {
        Ok(comm) => comm,
        Err(status) => return status,
    };
    match comm.state() {
        SUCCESS => {}
        IN_PROGRESS => return complain(INVALID_USAGE, "the call before is still in progress"),
        failed => return failed,
    }
    ncclGroupStart();
    GROUP.with_borrow_mut(|group| group.ops.push((comm, stream, op)));
    let ended = GROUP.with_borrow(|group| group.depth == 1);
    match ended {
        true => ncclGroupEnd(),
        false => {
            GROUP.with_borrow_mut(|group| group.depth -= 1);
            SUCCESS
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclSend(
    from: *const c_void,
    count: usize,
    kind: c_int,
    peer: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> Status {
    if kind != FLOAT32 {
        return complain(INVALID_ARGUMENT, "only 32-bit floats are known here");
    }
    let place = Place::new(from as u64, count);
    call(comm, stream, Op::Send(place, peer as usize))
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclRecv(
    to: *mut c_void,
    count: usize,
    kind: c_int,
    peer: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> Status {
    if kind != FLOAT32 {
        return complain(INVALID_ARGUMENT, "only 32-bit floats are known here");
    }
    let place = Place::new(to as u64, count);
    call(comm, stream, Op::Receive(place, peer as usize))
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclAllReduce(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    kind: c_int,
    op: c_int,
    comm: *mut c_void,
    stream: *mut c_void,
) -> Status {
    if kind != FLOAT32 || op != SUM || from != to.cast_const() {
        return complain(
            INVALID_ARGUMENT,
            "only sums of 32-bit floats in place are known here",
        );
    }
    let place = Place::new(to as u64, count);
    call(comm, stream, Op::AllReduce(place))
}

/// A new stream. It is never freed: a test makes few. Null: there is no device.
#[unsafe(no_mangle)]
pub extern "C" fn standin_stream_new() -> *mut c_void {
    if faults::has("no-device") {
        return std::ptr::null_mut();
    }
    Stream::create()
}

/// 1 when all that was put on a stream is done.
#[unsafe(no_mangle)]
pub extern "C" fn standin_stream_idle(stream: *mut c_void) -> c_int {
    Stream::of(stream).map_or(1, |stream| c_int::from(stream.is_idle()))
}

/// Puts `left[i] += right[i]` on a stream.
///
/// # Safety
/// Both are places for `count` floats, apart from each other, until the stream has come to it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_stream_add(
    stream: *mut c_void,
    left: *mut f32,
    right: *const f32,
    count: usize,
) -> Status {
    let Some(stream) = Stream::of(stream) else {
        return INVALID_ARGUMENT;
    };
    let (left, right) = (
        Place::new(left as u64, count),
        Place::new(right as u64, count),
    );
    stream.put_kernel(move || {
        // SAFETY: the caller's promise.
        let (left, right) = unsafe { (left.values_mut(), right.values()) };
        for (left, right) in left.iter_mut().zip(right) {
            *left += *right;
        }
    })
}

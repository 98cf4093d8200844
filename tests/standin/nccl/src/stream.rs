//! A stream: what is put on it is done in order, by a thread of its own.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};

use crate::{INVALID_USAGE, SUCCESS, Status, complain, lock};

static STREAMS: Mutex<Vec<Arc<Stream>>> = Mutex::new(Vec::new());

type Work = Box<dyn FnOnce() + Send>;

pub struct Stream {
    work: Sender<Work>,
    /// Put on it and not done.
    pending: AtomicU64,
    /// Groups on their way to it: nothing else may be put on it meanwhile.
    announced: AtomicU64,
}

impl Stream {
    pub fn create() -> *mut c_void {
        let (work, queue) = mpsc::channel::<Work>();
        let stream = Arc::new(Self {
            work,
            pending: AtomicU64::new(0),
            announced: AtomicU64::new(0),
        });
        let done = Arc::downgrade(&stream);
        std::thread::spawn(move || {
            for work in queue {
                work();
                if let Some(stream) = done.upgrade() {
                    stream.pending.fetch_sub(1, Ordering::SeqCst);
                }
            }
        });
        let handle = Arc::as_ptr(&stream).cast_mut().cast();
        lock(&STREAMS).push(stream);
        handle
    }

    /// The stream behind a handle; none for one that is not from here.
    pub fn of(handle: *mut c_void) -> Option<Arc<Self>> {
        let streams = lock(&STREAMS);
        let is_it =
            |stream: &&Arc<Self>| Arc::as_ptr(stream).cast::<c_void>() == handle.cast_const();
        streams.iter().find(is_it).cloned()
    }

    pub fn is_idle(&self) -> bool {
        self.pending.load(Ordering::SeqCst) == 0
    }

    pub fn announce(&self) {
        self.announced.fetch_add(1, Ordering::SeqCst);
    }

    /// Puts what was announced on it.
    pub fn put_announced(&self, work: impl FnOnce() + Send + 'static) {
        self.put(work);
        self.announced.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn put_kernel(&self, work: impl FnOnce() + Send + 'static) -> Status {
        if self.announced.load(Ordering::SeqCst) > 0 {
            return complain(
                INVALID_USAGE,
                "a kernel is put on a stream while a group is on its way there",
            );
        }
        self.put(work);
        SUCCESS
    }

    fn put(&self, work: impl FnOnce() + Send + 'static) {
        self.pending.fetch_add(1, Ordering::SeqCst);
        // Its thread lives as long as the process.
        let _ = self.work.send(Box::new(work));
    }
}

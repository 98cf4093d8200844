//! A communicator: its state, and the thread that makes it and brings its groups to the stream.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use crate::exchange::Links;
use crate::mesh::{self, Ended};
use crate::stream::Stream;
use crate::{IN_PROGRESS, INVALID_ARGUMENT, REMOTE_ERROR, SUCCESS, SYSTEM_ERROR, Status};
use crate::{complain, faults, lock};

/// Floats in what a caller says is device memory.
#[derive(Clone, Copy)]
pub struct Place {
    address: u64,
    count: usize,
}

pub enum Op {
    Send(Place, usize),
    Receive(Place, usize),
    AllReduce(Place),
}

struct Batch {
    number: u64,
    stream: Option<Arc<Stream>>,
    ops: Vec<Op>,
}

pub struct Communicator {
    /// What `ncclCommGetAsyncError` says.
    state: AtomicI32,
    ended: Ended,
    links: OnceLock<Links>,
    batches: Mutex<Sender<Batch>>,
    /// Held while a group is at work on the caller's memory.
    busy: Mutex<()>,
}

impl Place {
    pub fn new(address: u64, count: usize) -> Self {
        Self { address, count }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// # Safety
    /// The floats are there, and nobody changes them.
    pub unsafe fn values(&self) -> &'static [f32] {
        match self.count {
            0 => &[],
            // SAFETY: the caller's promise.
            count => unsafe { std::slice::from_raw_parts(self.address as *const f32, count) },
        }
    }

    /// # Safety
    /// The floats are there, and nobody else uses them.
    pub unsafe fn values_mut(&self) -> &'static mut [f32] {
        match self.count {
            0 => &mut [],
            // SAFETY: the caller's promise.
            count => unsafe { std::slice::from_raw_parts_mut(self.address as *mut f32, count) },
        }
    }
}

impl Communicator {
    /// Begins to make one.
    pub fn start(id: [u8; 128], rank: usize, world_size: usize) -> Arc<Self> {
        let (batches, queue) = mpsc::channel();
        let made = Arc::new(Self {
            state: AtomicI32::new(IN_PROGRESS),
            ended: Ended::default(),
            links: OnceLock::new(),
            batches: Mutex::new(batches),
            busy: Mutex::new(()),
        });
        let working = Arc::clone(&made);
        thread::spawn(move || {
            match working.meet(id, rank, world_size) {
                Ok(links) => drop(working.links.set(links)),
                Err(error) => return working.fail(&error),
            }
            working.settle();
            working.work(&queue);
        });
        made
    }

    fn meet(&self, id: [u8; 128], rank: usize, world_size: usize) -> io::Result<Links> {
        if faults::has("init-hang") {
            self.ended.wait();
        }
        if faults::has("init-fail") {
            return Err(io::Error::other("no network interface was found"));
        }
        self.ended.wait_for(faults::slow_init());
        let streams = mesh::connect(id, rank, world_size, &self.ended)?;
        Ok(Links::new(rank, streams, &self.ended))
    }

    /// Brings groups to their streams until it is aborted.
    fn work(self: &Arc<Self>, queue: &Receiver<Batch>) {
        while let Ok(batch) = queue.recv() {
            let Some(stream) = batch.stream.clone() else {
                // Nobody could ask such a stream, so the group is in progress until it is done.
                match self.run(&batch) {
                    Ok(()) => self.settle(),
                    Err(error) => self.fail(&error),
                }
                continue;
            };
            let working = self.clone();
            stream.put_announced(move || {
                if let Err(error) = working.run(&batch) {
                    working.fail(&error);
                    // What failed stays on the stream until it is aborted.
                    working.ended.wait();
                }
            });
            self.settle();
        }
    }

    fn run(&self, batch: &Batch) -> io::Result<()> {
        let links = self.links.get().ok_or(io::ErrorKind::NotConnected)?;
        let _busy = lock(&self.busy);
        self.ended.check()?;
        if faults::strikes("hang", batch.number) {
            self.ended.wait();
        }
        if faults::strikes("error", batch.number) {
            return Err(io::Error::other("a network adapter failed"));
        }
        if faults::strikes("vanish", batch.number) {
            std::process::exit(1);
        }
        links.run(&batch.ops)
    }

    /// Takes a group, which is on its way to the stream when this returns.
    pub fn put(&self, stream: Option<Arc<Stream>>, ops: Vec<Op>) {
        let number = faults::next_group();
        self.change(SUCCESS, IN_PROGRESS);
        if faults::strikes("stuck", number) {
            self.ended.wait();
        }
        if let Some(stream) = &stream {
            stream.announce();
        }
        let batch = Batch {
            number,
            stream,
            ops,
        };
        // Its thread ends when the communicator failed, which the state says.
        let _ = lock(&self.batches).send(batch);
    }

    pub fn state(&self) -> Status {
        self.state.load(Ordering::SeqCst)
    }

    /// The end of a call.
    fn settle(&self) {
        self.change(IN_PROGRESS, SUCCESS);
    }

    /// Goes to another state, unless it failed meanwhile.
    fn change(&self, from: Status, to: Status) {
        let order = Ordering::SeqCst;
        let _ = self.state.compare_exchange(from, to, order, order);
    }

    fn fail(&self, error: &io::Error) {
        use io::ErrorKind::{
            BrokenPipe, ConnectionRefused, ConnectionReset, InvalidData, UnexpectedEof,
        };
        let status = match error.kind() {
            BrokenPipe | ConnectionRefused | ConnectionReset | UnexpectedEof => {
                if faults::has("blind") {
                    return;
                }
                REMOTE_ERROR
            }
            InvalidData => INVALID_ARGUMENT,
            _ => SYSTEM_ERROR,
        };
        complain(status, &error.to_string());
        self.state.store(status, Ordering::SeqCst);
    }

    pub fn abort(&self) {
        if faults::has("abort-hang") {
            Ended::default().wait();
        }
        self.ended.set();
        if let Some(links) = self.links.get() {
            if faults::has("abort-together") {
                links.wait_for_all_to_close();
            }
            links.close();
        }
        // From here on the caller may free what the group at hand worked on.
        drop(lock(&self.busy));
        // Its thread ends with its queue.
        let (nobody, _) = mpsc::channel();
        *lock(&self.batches) = nobody;
    }
}

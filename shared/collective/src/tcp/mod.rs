//! Members as processes, each pair joined by one TCP connection.
//!
//! Each peer has a thread that reads and one that writes, so members that send much to each other at the
//! same time do not wait for each other. Every frame carries the generation and its sequence number.

mod abort;
mod frame;
mod handshake;
mod mesh;

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::CollectiveError;
use crate::exchange::{self, Link, MESSAGES};
use crate::inbox::{Event, Inbox};
use crate::{Collective, Contribution, Reduced};

pub use abort::AbortHandle;
pub use mesh::{MeshConfig, TcpEndpoint};

/// Messages that may wait for a peer to read them. A member sends no message of the next sum but one
/// before the peer has read all of this one's, so the queue never fills while the peers work.
const QUEUE: usize = 2 * MESSAGES as usize;

/// A member of a full mesh of TCP connections.
#[derive(Debug)]
pub struct Tcp {
    rank: usize,
    timeout: Duration,
    /// One for each peer, none for this member.
    writers: Vec<Option<SyncSender<Vec<u8>>>>,
    /// Closed when all writers have ended.
    writers_alive: Receiver<()>,
    inbox: Inbox,
    /// Messages that each peer owes by the end of the current sum.
    expected: u64,
    deadline: Instant,
    failed: bool,
    abort: AbortHandle,
    bytes: Arc<Bytes>,
}

/// Bytes given to the connections and read from them since they were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub sent: u64,
    pub received: u64,
}

#[derive(Debug, Default)]
struct Bytes {
    sent: AtomicU64,
    received: AtomicU64,
}

// === impl Tcp ===

impl Tcp {
    /// Starts the threads over connections that have shaken hands, one for each peer.
    fn start(
        config: &MeshConfig,
        streams: Vec<Option<TcpStream>>,
        abort: &AbortHandle,
    ) -> Result<Self, CollectiveError> {
        let world_size = streams.len();
        let bytes = Arc::new(Bytes::default());
        let (events, inbox) = mpsc::sync_channel(2 * QUEUE * world_size);
        let (alive, writers_alive) = mpsc::channel();
        let mut writers = Vec::with_capacity(world_size);
        for (rank, stream) in streams.into_iter().enumerate() {
            let Some(stream) = stream.map(Arc::new) else {
                writers.push(None);
                continue;
            };
            abort.watch(&stream);
            let generation = config.generation;
            let (queue, messages) = mpsc::sync_channel::<Vec<u8>>(QUEUE);
            writers.push(Some(queue));

            let started = {
                let (stream, alive) = (stream.clone(), alive.clone());
                let writer = move || {
                    write_all(&stream, generation, &messages);
                    drop(alive);
                };
                thread::Builder::new()
                    .name(format!("to-rank-{rank}"))
                    .spawn(writer)
            };
            let started = started.and_then(|_| {
                let (bytes, events) = (bytes.clone(), events.clone());
                let reader = move || read_all(&stream, rank, generation, &events, &bytes);
                thread::Builder::new()
                    .name(format!("from-rank-{rank}"))
                    .spawn(reader)
            });
            if let Err(error) = started {
                abort.close();
                return Err(CollectiveError::Input(format!(
                    "no thread can be started for rank `{rank}`: {error}"
                )));
            }
        }
        Ok(Self {
            rank: config.rank,
            timeout: config.timeout,
            writers,
            writers_alive,
            inbox: Inbox::new(config.rank, world_size, inbox),
            expected: 0,
            deadline: Instant::now(),
            failed: false,
            abort: abort.clone(),
            bytes,
        })
    }

    /// Ends the connections from another thread.
    pub fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    pub fn traffic(&self) -> Traffic {
        Traffic {
            sent: self.bytes.sent.load(Ordering::Relaxed),
            received: self.bytes.received.load(Ordering::Relaxed),
        }
    }
}

fn write_all(stream: &TcpStream, generation: u64, messages: &Receiver<Vec<u8>>) {
    for (sequence, message) in messages.iter().enumerate() {
        if frame::write(&mut &*stream, generation, sequence as u64, &message).is_err() {
            // The reader of this connection reports the loss.
            break;
        }
    }
    // The peer may have closed already.
    let _ = stream.shutdown(Shutdown::Write);
}

fn read_all(
    stream: &TcpStream,
    rank: usize,
    generation: u64,
    events: &SyncSender<Event>,
    bytes: &Bytes,
) {
    for sequence in 0.. {
        let event = match frame::read(&mut &*stream, generation, sequence) {
            Ok(message) => {
                let count = frame::HEADER as u64 + message.len() as u64;
                bytes.received.fetch_add(count, Ordering::Relaxed);
                Event::Message {
                    rank,
                    bytes: message,
                }
            }
            Err(frame::ReadError::Closed(reason)) => Event::Lost { rank, reason },
            Err(frame::ReadError::Faulty(reason)) => Event::Faulty { rank, reason },
        };
        let last = !matches!(event, Event::Message { .. });
        // The member is gone when nobody takes the event.
        if events.send(event).is_err() || last {
            break;
        }
    }
    // Ends the writer, which may wait for a peer that no longer reads.
    let _ = stream.shutdown(Shutdown::Read);
}

impl Link for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.writers.len()
    }

    fn send(&mut self, to: usize, bytes: Vec<u8>) -> Result<(), CollectiveError> {
        let lost = |reason: &str| CollectiveError::PeerLost {
            rank: to,
            reason: reason.to_owned(),
        };
        if bytes.len() > frame::MAX_LENGTH {
            let (found, limit) = (bytes.len(), frame::MAX_LENGTH);
            return Err(CollectiveError::Input(format!(
                "a message of `{found}` bytes is above the limit of {limit}"
            )));
        }
        let framed = frame::HEADER as u64 + bytes.len() as u64;
        self.bytes.sent.fetch_add(framed, Ordering::Relaxed);
        let writer = self.writers[to].as_ref();
        let writer = writer.ok_or_else(|| lost("a member does not send to itself"))?;
        (writer.send(bytes)).map_err(|_| lost("it no longer takes data"))
    }

    fn receive(&mut self, from: usize) -> Result<Vec<u8>, CollectiveError> {
        let deadline = Some((self.deadline, self.timeout));
        self.inbox.next(from, self.expected, deadline)
    }
}

impl Collective for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.writers.len()
    }

    fn all_reduce(&mut self, contribution: Contribution) -> Result<Reduced, CollectiveError> {
        if self.abort.is_aborted() {
            return Err(CollectiveError::Aborted);
        }
        if self.failed {
            return Err(CollectiveError::Broken);
        }
        self.expected += MESSAGES;
        self.deadline = Instant::now() + self.timeout;
        let result = exchange::all_reduce(self, contribution);
        self.failed = result.is_err();
        match result {
            Err(_) if self.abort.is_aborted() => Err(CollectiveError::Aborted),
            result => result,
        }
    }
}

impl Drop for Tcp {
    /// Lets what was sent leave, then closes the connections.
    fn drop(&mut self) {
        self.writers.clear();
        if !self.failed && !self.abort.is_aborted() {
            // Ends when every writer has dropped its end, or when a peer takes nothing for too long.
            let _ = self.writers_alive.recv_timeout(self.timeout);
        }
        self.abort.close();
    }
}

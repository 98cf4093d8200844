//! Members as processes, each pair joined by one TCP connection.
//!
//! Each peer has a thread that reads and one that writes, so members that send much to each other at the
//! same time do not wait for each other. Every frame carries the generation and its sequence number. A link
//! with nothing to send says so, also while its member computes: silence means that the peer is stopped or
//! cut off.

mod abort;
mod agreement;
mod frame;
mod handshake;
mod link;
mod mesh;
mod patience;

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::{Duration, Instant};

use crate::error::CollectiveError;
use crate::exchange::{self, Link, MESSAGES};
use crate::inbox::Inbox;
use crate::message::Message;
use crate::slice::Buffers;
use crate::stream::Stream;
use crate::{Collective, Contribution, Reduced};

use link::Shared;

pub use abort::AbortHandle;
pub use mesh::{MeshConfig, TcpEndpoint};
pub(crate) use patience::Patience;

/// Messages that may wait for a peer to read them. A member sends no message of the next sum but one
/// before the peer has read all of this one's, so the queue never fills while the peers work.
const QUEUE: usize = 2 * MESSAGES;

/// A member of a full mesh of TCP connections.
#[derive(Debug)]
pub struct Tcp {
    rank: usize,
    timeout: Duration,
    /// One for each peer, none for this member.
    links: Vec<Option<PeerLink>>,
    inbox: Inbox,
    /// Messages that each peer owes by the end of the current sum.
    expected: u64,
    deadline: Instant,
    /// Also while it is not connected yet.
    failed: bool,
    abort: AbortHandle,
    sent: u64,
    shared: Shared,
    /// Closed when all writers have ended and [`Self::alive`] is dropped.
    writers_alive: Receiver<()>,
    alive: Option<Sender<()>>,
}

#[derive(Debug)]
struct PeerLink {
    stream: Arc<Stream>,
    queue: SyncSender<Message>,
}

/// Bytes of sums given to the connections and read from them since they were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub sent: u64,
    pub received: u64,
}

// === impl Tcp ===

impl Tcp {
    /// A member without connections.
    fn unconnected(config: &MeshConfig, abort: &AbortHandle) -> Self {
        let world_size = config.addresses.len();
        let (events, inbox) = mpsc::sync_channel(2 * QUEUE * world_size);
        let (alive, writers_alive) = mpsc::channel();
        Self {
            rank: config.rank,
            timeout: config.timeout,
            links: (0..world_size).map(|_| None).collect(),
            inbox: Inbox::new(config.rank, world_size, inbox),
            expected: 0,
            deadline: Instant::now(),
            failed: true,
            abort: abort.clone(),
            sent: 0,
            shared: Shared {
                generation: config.generation,
                silence: config.silence,
                events,
                buffers: Buffers::default(),
                received: Arc::new(AtomicU64::new(0)),
                lost: Arc::new(AtomicBool::new(false)),
            },
            writers_alive,
            alive: Some(alive),
        }
    }

    /// Takes up a connection that has shaken hands. It is alive from here on, also while others are missing.
    fn link(&mut self, rank: usize, stream: Stream) -> Result<(), CollectiveError> {
        let stream = Arc::new(stream);
        self.abort.watch(&stream);
        let alive = self.alive.clone().ok_or(CollectiveError::Broken)?;
        let queue = self.shared.link(rank, &stream, QUEUE, alive);
        let queue = queue.map_err(|error| {
            // A writer may have started.
            let _ = stream.shutdown(Shutdown::Both);
            CollectiveError::Input(format!(
                "no thread can be started for rank `{rank}`: {error}"
            ))
        })?;
        self.links[rank] = Some(PeerLink { stream, queue });
        Ok(())
    }

    fn is_linked(&self, rank: usize) -> bool {
        self.links[rank].is_some()
    }

    /// Fails when a peer is lost already, or all is aborted.
    fn check(&mut self) -> Result<(), CollectiveError> {
        match self.inbox.any_loss() {
            _ if self.abort.is_aborted() => Err(CollectiveError::Aborted),
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The member with connections to all others.
    fn connected(mut self) -> Self {
        self.alive = None;
        self.failed = false;
        self
    }

    /// Ends the connections from another thread.
    pub fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    pub fn traffic(&self) -> Traffic {
        Traffic {
            sent: self.sent,
            received: self.shared.received.load(Ordering::Relaxed),
        }
    }
}

impl Link for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.links.len()
    }

    fn buffers(&self) -> &Buffers {
        &self.shared.buffers
    }

    fn send(&mut self, to: usize, message: Message) -> Result<(), CollectiveError> {
        let length = frame::length(&message);
        if length > frame::MAX_LENGTH {
            let (found, limit) = (length, frame::MAX_LENGTH);
            return Err(CollectiveError::Input(format!(
                "a message of `{found}` bytes is above the limit of {limit}"
            )));
        }
        self.sent += length as u64;
        let link = self.links[to].as_ref();
        if link.is_some_and(|link| link.queue.send(message).is_ok()) {
            return Ok(());
        }
        Err(
            (self.inbox.loss_of(to)).unwrap_or(CollectiveError::PeerLost {
                rank: to,
                reason: "it no longer takes data".to_owned(),
            }),
        )
    }

    fn receive(&mut self, from: usize) -> Result<Message, CollectiveError> {
        let deadline = Some((self.deadline, self.timeout));
        self.inbox.next(from, self.expected, deadline)
    }
}

impl Collective for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.links.len()
    }

    fn sent_bytes(&self) -> u64 {
        self.sent
    }

    fn all_reduce(&mut self, contribution: Contribution) -> Result<Reduced, CollectiveError> {
        if self.abort.is_aborted() {
            return Err(CollectiveError::Aborted);
        }
        if self.failed {
            return Err(CollectiveError::Broken);
        }
        self.expected += exchange::messages(&contribution, self.links.len());
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
    /// Lets what was sent leave, then closes the connections. After an error that happens without this
    /// thread: a peer may still need what it was sent for the sum before, but nobody waits for it. An
    /// abort cuts everything off.
    fn drop(&mut self) {
        let aborted = self.abort.is_aborted();
        for link in self.links.drain(..).flatten() {
            if aborted {
                // A connection that the peer closed first needs no more.
                let _ = link.stream.shutdown(Shutdown::Both);
            }
        }
        self.alive = None;
        if !aborted && !self.failed {
            // Ends when every writer has dropped its end, at the latest when a peer that takes nothing is
            // found silent. The readers then wait for the peers to close.
            let _ = self.writers_alive.recv_timeout(self.timeout);
        }
    }
}

//! What the peers have sent and this member has not read yet.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::error::CollectiveError;

/// What a transport tells its member.
#[derive(Debug)]
pub(crate) enum Event {
    Message { rank: usize, bytes: Vec<u8> },
    Lost { rank: usize, reason: String },
    Faulty { rank: usize, reason: String },
}

/// The messages of all peers, each peer's in order.
#[derive(Debug)]
pub(crate) struct Inbox {
    rank: usize,
    events: Receiver<Event>,
    peers: Vec<Peer>,
}

#[derive(Debug, Default)]
struct Peer {
    waiting: VecDeque<Vec<u8>>,
    /// Messages that ever came.
    arrived: u64,
    lost: Option<CollectiveError>,
}

// === impl Inbox ===

impl Inbox {
    pub fn new(rank: usize, world_size: usize, events: Receiver<Event>) -> Self {
        Self {
            rank,
            events,
            peers: (0..world_size).map(|_| Peer::default()).collect(),
        }
    }

    /// The next message of `from`. Fails at once when a peer is lost that has not sent all of the
    /// `expected` messages it owes since the start.
    pub fn next(
        &mut self,
        from: usize,
        expected: u64,
        deadline: Option<(Instant, Duration)>,
    ) -> Result<Vec<u8>, CollectiveError> {
        loop {
            for (rank, peer) in self.peers.iter().enumerate() {
                if let Some(error) = &peer.lost
                    && peer.arrived < expected
                    && rank != self.rank
                {
                    return Err(error.clone());
                }
            }
            if let Some(bytes) = self.peers[from].waiting.pop_front() {
                return Ok(bytes);
            }
            match self.wait(deadline) {
                Ok(Event::Message { rank, bytes }) => {
                    let peer = &mut self.peers[rank];
                    peer.waiting.push_back(bytes);
                    peer.arrived += 1;
                }
                Ok(Event::Lost { rank, reason }) => {
                    self.peers[rank].lost = Some(CollectiveError::PeerLost { rank, reason });
                }
                Ok(Event::Faulty { rank, reason }) => {
                    self.peers[rank].lost = Some(CollectiveError::Protocol { rank, reason });
                }
                Err(RecvTimeoutError::Disconnected) => return Err(CollectiveError::Broken),
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = deadline.map_or(0, |(_, timeout)| timeout.as_secs());
                    return Err(CollectiveError::Timeout {
                        rank: from,
                        seconds,
                    });
                }
            }
        }
    }

    fn wait(&self, deadline: Option<(Instant, Duration)>) -> Result<Event, RecvTimeoutError> {
        match deadline {
            Some((deadline, _)) => self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now())),
            None => (self.events.recv()).map_err(|_| RecvTimeoutError::Disconnected),
        }
    }
}

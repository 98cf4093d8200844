//! What the peers have sent and this member has not read yet.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::error::CollectiveError;
use crate::message::Message;

/// What a transport tells its member.
#[derive(Debug)]
pub(crate) enum Event {
    Message { rank: usize, message: Message },
    Lost { rank: usize, error: CollectiveError },
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
    waiting: VecDeque<Message>,
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
    ) -> Result<Message, CollectiveError> {
        loop {
            if let Some(error) = self.first_loss(expected) {
                return Err(error);
            }
            if let Some(message) = self.peers[from].waiting.pop_front() {
                return Ok(message);
            }
            match self.wait(deadline) {
                Ok(event) => self.file(event),
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

    /// Why `rank` is lost, when that is known already.
    pub fn loss_of(&mut self, rank: usize) -> Option<CollectiveError> {
        self.take_in();
        self.peers[rank].lost.clone()
    }

    /// The loss of any peer, when one is known already.
    pub fn any_loss(&mut self) -> Option<CollectiveError> {
        self.take_in();
        self.first_loss(u64::MAX)
    }

    /// The loss of a peer that has not sent all of the `expected` messages, if it is known or comes to be known
    /// within `patience`.
    pub fn loss_within(&mut self, expected: u64, patience: Duration) -> Option<CollectiveError> {
        let end = Instant::now() + patience;
        loop {
            self.take_in();
            let loss = self.first_loss(expected);
            if loss.is_some() || Instant::now() >= end {
                return loss;
            }
            match self.wait(Some((end, patience))) {
                Ok(event) => self.file(event),
                Err(_) => return self.first_loss(expected),
            }
        }
    }

    fn first_loss(&self, expected: u64) -> Option<CollectiveError> {
        let owing = (self.peers.iter().enumerate())
            .filter(|(rank, peer)| *rank != self.rank && peer.arrived < expected);
        owing.filter_map(|(_, peer)| peer.lost.clone()).next()
    }

    /// Files all that has come.
    fn take_in(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.file(event);
        }
    }

    fn file(&mut self, event: Event) {
        match event {
            Event::Message { rank, message } => {
                let peer = &mut self.peers[rank];
                peer.waiting.push_back(message);
                peer.arrived += 1;
            }
            Event::Lost { rank, error } => self.peers[rank].lost = Some(error),
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

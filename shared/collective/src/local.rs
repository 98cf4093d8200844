//! Members as threads of one process.

use std::sync::mpsc::{self, Sender};

use crate::error::CollectiveError;
use crate::exchange::{self, Link};
use crate::inbox::{Event, Inbox};
use crate::message::Message;
use crate::slice::Buffers;
use crate::{Collective, Contribution, Reduced};

/// A member among threads of one process. A member that is dropped is lost to the others.
#[derive(Debug)]
pub struct Local {
    rank: usize,
    peers: Vec<Sender<Event>>,
    inbox: Inbox,
    /// Messages that each peer owes by the end of the current sum.
    expected: u64,
    buffers: Buffers,
}

// === impl Local ===

impl Local {
    /// A group of `world_size` members, in the order of their ranks.
    pub fn group(world_size: usize) -> Vec<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..world_size).map(|_| mpsc::channel()).unzip();
        receivers
            .into_iter()
            .enumerate()
            .map(|(rank, events)| Self {
                rank,
                peers: senders.clone(),
                inbox: Inbox::new(rank, world_size, events),
                expected: 0,
                buffers: Buffers::default(),
            })
            .collect()
    }
}

fn ended(rank: usize) -> CollectiveError {
    CollectiveError::PeerLost {
        rank,
        reason: "its thread has ended".to_owned(),
    }
}

impl Link for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.peers.len()
    }

    fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    fn send(&mut self, to: usize, message: Message) -> Result<(), CollectiveError> {
        let rank = self.rank;
        (self.peers[to].send(Event::Message { rank, message })).map_err(|_| ended(to))
    }

    fn receive(&mut self, from: usize) -> Result<Message, CollectiveError> {
        self.inbox.next(from, self.expected, None)
    }
}

impl Collective for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.peers.len()
    }

    fn all_reduce(&mut self, contribution: Contribution) -> Result<Reduced, CollectiveError> {
        self.expected += exchange::messages(&contribution, self.peers.len());
        exchange::all_reduce(self, contribution)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        for (peer, sender) in self.peers.iter().enumerate() {
            if peer != self.rank {
                // A peer that is gone needs no notice.
                let _ = sender.send(Event::Lost {
                    rank: self.rank,
                    error: ended(self.rank),
                });
            }
        }
    }
}

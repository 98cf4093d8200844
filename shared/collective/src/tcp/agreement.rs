//! The mesh beside another transport: small words that all members tell each other, and who is lost.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::Tcp;
use crate::error::CollectiveError;
use crate::exchange::Link;
use crate::message::Message;

impl Tcp {
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Begins what ends within `timeout`, and in which each peer sends `messages`. A peer that is lost afterwards
    /// is missed until it has sent them.
    pub(crate) fn begin(
        &mut self,
        messages: u64,
        timeout: Duration,
    ) -> Result<(), CollectiveError> {
        if self.abort.is_aborted() {
            return Err(CollectiveError::Aborted);
        }
        if self.failed {
            return Err(CollectiveError::Broken);
        }
        self.expected += messages;
        self.deadline = Instant::now() + timeout;
        Ok(())
    }

    /// Sends `words` to all peers; what all members said, in the order of their ranks.
    pub(crate) fn all_gather(&mut self, words: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError> {
        self.tell(&words)?;
        let mut said = Vec::with_capacity(self.links.len());
        for rank in 0..self.links.len() {
            said.push(match rank == self.rank {
                true => words.clone(),
                false => Link::receive(self, rank)?.head,
            });
        }
        Ok(said)
    }

    /// Tells all peers that this member is done with what [`Self::begin`] began.
    pub(crate) fn tell_all(&mut self) -> Result<(), CollectiveError> {
        self.tell(&[])
    }

    /// Hears from all peers that they are done.
    pub(crate) fn all_hear(&mut self) -> Result<(), CollectiveError> {
        for rank in self.peers() {
            let message = Link::receive(self, rank)?;
            if !message.head.is_empty() || !message.bodies.is_empty() {
                let reason = "it says something before it is done".to_owned();
                return Err(CollectiveError::Protocol { rank, reason });
            }
        }
        Ok(())
    }

    /// Why what was begun should be broken off: an abort, or a lost peer that has not sent all.
    pub(crate) fn over(&mut self) -> Option<CollectiveError> {
        if self.abort.is_aborted() {
            return Some(CollectiveError::Aborted);
        }
        self.loss_within(Duration::ZERO)
    }

    /// The loss of a peer that has not sent all, if one is known or comes to be known soon.
    pub(crate) fn loss_within(&mut self, patience: Duration) -> Option<CollectiveError> {
        self.inbox.loss_within(self.expected, patience)
    }

    /// Closes all connections: the peers see at once that this member is lost to them.
    pub(crate) fn leave(&mut self) {
        self.failed = true;
        for link in self.links.iter().flatten() {
            // A connection that the peer closed first needs no more.
            let _ = link.stream.shutdown(Shutdown::Both);
        }
    }

    /// It is of no further use; what is to be said about that.
    pub(crate) fn fail(&mut self, error: CollectiveError) -> CollectiveError {
        self.failed = true;
        match error {
            _ if self.abort.is_aborted() => CollectiveError::Aborted,
            error => error,
        }
    }

    fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let rank = self.rank;
        (0..self.links.len()).filter(move |peer| *peer != rank)
    }

    fn tell(&mut self, words: &[u8]) -> Result<(), CollectiveError> {
        for peer in self.peers() {
            let message = Message {
                head: words.to_vec(),
                bodies: Vec::new(),
            };
            Link::send(self, peer, message)?;
        }
        Ok(())
    }
}

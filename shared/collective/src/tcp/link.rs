//! The two threads of a connection to one peer.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::Duration;

use super::frame::{self, ReadError};
use crate::error::CollectiveError;
use crate::inbox::Event;
use crate::message::Message;
use crate::silence::{Vigil, keep_alive};
use crate::slice::Buffers;
use crate::stream::Stream;

/// What the threads of all links of a member share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub generation: u64,
    /// How long a peer may say nothing.
    pub silence: Duration,
    pub events: SyncSender<Event>,
    /// The memory into which messages come.
    pub buffers: Buffers,
    /// Bytes of messages that have come.
    pub received: Arc<AtomicU64>,
    /// Set when a peer is lost.
    pub lost: Arc<AtomicBool>,
}

// === impl Shared ===

impl Shared {
    /// Starts the threads for `rank`; what is sent into the queue goes to it in order. `alive` is dropped
    /// when all of the queue was written. The threads end when the connection does, or soon after the
    /// queue and the events' receiver are gone.
    pub fn link(
        &self,
        rank: usize,
        stream: &Arc<Stream>,
        queue: usize,
        alive: Sender<()>,
    ) -> io::Result<SyncSender<Message>> {
        let (queue, messages) = mpsc::sync_channel(queue);
        {
            let (stream, generation) = (stream.clone(), self.generation);
            let period = keep_alive(self.silence);
            let write = move || {
                write_all(&stream, generation, period, &messages);
                drop(alive);
            };
            thread::Builder::new()
                .name(format!("to-rank-{rank}"))
                .spawn(write)?;
        }
        let (stream, shared) = (stream.clone(), self.clone());
        thread::Builder::new()
            .name(format!("from-rank-{rank}"))
            .spawn(move || shared.read_all(&stream, rank))?;
        Ok(queue)
    }

    /// Reads until the peer is lost, also when the member is gone: closing first, with words of the peer
    /// unread, would reset the connection, and what the peer has not received yet would be lost to it.
    fn read_all(&self, stream: &Stream, rank: usize) {
        let error = match Vigil::reading(stream, self.silence) {
            Ok(mut vigil) => self.pass_on(&mut vigil, rank),
            Err(error) => CollectiveError::PeerLost {
                rank,
                reason: error.to_string(),
            },
        };
        // When nobody takes the event, the member is gone.
        let _ = self.events.send(Event::Lost { rank, error });
        self.lost.store(true, Ordering::Release);
        // Ends the writer, which may wait for a peer that no longer reads.
        let _ = stream.shutdown(Shutdown::Both);
    }

    /// Passes messages on until the peer is lost; why it is.
    fn pass_on(&self, vigil: &mut Vigil<'_>, rank: usize) -> CollectiveError {
        let mut sequence = 0;
        let reason = loop {
            match frame::read(vigil, self.generation, sequence, &self.buffers) {
                Ok(message) => {
                    let count = frame::length(&message) as u64;
                    self.received.fetch_add(count, Ordering::Relaxed);
                    sequence += 1;
                    if self.events.send(Event::Message { rank, message }).is_err() {
                        break "this member is gone".to_owned();
                    }
                }
                Err(ReadError::Silent) => {
                    return CollectiveError::Silent {
                        rank,
                        silence: self.silence,
                    };
                }
                Err(ReadError::Closed(reason)) => break reason,
                Err(ReadError::Faulty(reason)) => {
                    return CollectiveError::Protocol { rank, reason };
                }
            }
        };
        CollectiveError::PeerLost { rank, reason }
    }
}

/// Writes messages as they come, and a keep-alive whenever none came for `period`.
fn write_all(mut stream: &Stream, generation: u64, period: Duration, messages: &Receiver<Message>) {
    let mut sequence = 0;
    loop {
        let written = match messages.recv_timeout(period) {
            Ok(message) => {
                sequence += 1;
                frame::write(&mut stream, generation, sequence - 1, &message)
            }
            Err(RecvTimeoutError::Timeout) => frame::write_keep_alive(&mut stream, generation),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if written.is_err() {
            // The reader of this connection reports the loss.
            break;
        }
    }
    // The peer may have closed already.
    let _ = stream.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::TrySendError;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_writer_that_waits_for_a_silent_peer_ends_with_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_silent, _) = listener.accept().unwrap();
        let (events, inbox) = mpsc::sync_channel(1);
        let (alive, _writers) = mpsc::channel();
        let shared = Shared {
            generation: 7,
            silence: Duration::from_millis(500),
            events,
            buffers: Buffers::default(),
            received: Arc::default(),
            lost: Arc::default(),
        };
        let queue = shared
            .link(3, &Arc::new(Stream::plain(stream)), 1, alive)
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        // More than the connection holds by itself.
        while !matches!(
            queue.try_send(Message {
                head: vec![0; 1 << 20],
                bodies: Vec::new(),
            }),
            Err(TrySendError::Disconnected(_))
        ) {
            assert!(Instant::now() < deadline, "the writer still waits");
            thread::yield_now();
        }
        assert!(matches!(
            inbox.recv().unwrap(),
            Event::Lost {
                rank: 3,
                error: CollectiveError::Silent { rank: 3, .. }
            }
        ));
    }
}

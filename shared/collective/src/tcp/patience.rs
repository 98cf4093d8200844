//! Waits that end at a deadline or when they are no longer wanted.

use std::io::{self, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::AbortHandle;
use crate::stream::Stream;

/// How often a wait looks whether it was aborted.
const POLL: Duration = Duration::from_millis(20);
/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How long to wait for the other end of a connection.
pub(crate) struct Patience<'a> {
    pub deadline: Instant,
    pub abort: &'a AbortHandle,
    /// Set when a member is lost and the wait is for nothing.
    pub lost: &'a AtomicBool,
}

// === impl Patience ===

impl Patience<'_> {
    pub fn is_over(&self) -> bool {
        self.abort.is_aborted()
            || self.lost.load(Ordering::Relaxed)
            || Instant::now() >= self.deadline
    }

    /// Connects to `address`. The attempt runs in a thread of its own, because neither the resolution of
    /// a name nor a connect can be cut off; one that nobody waits for any more ends by itself.
    pub fn dial(&self, address: &str) -> io::Result<TcpStream> {
        let (sender, connected) = mpsc::channel();
        let (address, deadline) = (address.to_owned(), self.deadline);
        thread::Builder::new()
            .name("dial".to_owned())
            // Nobody takes the stream when the wait is over; it closes.
            .spawn(move || drop(sender.send(dial(&address, deadline))))?;
        loop {
            match connected.recv_timeout(POLL) {
                Ok(connected) => return connected,
                Err(RecvTimeoutError::Timeout) if !self.is_over() => {}
                Err(_) => return Err(io::Error::other("it did not answer in time")),
            }
        }
    }

    pub fn read_exact(&self, stream: &Stream, buffer: &mut [u8]) -> io::Result<()> {
        let mut stream = stream;
        let mut filled = 0;
        stream.set_read_timeout(Some(POLL))?;
        while filled < buffer.len() {
            filled += self.until_it_reads(|| stream.read(&mut buffer[filled..]))?;
        }
        Ok(())
    }

    /// Some bytes of a connection that is not a [`Stream`] yet.
    pub fn read(&self, mut tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        tcp.set_read_timeout(Some(POLL))?;
        self.until_it_reads(|| tcp.read(buffer))
    }

    fn until_it_reads(&self, mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
        loop {
            if self.is_over() {
                return Err(io::Error::other("it did not answer in time"));
            }
            match read() {
                Ok(0) => return Err(io::Error::other("it closed the connection")),
                Ok(count) => return Ok(count),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub fn read_u32(&self, stream: &Stream) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.read_exact(stream, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub fn read_u64(&self, stream: &Stream) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.read_exact(stream, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads the first word of a protocol.
    pub fn read_magic(&self, stream: &Stream, expected: [u8; 8]) -> io::Result<()> {
        let mut magic = [0; 8];
        self.read_exact(stream, &mut magic)?;
        if magic == expected {
            Ok(())
        } else {
            Err(io::Error::other("it speaks another protocol"))
        }
    }

    /// Reads a name of at most `limit` bytes behind its length.
    pub fn read_name(&self, stream: &Stream, limit: usize) -> io::Result<Vec<u8>> {
        let length = self.read_u32(stream)? as usize;
        if length > limit {
            return Err(io::Error::other("its job has an endless name"));
        }
        let mut name = vec![0; length];
        self.read_exact(stream, &mut name)?;
        Ok(name)
    }
}

fn dial(address: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for resolved in address.to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = left.clamp(Duration::from_millis(1), ATTEMPT);
        match TcpStream::connect_timeout(&resolved, patience) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

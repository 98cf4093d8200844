//! A connection between two workers: plain within a machine or a private network, TLS otherwise.
//!
//! One thread may read while another writes. Under TLS both need the connection's state, but only while they
//! encrypt or decrypt a piece; neither holds it while it waits for the other end.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_secure::{Credentials, Role, Security, SecurityError, in_words};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConnection};

use crate::tcp::Patience;

/// Bytes taken from the network at a time, and encrypted at a time: a few records.
const CHUNK: usize = 64 << 10;
/// Workers are known by their role; the name is only there because TLS wants one.
const NAME: &str = "worker.perennial";

/// What a worker encrypts its connections with, each as its files are then.
#[derive(Debug, Clone)]
pub struct MeshTls(Arc<Credentials>);

/// A connection.
#[derive(Debug)]
pub(crate) struct Stream {
    tcp: TcpStream,
    tls: Option<Tls>,
}

#[derive(Debug)]
struct Tls {
    connection: Mutex<Connection>,
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
    /// Bytes that went over the network.
    received: AtomicU64,
    sent: AtomicU64,
}

/// What came and was not decrypted yet.
#[derive(Debug)]
struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// What was encrypted and is not sent yet.
#[derive(Debug, Default)]
struct Outgoing {
    bytes: Vec<u8>,
    start: usize,
    /// Of the caller's bytes, so many are in there.
    taken: usize,
}

// === impl MeshTls ===

impl MeshTls {
    /// None where the worker speaks plainly.
    pub fn of(security: &Security) -> Result<Option<Self>, SecurityError> {
        let Some(credentials) = security.credentials() else {
            return Ok(None);
        };
        credentials.require(Role::Worker)?;
        Ok(Some(Self(credentials.clone())))
    }
}

// === impl Stream ===

impl Stream {
    pub fn plain(tcp: TcpStream) -> Self {
        Self { tcp, tls: None }
    }

    /// The end that dialed.
    pub fn dialed(
        tcp: TcpStream,
        tls: Option<&MeshTls>,
        patience: &Patience<'_>,
    ) -> io::Result<Self> {
        let Some(tls) = tls else {
            return Ok(Self::plain(tcp));
        };
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let connection = ClientConnection::new(tls.0.to_worker(), name).map_err(broken)?;
        Self::encrypted(tcp, connection.into(), patience)
    }

    /// The end that was dialed.
    pub fn accepted(
        tcp: TcpStream,
        tls: Option<&MeshTls>,
        patience: &Patience<'_>,
    ) -> io::Result<Self> {
        let Some(tls) = tls else {
            return Ok(Self::plain(tcp));
        };
        let config = tls.0.worker().map_err(io::Error::other)?;
        let connection = ServerConnection::new(config).map_err(broken)?;
        Self::encrypted(tcp, connection.into(), patience)
    }

    fn encrypted(
        tcp: TcpStream,
        mut connection: Connection,
        patience: &Patience<'_>,
    ) -> io::Result<Self> {
        let mut bytes = vec![0; CHUNK];
        loop {
            while connection.wants_write() {
                connection.write_tls(&mut &tcp)?;
            }
            if !connection.is_handshaking() {
                break;
            }
            let count = patience.read(&tcp, &mut bytes)?;
            let mut came = &bytes[..count];
            while !came.is_empty() {
                connection.read_tls(&mut came)?;
                if let Err(error) = connection.process_new_packets() {
                    // The other end is told why, and may read it before the connection closes. It may be
                    // gone, too.
                    let _ = connection.write_tls(&mut &tcp);
                    let _ = tcp.shutdown(Shutdown::Write);
                    while patience.read(&tcp, &mut bytes).is_ok() {}
                    return Err(broken(error));
                }
            }
        }
        Ok(Self {
            tcp,
            tls: Some(Tls {
                connection: Mutex::new(connection),
                incoming: Mutex::new(Incoming {
                    bytes,
                    start: 0,
                    end: 0,
                }),
                outgoing: Mutex::default(),
                received: AtomicU64::new(0),
                sent: AtomicU64::new(0),
            }),
        })
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.tcp.shutdown(how)
    }

    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.tcp.set_read_timeout(timeout)
    }

    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.tcp.set_write_timeout(timeout)
    }

    /// Bytes that came over the network under TLS, where a read may have to wait although some did. What is sent
    /// does not count: a peer that is cut off is silent, however much is said to it.
    pub fn received(&self) -> u64 {
        let count = |tls: &Tls| tls.received.load(Ordering::Relaxed);
        self.tls.as_ref().map_or(0, count)
    }

    /// Bytes that the network took under TLS, where a write may have to wait although it took some.
    pub fn sent(&self) -> u64 {
        let count = |tls: &Tls| tls.sent.load(Ordering::Relaxed);
        self.tls.as_ref().map_or(0, count)
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => (&self.tcp).read(buffer),
            Some(tls) => tls.read(&self.tcp, buffer),
        }
    }
}

/// Under TLS a write that failed because it would block is to be tried again with the very same bytes.
impl Write for &Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &self.tls {
            None => (&self.tcp).write(buffer),
            Some(tls) => tls.write(&self.tcp, buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl Tls ===

impl Tls {
    fn read(&self, mut tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut incoming = lock(&self.incoming);
        loop {
            if let Some(count) = incoming.decrypt(&mut lock(&self.connection), buffer)? {
                return Ok(count);
            }
            let count = tcp.read(&mut incoming.bytes)?;
            (incoming.start, incoming.end) = (0, count);
            self.received.fetch_add(count as u64, Ordering::Relaxed);
            if count == 0 {
                return Ok(0);
            }
        }
    }

    fn write(&self, mut tcp: &TcpStream, buffer: &[u8]) -> io::Result<usize> {
        let mut outgoing = lock(&self.outgoing);
        if outgoing.taken == 0 {
            let piece = &buffer[..buffer.len().min(CHUNK)];
            let mut connection = lock(&self.connection);
            outgoing.taken = connection.writer().write(piece)?;
            while connection.wants_write() {
                connection.write_tls(&mut outgoing.bytes)?;
            }
        }
        while outgoing.start < outgoing.bytes.len() {
            let count = tcp.write(&outgoing.bytes[outgoing.start..])?;
            if count == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            outgoing.start += count;
            self.sent.fetch_add(count as u64, Ordering::Relaxed);
        }
        outgoing.bytes.clear();
        outgoing.start = 0;
        Ok(std::mem::take(&mut outgoing.taken))
    }
}

// === impl Incoming ===

impl Incoming {
    /// Bytes for the caller, none when more must come first, 0 at the end.
    fn decrypt(
        &mut self,
        connection: &mut Connection,
        buffer: &mut [u8],
    ) -> io::Result<Option<usize>> {
        loop {
            match connection.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read.map(Some),
            }
            if self.start == self.end {
                return Ok(None);
            }
            let mut came = &self.bytes[self.start..self.end];
            self.start += connection.read_tls(&mut came)?;
            connection.process_new_packets().map_err(broken)?;
        }
    }
}

/// A party that is not believed, or does not believe this one, is denied: another attempt is in vain.
fn broken(error: rustls::Error) -> io::Error {
    let kind = match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_) => {
            ErrorKind::PermissionDenied
        }
        _ => ErrorKind::InvalidData,
    };
    io::Error::new(kind, in_words(&error))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

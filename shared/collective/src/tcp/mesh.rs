//! Joining the members of a generation: each pair has one connection, which the higher rank dials.

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::handshake::{self, Identity, Patience, Refusal};
use super::{AbortHandle, Tcp};
use crate::error::CollectiveError;

/// How long a stranger may take to introduce itself.
const GREETING: Duration = Duration::from_secs(5);
/// Connections that may introduce themselves at the same time.
const GREETINGS: usize = 64;
const RETRY: Duration = Duration::from_millis(20);

/// The generation to connect.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    pub job: String,
    pub generation: u64,
    /// This member's place in `addresses`.
    pub rank: usize,
    /// Where each member listens, `host:port`, in the order of ranks.
    pub addresses: Vec<String>,
    /// How long connecting may take.
    pub deadline: Duration,
    /// How long a sum may take, from the call on: a peer whose part is missing then is given up.
    pub timeout: Duration,
}

/// The place where a member listens, through all generations.
#[derive(Debug)]
pub struct TcpEndpoint {
    listener: TcpListener,
}

// === impl TcpEndpoint ===

impl TcpEndpoint {
    /// Listens on `address` (`host:port`, port 0 for any that is free) and says where that is.
    pub fn bind(address: &str) -> Result<(Self, SocketAddr), CollectiveError> {
        let listen = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let local = listener.local_addr()?;
            Ok((Self { listener }, local))
        };
        listen().map_err(|error: std::io::Error| CollectiveError::Listen {
            address: address.to_owned(),
            reason: error.to_string(),
        })
    }

    /// Connects to all members of a generation; `abort` ends the wait and later the collective.
    pub fn connect(&self, config: MeshConfig, abort: &AbortHandle) -> Result<Tcp, CollectiveError> {
        let world_size = config.addresses.len();
        if config.rank >= world_size {
            let rank = config.rank;
            return Err(CollectiveError::Input(format!(
                "rank `{rank}` is not among `{world_size}` members"
            )));
        }
        let identity = Identity {
            job: config.job.clone(),
            generation: config.generation,
            world_size: world_size as u32,
        };
        let patience = Patience {
            deadline: Instant::now() + config.deadline,
            abort,
        };
        let mut streams: Vec<Option<TcpStream>> = (0..world_size).map(|_| None).collect();
        for (rank, stream) in streams.iter_mut().enumerate().take(config.rank) {
            *stream = Some(dial(&config, &identity, rank, &patience)?);
        }
        self.accept(&config, &identity, &patience, &mut streams)?;
        tracing::debug!(
            generation = config.generation,
            rank = config.rank,
            world_size,
            "collective is connected"
        );
        Tcp::start(&config, streams, abort)
    }

    /// Waits until all higher ranks have dialed. Whoever else dials is turned away.
    fn accept(
        &self,
        config: &MeshConfig,
        identity: &Identity,
        patience: &Patience<'_>,
        streams: &mut [Option<TcpStream>],
    ) -> Result<(), CollectiveError> {
        let (sender, welcome): (Sender<(usize, TcpStream)>, Receiver<_>) = mpsc::channel();
        let running = Arc::new(());
        loop {
            let absent = (config.rank + 1..streams.len()).find(|rank| streams[*rank].is_none());
            let Some(absent) = absent else {
                return Ok(());
            };
            if patience.abort.is_aborted() {
                return Err(CollectiveError::Aborted);
            }
            if Instant::now() >= patience.deadline {
                return Err(CollectiveError::Timeout {
                    rank: absent,
                    seconds: config.deadline.as_secs(),
                });
            }
            let room = Arc::strong_count(&running) <= GREETINGS;
            if room && let Ok((stream, address)) = self.listener.accept() {
                let identity = identity.clone();
                let (sender, running) = (sender.clone(), running.clone());
                let (own_rank, abort) = (config.rank as u32, patience.abort.clone());
                let deadline = patience.deadline.min(Instant::now() + GREETING);
                let greeting = move || {
                    let patience = Patience {
                        deadline,
                        abort: &abort,
                    };
                    let greeted = (stream.set_nonblocking(false))
                        .and_then(|()| stream.set_nodelay(true))
                        .and_then(|()| handshake::greet(&stream, &identity, own_rank, &patience));
                    match greeted {
                        // Nobody waits any more when the mesh is complete or given up.
                        Ok(rank) => drop(sender.send((rank, stream))),
                        Err(error) => tracing::warn!(%address, %error, "turned a stranger away"),
                    }
                    drop(running);
                };
                // Without a thread the connection closes, and a member dials again.
                if let Err(error) = thread::Builder::new().spawn(greeting) {
                    tracing::warn!(%error, "no thread for a new connection");
                }
                continue;
            }
            if let Ok((rank, stream)) = welcome.recv_timeout(RETRY / 4) {
                streams[rank] = Some(stream);
            }
        }
    }
}

/// Connects to a lower rank, again and again until it is there.
fn dial(
    config: &MeshConfig,
    identity: &Identity,
    rank: usize,
    patience: &Patience<'_>,
) -> Result<TcpStream, CollectiveError> {
    let address = &config.addresses[rank];
    loop {
        let refusal = match try_dial(address, patience.deadline) {
            Ok(stream) => {
                match handshake::introduce(&stream, identity, config.rank as u32, patience) {
                    Ok(()) => return Ok(stream),
                    Err(refusal) => refusal,
                }
            }
            Err(error) => Refusal::Retry(error.to_string()),
        };
        if patience.abort.is_aborted() {
            return Err(CollectiveError::Aborted);
        }
        let address = address.clone();
        match refusal {
            Refusal::Final(reason) => {
                return Err(CollectiveError::Refused {
                    rank,
                    address,
                    reason,
                });
            }
            Refusal::Stale(theirs) => {
                return Err(CollectiveError::Stale {
                    ours: config.generation,
                    theirs,
                    rank,
                });
            }
            Refusal::Retry(reason) if Instant::now() + RETRY >= patience.deadline => {
                return Err(CollectiveError::Unreachable {
                    rank,
                    address,
                    reason,
                });
            }
            Refusal::Retry(_) => thread::sleep(RETRY),
        }
    }
}

fn try_dial(address: &str, deadline: Instant) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other("the name has no address");
    for resolved in address.to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = left.clamp(Duration::from_millis(1), Duration::from_secs(2));
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

//! Joining the members of a generation: each pair has one connection, which the higher rank dials.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::handshake::{self, Identity, Refusal};
use super::patience::Patience;
use super::{AbortHandle, Tcp};
use crate::error::CollectiveError;
use crate::stream::{MeshTls, Stream};

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
    /// How long a peer may say nothing at all before it is given up as
    /// [`Silent`](CollectiveError::Silent): it is stopped or cut off. A peer that computes says so at least
    /// every tenth of this time and every half second. The same at every member.
    pub silence: Duration,
}

/// The place where a member listens, through all generations.
#[derive(Debug)]
pub struct TcpEndpoint {
    listener: TcpListener,
    tls: Option<MeshTls>,
}

// === impl TcpEndpoint ===

impl TcpEndpoint {
    /// Listens on `address` (`host:port`, port 0 for any that is free) and says where that is.
    pub fn bind(address: &str) -> Result<(Self, SocketAddr), CollectiveError> {
        let listen = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let local = listener.local_addr()?;
            let endpoint = Self {
                listener,
                tls: None,
            };
            Ok((endpoint, local))
        };
        listen().map_err(|error: std::io::Error| CollectiveError::Listen {
            address: address.to_owned(),
            reason: error.to_string(),
        })
    }

    /// From now on its connections are encrypted, if `tls` is there.
    #[must_use]
    pub fn encrypted(mut self, tls: Option<MeshTls>) -> Self {
        self.tls = tls;
        self
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
        let mut member = Tcp::unconnected(&config, abort);
        let lost = member.shared.lost.clone();
        let patience = Patience {
            deadline: Instant::now() + config.deadline,
            abort,
            lost: &lost,
        };
        for rank in 0..config.rank {
            let stream = self.dial(&mut member, &config, &identity, rank, &patience)?;
            member.link(rank, stream)?;
        }
        self.accept(&mut member, &config, &identity, &patience)?;
        tracing::debug!(
            generation = config.generation,
            rank = config.rank,
            world_size,
            "collective is connected"
        );
        Ok(member.connected())
    }

    /// Waits until all higher ranks have dialed. Whoever else dials is turned away.
    fn accept(
        &self,
        member: &mut Tcp,
        config: &MeshConfig,
        identity: &Identity,
        patience: &Patience<'_>,
    ) -> Result<(), CollectiveError> {
        let (sender, welcome): (Sender<(usize, Stream)>, Receiver<_>) = mpsc::channel();
        let running = Arc::new(());
        loop {
            member.check()?;
            let mut higher = config.rank + 1..config.addresses.len();
            let Some(absent) = higher.find(|rank| !member.is_linked(*rank)) else {
                return Ok(());
            };
            if Instant::now() >= patience.deadline {
                return Err(CollectiveError::Timeout {
                    rank: absent,
                    seconds: config.deadline.as_secs(),
                });
            }
            let room = Arc::strong_count(&running) <= GREETINGS;
            if room && let Ok((stream, address)) = self.listener.accept() {
                let (identity, tls) = (identity.clone(), self.tls.clone());
                let (sender, running) = (sender.clone(), running.clone());
                let (own_rank, abort) = (config.rank as u32, patience.abort.clone());
                let lost = member.shared.lost.clone();
                let deadline = patience.deadline.min(Instant::now() + GREETING);
                let greeting = move || {
                    let patience = Patience {
                        deadline,
                        abort: &abort,
                        lost: &lost,
                    };
                    let greet = || {
                        stream.set_nonblocking(false)?;
                        stream.set_nodelay(true)?;
                        let stream = Stream::accepted(stream, tls.as_ref(), &patience)?;
                        let rank = handshake::greet(&stream, &identity, own_rank, &patience)?;
                        Ok::<_, std::io::Error>((rank, stream))
                    };
                    match greet() {
                        // Nobody waits any more when the mesh is complete or given up.
                        Ok(greeted) => drop(sender.send(greeted)),
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
            if let Ok((rank, stream)) = welcome.recv_timeout(RETRY / 4)
                && !member.is_linked(rank)
            {
                member.link(rank, stream)?;
            }
        }
    }

    /// Connects to a lower rank, again and again until it is there.
    fn dial(
        &self,
        member: &mut Tcp,
        config: &MeshConfig,
        identity: &Identity,
        rank: usize,
        patience: &Patience<'_>,
    ) -> Result<Stream, CollectiveError> {
        let address = &config.addresses[rank];
        loop {
            let refusal = match patience.dial(address) {
                Ok(tcp) => match self.introduce(tcp, config, identity, patience) {
                    Ok(stream) => return Ok(stream),
                    Err(refusal) => refusal,
                },
                Err(error) => Refusal::Retry(error.to_string()),
            };
            member.check()?;
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

    fn introduce(
        &self,
        tcp: TcpStream,
        config: &MeshConfig,
        identity: &Identity,
        patience: &Patience<'_>,
    ) -> Result<Stream, Refusal> {
        let stream = Stream::dialed(tcp, self.tls.as_ref(), patience).map_err(Refusal::of)?;
        handshake::introduce(&stream, identity, config.rank as u32, patience)?;
        Ok(stream)
    }
}

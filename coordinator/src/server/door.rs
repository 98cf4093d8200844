//! The way in: connections that were accepted, encrypted where the coordinator has a certificate, each with
//! what is known of the one who dialed.
//!
//! A connection on which nothing was admitted yet has ten seconds, its handshake included, and only so many
//! of them may wait: the one that has waited longest makes room for the next. So whoever says nothing, or
//! says it byte by byte, or dials again and again, keeps out nobody who knows what to say.
//!
//! Whoever showed a certificate stays as long as it is not revoked.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use perennial_secure::{Caller, Credentials, in_words};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep, interval_at, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tonic::transport::server::Connected;

/// How often a connection is held to what was revoked since.
const LOOK: Duration = Duration::from_secs(1);

/// How patient the door is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Until something is admitted on a connection.
    pub patience: Duration,
    /// Connections on which nothing is yet.
    pub waiting: usize,
}

/// Who is at the other end, as far as the connection tells.
#[derive(Debug, Clone)]
pub(super) enum Visitor {
    /// In plain text: within this machine, or where a person allowed it.
    Plain,
    /// Encrypted, without a certificate.
    Anonymous,
    /// With a certificate of the authority that names no role.
    WithoutRole,
    Known(Caller),
}

/// What a request's connection is to the one who admits it.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub visitor: Visitor,
    admitted: Arc<AtomicBool>,
}

/// One connection.
pub(super) struct Connection {
    bytes: Box<dyn Bytes>,
    arrival: Arrival,
    stay: Stay,
    standing: Option<Standing>,
}

/// The certificate that was shown, which may be revoked while the connection is open.
struct Standing {
    own: Arc<Credentials>,
    shown: Vec<CertificateDer<'static>>,
    look: Interval,
}

/// Ends when a connection on which nothing was admitted has to go.
struct Stay {
    patience: Pin<Box<Sleep>>,
    /// Resolves when another one needs the room.
    room: oneshot::Receiver<()>,
}

/// Connections on which nothing was admitted yet, the oldest first.
struct Lobby {
    limits: Limits,
    waiting: Mutex<VecDeque<Waiting>>,
}

struct Waiting {
    admitted: Weak<AtomicBool>,
    /// Dropped, it ends the stay.
    _room: oneshot::Sender<()>,
}

trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(10),
            waiting: 1024,
        }
    }
}

/// The connections of `listener`, encrypted if there is a `tls`, each as its files are then. The door closes with the
/// stream.
pub(super) fn open(
    listener: TcpListener,
    tls: Option<Arc<Credentials>>,
    limits: Limits,
) -> impl Stream<Item = io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(1);
    let lobby = Lobby {
        limits,
        waiting: Mutex::default(),
    };
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ready.closed() => break,
            };
            match accepted {
                Ok((stream, address)) => {
                    let (admitted, stay) = lobby.enter();
                    let (tls, ready) = (tls.clone(), ready.clone());
                    tokio::spawn(async move {
                        match receive(stream, tls, admitted, stay).await {
                            // Nobody takes it when the server is gone.
                            Ok(connection) => drop(ready.send(Ok(connection)).await),
                            Err(error) => turned_away(address, &error),
                        }
                    });
                }
                // Such as too many open files: some of them close.
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection now");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    });
    futures::stream::unfold(connections, |mut connections| async {
        connections.recv().await.map(|next| (next, connections))
    })
}

async fn receive(
    stream: TcpStream,
    tls: Option<Arc<Credentials>>,
    admitted: Arc<AtomicBool>,
    mut stay: Stay,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let (bytes, visitor, standing): (Box<dyn Bytes>, _, _) = match tls {
        None => (Box::new(stream), Visitor::Plain, None),
        Some(own) => {
            let acceptor = TlsAcceptor::from(own.coordinator().map_err(io::Error::other)?);
            let encrypted = tokio::select! {
                encrypted = acceptor.accept(stream).into_fallible() => encrypted,
                error = poll_fn(|context| stay.poll_over(context)) => return Err(error),
            };
            let encrypted = match encrypted {
                Ok(encrypted) => encrypted,
                Err((error, stream)) => {
                    linger(stream, stay).await;
                    return Err(error);
                }
            };
            let session = encrypted.get_ref().1;
            let visitor = visitor_of(session);
            let shown = session.peer_certificates();
            let standing = shown.map(|shown| Standing::new(own, shown));
            (Box::new(encrypted), visitor, standing)
        }
    };
    Ok(Connection {
        bytes,
        arrival: Arrival { visitor, admitted },
        stay,
        standing,
    })
}

/// Lets the other end read why it is turned away: a connection that closes with words unread is reset, and
/// what was said last is lost.
async fn linger(mut stream: TcpStream, mut stay: Stay) {
    let rest = async {
        let _ = stream.shutdown().await;
        let mut bytes = [0; 4096];
        while let Ok(1..) = stream.read(&mut bytes).await {}
    };
    tokio::select! {
        () = rest => {}
        _ = poll_fn(|context| stay.poll_over(context)) => {}
    }
}

fn visitor_of(session: &rustls::ServerConnection) -> Visitor {
    let shown = session.peer_certificates().and_then(<[_]>::first);
    match shown {
        None => Visitor::Anonymous,
        Some(certificate) => {
            Caller::of_certificate(certificate).map_or(Visitor::WithoutRole, Visitor::Known)
        }
    }
}

fn turned_away(address: SocketAddr, error: &io::Error) {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let why = tls.map_or_else(|| error.to_string(), in_words);
    tracing::warn!("turned {address} away: {why}");
}

// === impl Arrival ===

impl Arrival {
    /// Something was admitted: the connection may stay.
    pub fn admit(&self) {
        self.admitted.store(true, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub fn of(visitor: Visitor) -> Self {
        let admitted = Arc::default();
        Self { visitor, admitted }
    }

    #[cfg(test)]
    pub fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Relaxed)
    }
}

// === impl Lobby ===

impl Lobby {
    fn enter(&self) -> (Arc<AtomicBool>, Stay) {
        let admitted = Arc::new(AtomicBool::new(false));
        let (sender, room) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= self.limits.waiting {
            waiting.retain(|one| {
                let admitted = one.admitted.upgrade();
                admitted.is_some_and(|admitted| !admitted.load(Ordering::Relaxed))
            });
        }
        if waiting.len() >= self.limits.waiting {
            waiting.pop_front();
        }
        waiting.push_back(Waiting {
            admitted: Arc::downgrade(&admitted),
            _room: sender,
        });
        let stay = Stay {
            patience: Box::pin(sleep_until(Instant::now() + self.limits.patience)),
            room,
        };
        (admitted, stay)
    }
}

// === impl Stay ===

impl Stay {
    /// Why it is over, once it is.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let over = |why| Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, why));
        if self.patience.as_mut().poll(context).is_ready() {
            return over("it asked for nothing that it may have in time");
        }
        if Pin::new(&mut self.room).poll(context).is_ready() {
            return over("others need the room");
        }
        Poll::Pending
    }
}

// === impl Standing ===

impl Standing {
    fn new(own: Arc<Credentials>, shown: &[CertificateDer<'_>]) -> Self {
        let mut look = interval_at(Instant::now() + LOOK, LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            own,
            shown: shown.iter().map(|it| it.clone().into_owned()).collect(),
            look,
        }
    }

    /// Resolves once the certificate is revoked.
    fn poll_revoked(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.look.poll_tick(context).is_ready() {
            if self.own.has_revoked(&self.shown) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

// === impl Connection ===

impl Connection {
    /// Why the connection ends now, if it does.
    fn poll_stay(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if let Some(standing) = &mut self.standing
            && standing.poll_revoked(context).is_ready()
        {
            let who = match &self.arrival.visitor {
                Visitor::Known(caller) => caller.to_string(),
                _ => "somebody without a role".into(),
            };
            tracing::warn!("closed the connection of {who}: its certificate was revoked");
            let why = "the certificate was revoked";
            return Poll::Ready(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        if self.arrival.admitted.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        self.stay.poll_over(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = Arrival;

    fn connect_info(&self) -> Arrival {
        self.arrival.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_stay(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.bytes).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// A door with a server behind it that reads whatever comes, and its address.
    async fn door(limits: Limits) -> (SocketAddr, mpsc::UnboundedReceiver<Arrival>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (came, arrivals) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut connections = Box::pin(open(listener, None, limits));
            while let Some(Ok(mut connection)) = connections.next().await {
                let _ = came.send(connection.connect_info());
                tokio::spawn(async move {
                    let mut bytes = [0; 64];
                    while let Ok(1..) = connection.read(&mut bytes).await {}
                });
            }
        });
        (address, arrivals)
    }

    /// Returns once the other end has closed it.
    async fn closed(stream: &mut TcpStream) {
        let mut rest = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut rest))
            .await
            .expect("an end");
    }

    #[tokio::test]
    async fn who_says_nothing_or_says_it_slowly_has_to_go() {
        let limits = Limits {
            patience: Duration::from_millis(200),
            waiting: 8,
        };
        let (address, mut arrivals) = door(limits).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        let trickling = async {
            while slow.write_all(b"P").await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, trickling)
            .await
            .expect("it cannot go on for ever");
        closed(&mut silent).await;
        assert!(arrivals.recv().await.is_some());
    }

    #[tokio::test]
    async fn those_who_wait_make_room_and_those_who_were_admitted_stay() {
        let limits = Limits {
            patience: DEADLINE * 10,
            waiting: 2,
        };
        let (address, mut arrivals) = door(limits).await;
        let mut member = TcpStream::connect(address).await.unwrap();
        arrivals.recv().await.unwrap().admit();
        let mut idle = Vec::new();
        for _ in 0..5 {
            idle.push(TcpStream::connect(address).await.unwrap());
            arrivals.recv().await.unwrap();
        }
        for stream in &mut idle[..3] {
            closed(stream).await;
        }
        for stream in idle[3..].iter_mut().chain([&mut member]) {
            let mut byte = [0];
            let read = timeout(Duration::ZERO, stream.read(&mut byte)).await;
            assert!(read.is_err(), "it is open and says nothing");
        }
    }
}

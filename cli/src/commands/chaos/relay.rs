//! Relays between processes: what goes through one can be held back, in both directions, without rights
//! over the network. Neither end sees more of it than silence, as when packets are dropped.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::process::Uid;

/// Bytes that one direction of a connection moves at a time.
const BUFFER: usize = 256 * 1024;

/// Who is cut off from everybody else.
#[derive(Debug, Clone)]
pub struct Wires(watch::Sender<BTreeSet<Uid>>);

/// Tells whose process dialed from this port of this machine, if it is a worker's.
pub type Dialer = Arc<dyn Fn(SocketAddr) -> Option<Uid> + Send + Sync>;

/// A listener whose connections lead to `target`. They end with it.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    _accepting: JoinSet<()>,
}

/// The ends of a connection.
#[derive(Clone)]
struct Passage {
    ends: Vec<Uid>,
    cut: watch::Receiver<BTreeSet<Uid>>,
}

// === impl Wires ===

impl Wires {
    pub fn new() -> Self {
        Self(watch::Sender::new(BTreeSet::new()))
    }

    /// From now on nothing comes to `worker` and nothing from it.
    pub fn cut(&self, worker: Uid) {
        self.0.send_modify(|cut| _ = cut.insert(worker));
    }

    /// What was held back goes on, as it would be sent again by a network that is back.
    pub fn mend(&self, worker: Uid) {
        self.0.send_modify(|cut| _ = cut.remove(&worker));
    }
}

// === impl Relay ===

impl Relay {
    /// Leads to `target`, where `worker` listens; `dialer` tells who comes.
    pub async fn to_worker(
        wires: &Wires,
        worker: Uid,
        target: String,
        dialer: Dialer,
    ) -> anyhow::Result<Self> {
        Self::start(wires, worker, target, dialer).await
    }

    /// Leads `worker` to `target`, which is never cut off itself.
    pub async fn from_worker(wires: &Wires, worker: Uid, target: String) -> anyhow::Result<Self> {
        Self::start(wires, worker, target, Arc::new(|_| None)).await
    }

    async fn start(
        wires: &Wires,
        owner: Uid,
        target: String,
        dialer: Dialer,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("cannot listen for a relay")?;
        let address = listener.local_addr()?;
        let cut = wires.0.subscribe();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                let Ok((stream, peer)) = listener.accept().await else {
                    continue;
                };
                let passage = Passage {
                    ends: [Some(owner), dialer(peer)].into_iter().flatten().collect(),
                    cut: cut.clone(),
                };
                connections.spawn(connect(stream, target.clone(), passage));
            }
        });
        Ok(Self {
            address,
            _accepting: accepting,
        })
    }

    /// `host:port`, for those who dial.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

/// A connection from its beginning to its end. Errors end it on both sides, as they would without a relay.
async fn connect(near: TcpStream, target: String, mut passage: Passage) {
    passage.wait_until_open().await;
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let _ = tokio::try_join!(
        pump(near_in, far_out, passage.clone()),
        pump(far_in, near_out, passage),
    );
}

/// Carries one direction. The end of it is held back as well.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut passage: Passage,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await;
        passage.wait_until_open().await;
        match read? {
            0 => return to.shutdown().await,
            bytes => to.write_all(&buffer[..bytes]).await?,
        }
    }
}

// === impl Passage ===

impl Passage {
    async fn wait_until_open(&mut self) {
        let ends = &self.ends;
        let open = |cut: &BTreeSet<Uid>| !ends.iter().any(|end| cut.contains(end));
        // Without wires nobody is left who could cut.
        let _ = self.cut.wait_for(open).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Nothing comes within this time.
    const SILENCE: Duration = Duration::from_millis(200);
    const PATIENCE: Duration = Duration::from_secs(10);

    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn hears(stream: &mut TcpStream) -> Option<u8> {
        timeout(PATIENCE, stream.read_u8()).await.unwrap().ok()
    }

    #[tokio::test]
    async fn a_cut_holds_back_what_is_said_and_a_mended_wire_delivers_it() {
        let wires = Wires::new();
        let relay = Relay::from_worker(&wires, 4, echo().await).await.unwrap();
        let mut stream = TcpStream::connect(relay.address()).await.unwrap();
        stream.write_u8(1).await.unwrap();
        assert_eq!(hears(&mut stream).await, Some(1));
        wires.cut(4);
        stream.write_u8(2).await.unwrap();
        let mut late = TcpStream::connect(relay.address()).await.unwrap();
        late.write_u8(3).await.unwrap();
        assert!(timeout(SILENCE, stream.read_u8()).await.is_err());
        assert!(timeout(SILENCE, late.read_u8()).await.is_err());
        wires.mend(4);
        assert_eq!(hears(&mut stream).await, Some(2));
        assert_eq!(hears(&mut late).await, Some(3));
    }

    #[tokio::test]
    async fn a_worker_that_is_cut_off_does_not_reach_the_others_either() {
        let wires = Wires::new();
        let dialer: Dialer = Arc::new(|_| Some(9));
        let target = echo().await;
        let relay = Relay::to_worker(&wires, 4, target, dialer).await.unwrap();
        wires.cut(9);
        let mut stream = TcpStream::connect(relay.address()).await.unwrap();
        stream.write_u8(1).await.unwrap();
        assert!(timeout(SILENCE, stream.read_u8()).await.is_err());
        wires.mend(9);
        assert_eq!(hears(&mut stream).await, Some(1));
    }

    #[tokio::test]
    async fn an_end_that_closes_is_heard_at_the_other_one() {
        let wires = Wires::new();
        let relay = Relay::from_worker(&wires, 4, echo().await).await.unwrap();
        let mut stream = TcpStream::connect(relay.address()).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(hears(&mut stream).await, None);
        drop(relay);
    }
}

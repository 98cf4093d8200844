//! The end that has the replica.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::wire::{ALIVE, ASK, Head, Kind, MAGIC, MAX_JOB, MAX_LENGTH, VERSION, Verdict};
use super::{Delta, ReplicaSource, SILENCE};
use crate::error::CollectiveError;
use crate::silence::{Vigil, keep_alive};
use crate::stream::{MeshTls, Stream};
use crate::tcp::{AbortHandle, Patience};

/// Followers at the same time; more are turned away.
const FOLLOWERS: usize = 64;
/// How often the server looks for a new follower.
const POLL: Duration = Duration::from_millis(20);

/// Serves a replica to followers until it is dropped. It holds up training only as far as its
/// [`ReplicaSource`] does.
#[derive(Debug)]
pub struct ReplicaServer {
    stop: AbortHandle,
    accepting: Option<JoinHandle<()>>,
}

/// What a server knows of one follower.
struct Follower<'a> {
    stream: &'a Stream,
    source: &'a dyn ReplicaSource,
    /// The step of its replica.
    global_step: Option<u64>,
}

// === impl ReplicaServer ===

impl ReplicaServer {
    /// Listens on `address` (`host:port`, port 0 for any that is free) and says where that is. Followers
    /// of another job than `job` are refused.
    pub fn bind(
        address: &str,
        job: &str,
        source: Arc<dyn ReplicaSource>,
    ) -> Result<(Self, SocketAddr), CollectiveError> {
        Self::bind_encrypted(address, job, source, None)
    }

    /// As [`Self::bind`], and all connections are encrypted if `tls` is there.
    pub fn bind_encrypted(
        address: &str,
        job: &str,
        source: Arc<dyn ReplicaSource>,
        tls: Option<MeshTls>,
    ) -> Result<(Self, SocketAddr), CollectiveError> {
        let stop = AbortHandle::new();
        let listen = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let local = listener.local_addr()?;
            let (job, stop) = (job.to_owned(), stop.clone());
            let accepting = thread::Builder::new()
                .name("replica-server".to_owned())
                .spawn(move || accept(&listener, &job, &source, tls.as_ref(), &stop))?;
            Ok((accepting, local))
        };
        let (accepting, local) = listen().map_err(|error: io::Error| CollectiveError::Listen {
            address: address.to_owned(),
            reason: error.to_string(),
        })?;
        let server = Self {
            stop,
            accepting: Some(accepting),
        };
        Ok((server, local))
    }
}

impl Drop for ReplicaServer {
    /// Closes all connections. A thread that waits in the source ends with that wait.
    fn drop(&mut self) {
        self.stop.abort();
        if let Some(accepting) = self.accepting.take() {
            // It has nothing to say.
            let _ = accepting.join();
        }
    }
}

fn accept(
    listener: &TcpListener,
    job: &str,
    source: &Arc<dyn ReplicaSource>,
    tls: Option<&MeshTls>,
    stop: &AbortHandle,
) {
    let running = Arc::new(());
    while !stop.is_aborted() {
        let Ok((stream, address)) = listener.accept() else {
            thread::sleep(POLL);
            continue;
        };
        if Arc::strong_count(&running) > FOLLOWERS {
            tracing::warn!(%address, "turned a follower away: there are `{FOLLOWERS}` already");
            continue;
        }
        let (job, source, stop) = (job.to_owned(), source.clone(), stop.clone());
        let (running, tls) = (running.clone(), tls.cloned());
        let serve = move || {
            if let Err(error) = serve(stream, tls.as_ref(), &job, &*source, &stop) {
                tracing::debug!(%address, %error, "a follower is gone");
            }
            drop(running);
        };
        let name = thread::Builder::new().name("replica-follower".to_owned());
        // Without a thread the connection closes, and the follower tries again.
        if let Err(error) = name.spawn(serve) {
            tracing::warn!(%error, "no thread for a follower");
        }
    }
}

/// Serves one follower until it is gone.
fn serve(
    tcp: TcpStream,
    tls: Option<&MeshTls>,
    job: &str,
    source: &dyn ReplicaSource,
    stop: &AbortHandle,
) -> io::Result<()> {
    tcp.set_nonblocking(false)?;
    tcp.set_nodelay(true)?;
    let patience = Patience {
        deadline: Instant::now() + SILENCE,
        abort: stop,
        lost: &AtomicBool::new(false),
    };
    let stream = Arc::new(Stream::accepted(tcp, tls, &patience)?);
    stop.watch(&stream);
    let mut follower = Follower {
        stream: &stream,
        source,
        global_step: greet(&stream, job, &patience)?,
    };
    loop {
        follower.await_question()?;
        follower.answer()?;
    }
}

/// Hears who dialed and answers; the step that the follower has.
fn greet(mut stream: &Stream, job: &str, patience: &Patience<'_>) -> io::Result<Option<u64>> {
    patience.read_magic(stream, MAGIC)?;
    let mut have = None;
    let verdict = if patience.read_u32(stream)? == VERSION {
        let theirs = patience.read_name(stream, MAX_JOB)?;
        let has_one = patience.read_u32(stream)? != 0;
        let global_step = patience.read_u64(stream)?;
        have = has_one.then_some(global_step);
        if theirs == job.as_bytes() {
            Verdict::Welcome
        } else {
            Verdict::OtherJob
        }
    } else {
        Verdict::OtherVersion
    };
    let mut reply = MAGIC.to_vec();
    reply.extend((verdict as u32).to_le_bytes());
    stream.write_all(&reply)?;
    if verdict == Verdict::Welcome {
        Ok(have)
    } else {
        Err(io::Error::other(format!("refused: {verdict:?}")))
    }
}

// === impl Follower ===

impl Follower<'_> {
    fn await_question(&self) -> io::Result<()> {
        let mut vigil = Vigil::reading(self.stream, SILENCE)?;
        loop {
            let mut byte = [0];
            vigil.read_exact(&mut byte)?;
            match byte[0] {
                ASK => return Ok(()),
                ALIVE => {}
                other => return Err(io::Error::other(format!("it sent `{other}`"))),
            }
        }
    }

    fn answer(&mut self) -> io::Result<()> {
        let mut vigil = Vigil::writing(self.stream, SILENCE)?;
        let (head, body) = self.fetch(&mut vigil)?;
        if head.length > MAX_LENGTH {
            let length = head.length;
            return Err(io::Error::other(format!(
                "a replica of `{length}` bytes is above the limit of {MAX_LENGTH}"
            )));
        }
        head.write(&mut vigil)?;
        if head.kind != Kind::Idle {
            Head::write_body(&mut vigil, &body)?;
            self.global_step = Some(head.global_step);
        }
        Ok(())
    }

    /// Asks the source, and tells the follower meanwhile that this end is alive: a snapshot may have to
    /// wait for a step.
    fn fetch(&self, vigil: &mut Vigil<'_>) -> io::Result<(Head, Bytes)> {
        let (source, global_step) = (self.source, self.global_step);
        thread::scope(|scope| {
            let (sender, fetched) = mpsc::channel();
            thread::Builder::new()
                .name("replica-source".to_owned())
                .spawn_scoped(scope, move || {
                    // Nobody takes it when the follower is gone.
                    drop(sender.send(next_for(source, global_step)));
                })?;
            loop {
                // Later than an answer without news.
                match fetched.recv_timeout(2 * keep_alive(SILENCE)) {
                    Ok(answer) => return Ok(answer),
                    Err(RecvTimeoutError::Timeout) => Head::bare(Kind::Wait).write(vigil)?,
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(io::Error::other("the source has panicked"));
                    }
                }
            }
        })
    }
}

/// What comes next for a follower whose replica is of this step.
fn next_for(source: &dyn ReplicaSource, global_step: Option<u64>) -> (Head, Bytes) {
    let patience = keep_alive(SILENCE);
    let idle = (Head::bare(Kind::Idle), Bytes::new());
    if let Some(step) = global_step {
        match source.delta(step, patience) {
            Delta::Next { hash, bytes } => {
                let head = Head {
                    kind: Kind::Delta,
                    global_step: step.saturating_add(1),
                    hash,
                    length: bytes.len() as u64,
                };
                return (head, bytes);
            }
            Delta::NotYet => return idle,
            Delta::Gone => {}
        }
    }
    let Some(snapshot) = source.snapshot() else {
        thread::sleep(patience);
        return idle;
    };
    let head = Head {
        kind: Kind::Snapshot,
        global_step: snapshot.global_step,
        hash: snapshot.hash,
        length: snapshot.bytes.len() as u64,
    };
    (head, snapshot.bytes)
}

//! The end that gets the replica.

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Instant;

use super::wire::{ALIVE, ASK, Head, Kind, MAGIC, ReadError, VERSION};
use super::{SILENCE, Snapshot, Update};
use crate::error::CollectiveError;
use crate::silence::{Vigil, is_silence, keep_alive};
use crate::stream::{MeshTls, Stream};
use crate::tcp::{AbortHandle, Patience};

/// Gets the replica of another member, then its steps. It may take any time between two calls of
/// [`Self::next_update`]: a thread tells the source meanwhile that this end is alive.
#[derive(Debug)]
pub struct ReplicaFollower {
    address: String,
    stream: Arc<Stream>,
    abort: AbortHandle,
    /// The step of the replica at this end.
    global_step: Option<u64>,
    /// Whether an answer is to come.
    asked: bool,
    /// Why there is no more.
    end: Option<CollectiveError>,
    /// Dropped, ends the thread.
    _alive: Sender<()>,
}

// === impl ReplicaFollower ===

impl ReplicaFollower {
    /// Connects to the server at `address`, once, within five seconds. A follower that has the replica
    /// of a step gives that as `have`, and gets the steps since as long as they are kept there. `abort`
    /// ends this and all later waits within 50 milliseconds.
    pub fn connect(
        address: &str,
        job: &str,
        have: Option<u64>,
        abort: &AbortHandle,
    ) -> Result<Self, CollectiveError> {
        Self::connect_encrypted(address, job, have, None, abort)
    }

    /// As [`Self::connect`], and encrypted if `tls` is there.
    pub fn connect_encrypted(
        address: &str,
        job: &str,
        have: Option<u64>,
        tls: Option<&MeshTls>,
        abort: &AbortHandle,
    ) -> Result<Self, CollectiveError> {
        connect(address, job, have, tls, abort).map_err(|error| {
            if abort.is_aborted() {
                CollectiveError::Aborted
            } else {
                error
            }
        })
    }

    /// What comes next, at most half a second later unless the source is busy. After an error there is
    /// nothing more.
    pub fn next_update(&mut self) -> Result<Update, CollectiveError> {
        if self.abort.is_aborted() {
            return Err(CollectiveError::Aborted);
        }
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        self.ask().map_err(|error| {
            let error = match error {
                _ if self.abort.is_aborted() => CollectiveError::Aborted,
                ReadError::Corrupt(reason) => CollectiveError::SourceCorrupt {
                    address: self.address.clone(),
                    reason,
                },
                ReadError::Connection(error) if is_silence(&error) => {
                    CollectiveError::SourceSilent {
                        address: self.address.clone(),
                        seconds: SILENCE.as_secs(),
                    }
                }
                ReadError::Connection(error) => lost(&self.address, &error),
            };
            self.end = Some(error.clone());
            self.close();
            error
        })
    }

    fn ask(&mut self) -> Result<Update, ReadError> {
        if !self.asked {
            (&*self.stream).write_all(&[ASK])?;
            self.asked = true;
        }
        let mut vigil = Vigil::reading(&self.stream, SILENCE)?;
        let head = Head::read(&mut vigil)?;
        match head.kind {
            Kind::Wait => return Ok(Update::Idle),
            Kind::Idle => {
                self.asked = false;
                return Ok(Update::Idle);
            }
            Kind::Delta
                if self.global_step.and_then(|step| step.checked_add(1))
                    != Some(head.global_step) =>
            {
                return Err(ReadError::Corrupt(format!(
                    "a change to step `{}` came for a replica of step `{:?}`",
                    head.global_step, self.global_step
                )));
            }
            Kind::Snapshot | Kind::Delta => {}
        }
        let bytes = head.read_body(&mut vigil)?.into();
        self.asked = false;
        let Head {
            global_step, hash, ..
        } = head;
        self.global_step = Some(global_step);
        Ok(if head.kind == Kind::Delta {
            Update::Delta {
                global_step,
                hash,
                bytes,
            }
        } else {
            Update::Snapshot(Snapshot {
                global_step,
                hash,
                bytes,
            })
        })
    }

    fn close(&self) {
        // A connection that the source closed first needs no more.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Drop for ReplicaFollower {
    fn drop(&mut self) {
        self.close();
    }
}

fn connect(
    address: &str,
    job: &str,
    have: Option<u64>,
    tls: Option<&MeshTls>,
    abort: &AbortHandle,
) -> Result<ReplicaFollower, CollectiveError> {
    let patience = Patience {
        deadline: Instant::now() + SILENCE,
        abort,
        lost: &AtomicBool::new(false),
    };
    let stream = patience.dial(address);
    let stream = stream.map_err(|error| CollectiveError::SourceUnreachable {
        address: address.to_owned(),
        reason: error.to_string(),
    })?;
    let stream = Stream::dialed(stream, tls, &patience).map_err(|error| lost(address, &error))?;
    let stream = Arc::new(stream);
    abort.watch(&stream);
    let verdict = introduce(&stream, job, have, &patience);
    let reason = match verdict.map_err(|error| lost(address, &error))? {
        0 => None,
        1 => Some("it speaks another version; run the same program everywhere".to_owned()),
        2 => Some(format!("it works on another job than `{job}`")),
        verdict => Some(format!("it gave the unknown answer `{verdict}`")),
    };
    if let Some(reason) = reason {
        return Err(CollectiveError::SourceRefused {
            address: address.to_owned(),
            reason,
        });
    }

    let (alive, dropped) = mpsc::channel::<()>();
    let tell = {
        let stream = stream.clone();
        move || {
            while dropped.recv_timeout(keep_alive(SILENCE)) == Err(RecvTimeoutError::Timeout)
                && (&*stream).write_all(&[ALIVE]).is_ok()
            {}
        }
    };
    let started = thread::Builder::new()
        .name("replica-alive".to_owned())
        .spawn(tell);
    started.map_err(|error| lost(address, &error))?;
    Ok(ReplicaFollower {
        address: address.to_owned(),
        stream,
        abort: abort.clone(),
        global_step: have,
        asked: false,
        end: None,
        _alive: alive,
    })
}

/// Says who wants what; the verdict of the other end.
fn introduce(
    mut stream: &Stream,
    job: &str,
    have: Option<u64>,
    patience: &Patience<'_>,
) -> io::Result<u32> {
    let mut hello = MAGIC.to_vec();
    hello.extend(VERSION.to_le_bytes());
    hello.extend((job.len() as u32).to_le_bytes());
    hello.extend(job.as_bytes());
    hello.extend(u32::from(have.is_some()).to_le_bytes());
    hello.extend(have.unwrap_or(0).to_le_bytes());
    stream.write_all(&hello)?;
    patience.read_magic(stream, MAGIC)?;
    patience.read_u32(stream)
}

fn lost(address: &str, error: &io::Error) -> CollectiveError {
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        _ => error.to_string(),
    };
    CollectiveError::SourceLost {
        address: address.to_owned(),
        reason,
    }
}

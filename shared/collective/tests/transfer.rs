//! A replica that is copied while it changes, over good and bad connections.

#[allow(dead_code)]
#[path = "support/network.rs"]
mod network;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use perennial_collective::{
    AbortHandle, CollectiveError, Delta, ReplicaFollower, ReplicaServer, ReplicaSource, Snapshot,
    Update,
};

const JOB: &str = "seedlings";
/// Several chunks, and more than a connection holds by itself.
const LENGTH: usize = 20_000_000;
/// Longer than either end may be silent.
const LONGER_THAN_SILENCE: Duration = Duration::from_secs(6);

/// A replica whose step adds one number to some of its bytes.
#[derive(Clone, PartialEq, Eq)]
struct Replica {
    global_step: u64,
    bytes: Vec<u8>,
}

impl Replica {
    fn new(length: usize) -> Self {
        Self {
            global_step: 0,
            bytes: (0..length).map(|place| (place * 31) as u8).collect(),
        }
    }

    fn hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(&self.bytes, self.global_step)
    }

    fn apply(&mut self, delta: &[u8]) {
        let places = self.bytes.iter_mut().step_by(4099);
        for (byte, change) in places.zip(delta.iter().cycle()) {
            *byte = byte.wrapping_add(*change);
        }
        self.global_step += 1;
    }

    /// Takes an update in and compares the hash; whether there was one.
    fn take(&mut self, update: Update) -> bool {
        let hash = match update {
            Update::Idle => return false,
            Update::Snapshot(snapshot) => {
                self.global_step = snapshot.global_step;
                self.bytes = snapshot.bytes.to_vec();
                snapshot.hash
            }
            Update::Delta {
                global_step,
                hash,
                bytes,
            } => {
                self.apply(&bytes);
                assert_eq!(self.global_step, global_step);
                hash
            }
        };
        assert_eq!(self.hash(), hash, "step {}", self.global_step);
        true
    }
}

/// A member that trains.
struct Source {
    state: Mutex<State>,
    stepped: Condvar,
    /// Changes that it keeps.
    kept: usize,
    /// How long a snapshot takes.
    slowness: Duration,
}

struct State {
    replica: Replica,
    changes: VecDeque<(u64, u64, Bytes)>,
    snapshots: usize,
}

impl Source {
    fn new(length: usize, kept: usize) -> Self {
        Self {
            state: Mutex::new(State {
                replica: Replica::new(length),
                changes: VecDeque::new(),
                snapshots: 0,
            }),
            stepped: Condvar::new(),
            kept,
            slowness: Duration::ZERO,
        }
    }

    fn step(&self) {
        let mut state = self.state.lock().unwrap();
        let from = state.replica.global_step;
        let delta = Bytes::from(vec![from as u8 + 1, 3, from as u8]);
        state.replica.apply(&delta);
        let hash = state.replica.hash();
        state.changes.push_back((from, hash, delta));
        if state.changes.len() > self.kept {
            state.changes.pop_front();
        }
        drop(state);
        self.stepped.notify_all();
    }

    fn replica(&self) -> Replica {
        self.state.lock().unwrap().replica.clone()
    }

    fn snapshots(&self) -> usize {
        self.state.lock().unwrap().snapshots
    }
}

impl ReplicaSource for Source {
    fn snapshot(&self) -> Option<Snapshot> {
        thread::sleep(self.slowness);
        let mut state = self.state.lock().unwrap();
        state.snapshots += 1;
        Some(Snapshot {
            global_step: state.replica.global_step,
            hash: state.replica.hash(),
            bytes: state.replica.bytes.clone().into(),
        })
    }

    fn delta(&self, global_step: u64, patience: Duration) -> Delta {
        let state = self.state.lock().unwrap();
        let wait = self.stepped.wait_timeout_while(state, patience, |state| {
            state.replica.global_step == global_step
        });
        let (state, _) = wait.unwrap();
        if state.replica.global_step == global_step {
            return Delta::NotYet;
        }
        let mut changes = state.changes.iter();
        match changes.find(|(from, ..)| *from == global_step) {
            Some((_, hash, bytes)) => Delta::Next {
                hash: *hash,
                bytes: bytes.clone(),
            },
            None => Delta::Gone,
        }
    }
}

fn serve(source: &Arc<Source>) -> (ReplicaServer, String) {
    let (server, address) = ReplicaServer::bind("127.0.0.1:0", JOB, source.clone()).unwrap();
    (server, address.to_string())
}

fn follow(address: &str, have: Option<u64>) -> Result<ReplicaFollower, CollectiveError> {
    ReplicaFollower::connect(address, JOB, have, &AbortHandle::new())
}

/// What becomes of bytes on their way to the follower.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Pass,
    Close,
    Stall,
}

/// A network to `target` that does to the bytes at each offset what `fate` says.
fn tampered(
    target: String,
    fate: impl Fn(usize, &mut [u8]) -> Fate + Send + 'static,
) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tampering = thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let far = TcpStream::connect(target).unwrap();
        let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        let there = thread::spawn(move || std::io::copy(&mut from, &mut to));
        let (mut from, mut to) = (&far, &near);
        let mut offset = 0;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            let fate = fate(offset, &mut buffer[..count]);
            offset += count;
            if fate == Fate::Stall {
                // Until the follower gives up.
                break drop(there.join());
            }
            if fate == Fate::Close || count == 0 || to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = (far.shutdown(Shutdown::Both), near.shutdown(Shutdown::Both));
    });
    (address, tampering)
}

fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come");
        thread::yield_now();
    }
}

#[test]
fn a_follower_catches_up_while_the_source_trains_and_gets_the_same_replica() {
    const STEPS: u64 = 200;
    let source = Arc::new(Source::new(LENGTH, 4));
    let (_server, address) = serve(&source);
    let training = {
        let source = source.clone();
        thread::spawn(move || (0..STEPS).for_each(|_| source.step()))
    };
    let mut follower = follow(&address, None).unwrap();
    let mut copy = Replica::new(0);
    while copy.global_step < STEPS {
        copy.take(follower.next_update().unwrap());
    }
    training.join().unwrap();
    assert!(copy == source.replica());
}

#[test]
fn a_follower_that_is_two_behind_gets_the_two_changes_only() {
    let source = Arc::new(Source::new(LENGTH, 4));
    (0..5).for_each(|_| source.step());
    let mut copy = source.replica();
    (0..2).for_each(|_| source.step());
    let (_server, address) = serve(&source);
    let mut follower = follow(&address, Some(5)).unwrap();
    for _ in 0..2 {
        assert!(copy.take(follower.next_update().unwrap()));
    }
    assert_eq!(follower.next_update(), Ok(Update::Idle));
    source.step();
    assert!(copy.take(follower.next_update().unwrap()));
    assert!(copy == source.replica());
    assert_eq!(source.snapshots(), 0);
}

#[test]
fn a_follower_that_is_too_far_behind_gets_all_of_the_replica() {
    let source = Arc::new(Source::new(100, 2));
    let mut copy = source.replica();
    (0..4).for_each(|_| source.step());
    let (_server, address) = serve(&source);
    let mut follower = follow(&address, Some(0)).unwrap();
    assert!(copy.take(follower.next_update().unwrap()));
    assert!(copy == source.replica());
    assert_eq!(source.snapshots(), 1);
}

#[test]
fn a_source_that_dies_in_the_middle_of_a_snapshot_is_noticed_at_once() {
    let source = Arc::new(Source::new(LENGTH, 4));
    let (_server, address) = serve(&source);
    let (address, _) = tampered(address, |offset, _| {
        if offset > LENGTH / 2 {
            Fate::Close
        } else {
            Fate::Pass
        }
    });
    let mut follower = follow(&address, None).unwrap();
    let error = follower.next_update().unwrap_err();
    assert!(
        matches!(error, CollectiveError::SourceLost { .. }),
        "{error}"
    );
    assert_eq!(follower.next_update(), Err(error));
}

#[test]
fn a_server_that_is_dropped_ends_its_followers() {
    let source = Arc::new(Source::new(100, 4));
    let (server, address) = serve(&source);
    let mut copy = Replica::new(0);
    let mut follower = follow(&address, None).unwrap();
    assert!(copy.take(follower.next_update().unwrap()));
    drop(server);
    let error = follower.next_update().unwrap_err();
    assert!(
        matches!(error, CollectiveError::SourceLost { .. }),
        "{error}"
    );
    assert!(matches!(
        follow(&address, None),
        Err(CollectiveError::SourceUnreachable { .. })
    ));
    until(|| Arc::strong_count(&source) == 1);
}

#[test]
fn a_damaged_chunk_is_named() {
    let source = Arc::new(Source::new(LENGTH, 4));
    source.step();
    let (_server, address) = serve(&source);
    let place = 3_500_000;
    let (address, _) = tampered(address, move |offset, bytes| {
        if (offset..offset + bytes.len()).contains(&place) {
            bytes[place - offset] ^= 4;
        }
        Fate::Pass
    });
    let error = follow(&address, None).unwrap().next_update().unwrap_err();
    assert!(
        matches!(error, CollectiveError::SourceCorrupt { .. }),
        "{error}"
    );
    let words = error.to_string();
    assert!(
        words.contains("chunk `3` of the snapshot of step `1`"),
        "{words}"
    );
}

#[test]
fn a_follower_of_another_job_is_refused() {
    let source = Arc::new(Source::new(100, 4));
    let (_server, address) = serve(&source);
    let result = ReplicaFollower::connect(&address, "weeds", None, &AbortHandle::new());
    let error = result.unwrap_err();
    assert!(
        matches!(error, CollectiveError::SourceRefused { .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("another job than `weeds`"),
        "{error}"
    );
}

#[test]
fn another_version_is_refused_with_a_sentence() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let newer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"PERENREP\x01\0\0\0").unwrap();
        stream.read_to_end(&mut Vec::new())
    });
    let error = follow(&address, None).unwrap_err();
    assert!(
        error.to_string().contains("run the same program"),
        "{error}"
    );
    newer.join().unwrap().unwrap();

    let source = Arc::new(Source::new(100, 4));
    let (_server, address) = serve(&source);
    let mut older = TcpStream::connect(&address).unwrap();
    older.write_all(b"PERENREP\x63\0\0\0").unwrap();
    let mut answer = Vec::new();
    older.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"PERENREP\x01\0\0\0");
}

#[test]
fn strangers_do_a_server_no_harm() {
    let source = Arc::new(Source::new(100, 4));
    let (_server, address) = serve(&source);
    let endless_job = b"PERENREP\x01\0\0\0\xff\xff\xff\xff";
    let mut hello = b"PERENREP\x01\0\0\0\x09\0\0\0seedlings".to_vec();
    hello.extend([0; 12]);
    hello.extend(b"what?");
    let chatter: [&[u8]; 6] = [
        b"",
        b"PEREN",
        b"GET / HTTP/1.1\r\nhost: me\r\n\r\n",
        &[0xff; 64],
        endless_job,
        &hello,
    ];
    let strangers = chatter.map(|words| {
        let mut stranger = TcpStream::connect(&address).unwrap();
        stranger.write_all(words).unwrap();
        stranger
    });
    let mut copy = Replica::new(0);
    assert!(copy.take(follow(&address, None).unwrap().next_update().unwrap()));
    assert!(copy == source.replica());
    drop(strangers);
    until(|| Arc::strong_count(&source) == 2);
}

#[test]
fn garbage_is_no_replica() {
    for welcome in ["", "PERENREP\0\0\0\0"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let garbage = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(welcome.as_bytes()).unwrap();
            stream.write_all(&[0x5a; 1000]).unwrap();
            // It may be cut off.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let result = follow(&address, None).and_then(|mut follower| follower.next_update());
        assert!(result.is_err());
        garbage.join().unwrap();
    }
}

#[test]
fn a_source_that_stalls_is_given_up() {
    let source = Arc::new(Source::new(LENGTH, 4));
    let (_server, address) = serve(&source);
    let (address, tampering) = tampered(address, |offset, _| {
        if offset > LENGTH / 2 {
            Fate::Stall
        } else {
            Fate::Pass
        }
    });
    let mut follower = follow(&address, None).unwrap();
    let error = follower.next_update().unwrap_err();
    assert!(
        matches!(error, CollectiveError::SourceSilent { .. }),
        "{error}"
    );
    tampering.join().unwrap();
}

#[test]
fn a_follower_that_stalls_is_given_up() {
    let source = Arc::new(Source::new(LENGTH, 4));
    let (_server, address) = serve(&source);
    let mut hello = b"PERENREP\x01\0\0\0\x09\0\0\0seedlings".to_vec();
    hello.extend([0; 12]);
    // One asks and takes nothing, one is welcome and asks nothing.
    let stalled = ["+", ""].map(|question| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(&hello).unwrap();
        stream.write_all(question.as_bytes()).unwrap();
        stream
    });
    until(|| source.snapshots() == 1 && Arc::strong_count(&source) == 4);
    until(|| Arc::strong_count(&source) == 2);
    drop(stalled);
}

#[test]
fn a_source_that_takes_long_for_a_snapshot_is_not_silent() {
    let source = Arc::new(Source {
        slowness: LONGER_THAN_SILENCE,
        ..Source::new(100, 4)
    });
    let (_server, address) = serve(&source);
    let mut follower = follow(&address, None).unwrap();
    let mut copy = Replica::new(0);
    let mut idle = 0;
    while !copy.take(follower.next_update().unwrap()) {
        idle += 1;
    }
    assert!(idle > 0);
    assert!(copy == source.replica());
}

#[test]
fn a_follower_that_is_slow_with_an_update_is_not_silent_and_does_not_hold_up_training() {
    let source = Arc::new(Source::new(LENGTH, 4));
    let (_server, address) = serve(&source);
    let mut follower = follow(&address, None).unwrap();
    let mut copy = Replica::new(0);
    assert!(copy.take(follower.next_update().unwrap()));
    // The follower takes long to load it, and training goes on.
    (0..10).for_each(|_| source.step());
    thread::sleep(LONGER_THAN_SILENCE);
    while copy.global_step < 10 {
        copy.take(follower.next_update().unwrap());
    }
    assert!(copy == source.replica());
    assert_eq!(source.snapshots(), 2);
}

#[test]
fn an_abort_ends_every_wait_of_a_follower() {
    let source = Arc::new(Source::new(100, 4));
    let (_server, address) = serve(&source);
    // It is welcome, and hears nothing from then on.
    let (address, _) = tampered(
        address,
        |offset, _| {
            if offset < 12 { Fate::Pass } else { Fate::Stall }
        },
    );
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf_address = deaf.local_addr().unwrap().to_string();
    let (black_hole, _listener, _queue) = network::black_hole();
    for address in [deaf_address, black_hole, address] {
        let abort = AbortHandle::new();
        let (result, took) = thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut follower = ReplicaFollower::connect(&address, JOB, None, &abort)?;
                loop {
                    follower.next_update()?;
                }
            });
            thread::sleep(Duration::from_millis(100));
            let start = Instant::now();
            abort.abort();
            (waiting.join().unwrap(), start.elapsed())
        });
        let result: Result<(), CollectiveError> = result;
        assert_eq!(result, Err(CollectiveError::Aborted), "{address}");
        // It takes 20 ms; what it waited for takes seconds.
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

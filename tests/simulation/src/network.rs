//! Machines, what lies between them, and the streams between workers and coordinators.
//!
//! A stream loses nothing and keeps its order, as TCP does: while the way is cut its packets wait. Its
//! end is one more packet. Different streams overtake each other.

use std::collections::{BTreeMap, VecDeque};

use crate::queue::{
    CoordinatorId, Direction, Happening, MILLISECOND, Packet, Process, SECOND, StreamId, Time,
    WorkerId,
};
use crate::world::World;

/// How long a worker waits for a connection, and for the stream on it.
const CONNECT: Time = 2 * SECOND;
const OPEN: Time = 5 * SECOND;

/// A machine.
pub type Node = usize;

#[derive(Default)]
pub struct Network {
    /// Ways that are cut, each by the fault that cut it.
    cuts: BTreeMap<u64, Vec<(Node, Node)>>,
    cut_count: u64,
    pub streams: Vec<Stream>,
    /// Until then latencies are in seconds.
    pub slow_until: Time,
}

pub struct Stream {
    pub worker: WorkerId,
    pub coordinator: CoordinatorId,
    pub up: Pipe,
    pub down: Pipe,
    /// The worker has heard that it is open, or has given up.
    pub answered: bool,
}

#[derive(Default)]
pub struct Pipe {
    packets: VecDeque<(Time, Packet)>,
    last: Time,
    /// Nothing more is taken.
    ended: bool,
}

// === impl Network ===

impl Network {
    pub fn is_cut(&self, from: Node, to: Node) -> bool {
        self.cuts.values().any(|ways| ways.contains(&(from, to)))
    }

    /// Cuts these ways, from one machine to another; returns the cut's number.
    pub fn cut(&mut self, ways: Vec<(Node, Node)>) -> u64 {
        self.cut_count += 1;
        self.cuts.insert(self.cut_count, ways);
        self.cut_count
    }

    pub fn has_cuts(&self) -> bool {
        !self.cuts.is_empty()
    }

    pub fn heal_all(&mut self) {
        self.cuts.clear();
    }

    fn pipe(&mut self, stream: StreamId, direction: Direction) -> &mut Pipe {
        let stream = &mut self.streams[stream];
        match direction {
            Direction::Up => &mut stream.up,
            Direction::Down => &mut stream.down,
        }
    }
}

impl World {
    pub fn node(&self, process: Process) -> Node {
        match process {
            Process::Worker(worker) => self.workers[worker].node,
            Process::Coordinator(coordinator) => self.coordinators[coordinator].node,
        }
    }

    /// Whether what `from` says comes to `to` now: both are at work and the way is open.
    pub fn reaches(&self, from: Process, to: Process) -> bool {
        self.is_at_work(from)
            && self.is_at_work(to)
            && !self.network.is_cut(self.node(from), self.node(to))
    }

    pub fn latency(&mut self) -> Time {
        if self.now < self.network.slow_until && self.chance.happens(0.5) {
            return self.chance.milliseconds(200, 3_000);
        }
        if self.chance.happens(0.004 * self.roughness()) {
            return self.chance.milliseconds(500, 2_500);
        }
        self.chance.milliseconds(0, 5)
    }

    /// A worker asks for a stream to the coordinator of this place.
    pub fn open(&mut self, worker: WorkerId, place: usize) {
        let coordinator = self
            .coordinators
            .iter()
            .rposition(|coordinator| coordinator.place == place && coordinator.alive);
        let stream = self.network.streams.len();
        let (nowhere, target) = match coordinator {
            Some(coordinator) => (false, coordinator),
            None => (true, 0),
        };
        self.network.streams.push(Stream {
            worker,
            coordinator: target,
            up: Pipe::default(),
            down: Pipe::default(),
            answered: false,
        });
        self.workers[worker].stream = Some(stream);
        if nowhere {
            let at = self.now + self.latency();
            self.queue
                .push(at, Happening::OpenFails(stream, "connection refused"));
            return;
        }
        let (ours, theirs) = (self.workers[worker].node, self.coordinators[target].node);
        let cut = self.network.is_cut(ours, theirs) || self.network.is_cut(theirs, ours);
        let (patience, why) = if cut {
            (CONNECT, "connection timed out")
        } else {
            (OPEN, "no answer within 5 s")
        };
        if !cut {
            self.send(stream, Direction::Up, Packet::Open);
        }
        self.queue
            .push(self.now + patience, Happening::OpenFails(stream, why));
    }

    pub fn open_fails(&mut self, stream: StreamId, why: &'static str) {
        if std::mem::replace(&mut self.network.streams[stream].answered, true) {
            return;
        }
        self.send(stream, Direction::Up, Packet::End(""));
        let worker = self.network.streams[stream].worker;
        self.happen(Happening::SessionHears(worker, stream, Packet::End(why)));
    }

    pub fn send(&mut self, stream: StreamId, direction: Direction, packet: Packet) {
        let ready = self.now + self.latency();
        let pipe = self.network.pipe(stream, direction);
        if pipe.ended {
            return;
        }
        pipe.ended = matches!(packet, Packet::End(_));
        let ready = ready.max(pipe.last);
        pipe.last = ready;
        pipe.packets.push_back((ready, packet));
        self.queue.push(ready, Happening::Pump(stream, direction));
    }

    /// Hands over what has arrived.
    pub fn pump(&mut self, stream: StreamId, direction: Direction) {
        let (worker, coordinator) = {
            let stream = &self.network.streams[stream];
            (stream.worker, stream.coordinator)
        };
        let (ours, theirs) = (
            self.workers[worker].node,
            self.coordinators[coordinator].node,
        );
        let cut = match direction {
            Direction::Up => self.network.is_cut(ours, theirs),
            Direction::Down => self.network.is_cut(theirs, ours),
        };
        if cut {
            return;
        }
        loop {
            let now = self.now;
            let pipe = self.network.pipe(stream, direction);
            let Some((_, packet)) = pipe.packets.pop_front_if(|(ready, _)| *ready <= now) else {
                return;
            };
            self.happen(match direction {
                Direction::Up => Happening::CoordinatorHears(coordinator, stream, packet),
                Direction::Down => Happening::SessionHears(worker, stream, packet),
            });
        }
    }

    /// A way may be open again: what waits goes on after a while.
    pub fn heal(&mut self, cut: Option<u64>) {
        match cut {
            Some(cut) => drop(self.network.cuts.remove(&cut)),
            None => self.network.heal_all(),
        }
        for stream in 0..self.network.streams.len() {
            for direction in [Direction::Up, Direction::Down] {
                if !self.network.pipe(stream, direction).packets.is_empty() {
                    let at = self.now + self.chance.milliseconds(1, 600);
                    self.queue.push(at, Happening::Pump(stream, direction));
                }
            }
        }
    }

    /// The stream breaks: each end hears of it in its time, and some of what is under way is lost.
    pub fn break_stream(&mut self, stream: StreamId) {
        for direction in [Direction::Up, Direction::Down] {
            self.lose_tail(stream, direction);
            self.send(stream, direction, Packet::End("connection reset by peer"));
        }
    }

    /// What a process that died at once has left in its streams. `silent`: nobody is told.
    pub fn leave_streams(&mut self, process: Process, silent: bool, orderly: bool) {
        for stream in 0..self.network.streams.len() {
            let direction = match process {
                Process::Worker(worker) if self.network.streams[stream].worker == worker => {
                    Direction::Up
                }
                Process::Coordinator(coordinator)
                    if self.network.streams[stream].coordinator == coordinator =>
                {
                    Direction::Down
                }
                _ => continue,
            };
            if !orderly {
                self.lose_tail(stream, direction);
            }
            if silent {
                self.network.pipe(stream, direction).ended = true;
            } else {
                let why = if orderly {
                    ""
                } else {
                    "connection reset by peer"
                };
                self.send(stream, direction, Packet::End(why));
            }
        }
    }

    fn lose_tail(&mut self, stream: StreamId, direction: Direction) {
        let lose = self.chance.happens(0.5);
        let pipe = self.network.pipe(stream, direction);
        if lose && !pipe.ended && !pipe.packets.is_empty() {
            let keep = self
                .chance
                .below(self.network.pipe(stream, direction).packets.len() + 1);
            self.network.pipe(stream, direction).packets.truncate(keep);
        }
        let now = self.now;
        let pipe = self.network.pipe(stream, direction);
        pipe.last = pipe
            .packets
            .back()
            .map_or(now, |(ready, _)| *ready + MILLISECOND);
    }
}

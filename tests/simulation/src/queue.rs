//! Virtual time: what is to happen, in the order of its time, then of its being asked for.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;

use perennial_coordinator::machine::{Effect, Event};
use perennial_proto::v1::{CoordinatorMessage, WorkerMessage};
use perennial_session::{Command, Report};

use crate::faults::Fault;
use crate::mesh::Reduced;
use crate::training::Task;

/// Microseconds since the world began.
pub type Time = u64;
pub const MILLISECOND: Time = 1_000;
pub const SECOND: Time = 1_000_000;

pub type WorkerId = usize;
pub type CoordinatorId = usize;
pub type StreamId = usize;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    Worker(WorkerId),
    Coordinator(CoordinatorId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the coordinator.
    Up,
    /// To the worker.
    Down,
}

/// What goes through a stream.
#[derive(Debug, Clone)]
pub enum Packet {
    /// The worker asks for a stream.
    Open,
    Opened,
    Up(WorkerMessage),
    Down(CoordinatorMessage),
    /// The other end is gone; empty: it closed the stream properly.
    End(&'static str),
}

/// Something that happens at a moment.
#[derive(Debug, Clone)]
pub enum Happening {
    WorkerTick(WorkerId),
    CoordinatorTick(CoordinatorId),
    /// Packets of a stream may have arrived.
    Pump(StreamId, Direction),
    /// The stream was not open in time, or not at all.
    OpenFails(StreamId, &'static str),
    SessionHears(WorkerId, StreamId, Packet),
    CoordinatorHears(CoordinatorId, StreamId, Packet),
    /// A command comes to the training.
    Told(WorkerId, Box<Command>),
    /// A report comes to the session.
    Says(WorkerId, Box<Report>),
    /// The training has done what it had begun, unless it was told otherwise since.
    Done(WorkerId, u64, Task),
    MeshConnected(WorkerId, u64),
    MeshResult(WorkerId, u64, Rc<Reduced>),
    MeshLost {
        worker: WorkerId,
        generation: u64,
        rank: usize,
        silent: bool,
    },
    MeshWatch(u64),
    /// A request of a coordinator comes to the store.
    StoreTakes(CoordinatorId, Box<Effect>),
    StoreAnswers(CoordinatorId, usize, Option<Box<Event>>),
    /// The newest checkpoint is looked for, once the claim of a coordinator is in the log.
    StoreFindsNewest(CoordinatorId),
    /// Retention was found allowed a moment ago, up to this checkpoint.
    StorePrunes(CoordinatorId, u64),
    /// A part of a checkpoint comes to the store.
    PartTaken {
        worker: WorkerId,
        generation: u64,
        kind: &'static str,
        replica: Box<crate::job::Replica>,
    },
    Fault(Fault),
    StopAsked(CoordinatorId),
    Heal(u64),
    Resume(Process),
    Quicken(WorkerId),
    StartWorker,
    StartCoordinator {
        place: usize,
        standby: bool,
    },
    Supervise,
    Calm,
}

// === impl Happening ===

impl Happening {
    /// The process that has to be at work for it.
    pub fn process(&self) -> Option<Process> {
        match self {
            Self::WorkerTick(worker)
            | Self::SessionHears(worker, ..)
            | Self::Told(worker, _)
            | Self::Says(worker, _)
            | Self::Done(worker, ..)
            | Self::MeshConnected(worker, _)
            | Self::MeshResult(worker, ..)
            | Self::MeshLost { worker, .. } => Some(Process::Worker(*worker)),
            Self::CoordinatorTick(coordinator)
            | Self::CoordinatorHears(coordinator, ..)
            | Self::StopAsked(coordinator)
            | Self::StoreAnswers(coordinator, ..) => Some(Process::Coordinator(*coordinator)),
            _ => None,
        }
    }
}

#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<(Time, u64)>>,
    happenings: HashMap<u64, Happening>,
    asked: u64,
}

// === impl Queue ===

impl Queue {
    pub fn push(&mut self, at: Time, happening: Happening) {
        self.heap.push(Reverse((at, self.asked)));
        self.happenings.insert(self.asked, happening);
        self.asked += 1;
    }

    pub fn pop(&mut self) -> Option<(Time, Happening)> {
        let Reverse((at, number)) = self.heap.pop()?;
        Some((at, self.happenings.remove(&number)?))
    }
}

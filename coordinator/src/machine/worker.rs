//! A worker as the coordinator sees it.

use std::collections::HashMap;
use std::time::Duration;

use perennial_plan::{Cursor, Member};
use perennial_proto::v1;

use super::{ConnectionId, Machine};

/// The weight of the newest step in the smoothed time that a worker takes for a slot.
const SPEED_SMOOTHING: f64 = 0.2;

/// Where a worker is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Place {
    /// Not in the generation at hand: getting ready, or waiting.
    Pool,
    /// Still at work in a generation that is over; it was told to halt.
    Stray,
    /// Copying a replica, since when. Has caught up to this global step.
    Following {
        since: Duration,
        caught_up: Option<u64>,
    },
    /// A member, as far as is known at work.
    AtWork,
    /// A member that takes no further step in its generation.
    Halted(Standing),
    /// A member that has come to the job's end, or to a stop.
    Finished(Standing),
}

/// Where a replica stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Standing {
    /// None: the replica is not that of any cursor.
    pub cursor: Option<Cursor>,
    pub hash: u64,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub name: String,
    pub incarnation: u64,
    /// None: it is gone, or has not come back yet to the coordinator that took over.
    pub connection: Option<ConnectionId>,
    /// Its rank in the generation at hand; set by [`Machine::set_ranks`].
    pub rank: Option<usize>,
    /// A member of a generation that an earlier coordinator made, and not back yet.
    pub awaited: bool,
    pub hello: v1::Hello,
    pub ready: Option<v1::Ready>,
    pub place: Place,
    /// The generation whose start it was sent on the connection at hand; 0 for none.
    pub told: u64,
    /// In this generation and on this connection it was told that the job stops.
    pub told_to_stop: bool,
    /// It leaves at the next boundary.
    pub draining: bool,
    /// It is not needed any more, and leaves once nobody needs its replica.
    pub released: bool,
    /// It was told to leave.
    pub let_go: bool,
    /// Smoothed seconds for one slot.
    pub slot_seconds: Option<f64>,
    /// Where its time went, over all steps that were heard of, and the last of these with its generation.
    pub phases: v1::StepPhases,
    /// What its GPU held when it last said so.
    pub device_memory: Option<v1::DeviceMemory>,
    counted: (u64, u64),
    /// It is not asked to follow or to be a member before; others could not reach it.
    pub shunned_until: Duration,
    pub shunned_for: Duration,
    /// When it was told to halt and has not answered.
    pub halt_asked: Option<Duration>,
    /// Members that it could not reach in the generation at hand.
    pub accuses: Vec<String>,
}

// === impl Worker ===

impl Worker {
    pub fn new(name: String, connection: ConnectionId, hello: v1::Hello) -> Self {
        Self {
            name,
            incarnation: hello.incarnation,
            connection: Some(connection),
            rank: None,
            awaited: false,
            hello,
            ready: None,
            place: Place::Pool,
            told: 0,
            told_to_stop: false,
            draining: false,
            released: false,
            let_go: false,
            slot_seconds: None,
            phases: v1::StepPhases::default(),
            device_memory: None,
            counted: (0, 0),
            shunned_until: Duration::ZERO,
            shunned_for: Duration::ZERO,
            halt_asked: None,
            accuses: Vec::new(),
        }
    }

    /// A member of a generation in the log.
    pub fn absent(member: &Member) -> Self {
        Self {
            name: member.worker.clone(),
            incarnation: member.incarnation,
            connection: None,
            awaited: true,
            place: Place::AtWork,
            ..Self::new(String::new(), 0, v1::Hello::default())
        }
    }

    /// Whether it is there and knows its data.
    pub fn is_ready(&self) -> bool {
        self.connection.is_some() && self.ready.is_some()
    }

    /// Where its replica stands, if it takes no step now.
    pub fn standing(&self) -> Option<Standing> {
        match self.place {
            Place::Halted(standing) | Place::Finished(standing) => Some(standing),
            _ => None,
        }
    }

    /// Adds where the time of a step went, once however often it is told.
    pub fn count(&mut self, done: &v1::StepDone) {
        let at = (done.generation, done.global_step);
        let Some(phases) = done.phases.filter(|_| at > self.counted) else {
            return;
        };
        self.counted = at;
        let all = &mut self.phases;
        for (sum, seconds) in [
            (&mut all.data, phases.data),
            (&mut all.compute, phases.compute),
            (&mut all.reduce, phases.reduce),
            (&mut all.optimizer, phases.optimizer),
            (&mut all.checkpoint, phases.checkpoint),
        ] {
            if seconds.is_finite() && seconds > 0.0 {
                *sum += seconds;
            }
        }
        all.sent_bytes = all.sent_bytes.saturating_add(phases.sent_bytes);
    }

    /// Takes in how long it took for its `slots` of a step.
    pub fn measure(&mut self, slots: u32, seconds: f64) {
        if slots == 0 || !seconds.is_finite() || seconds <= 0.0 {
            return;
        }
        let newest = seconds / f64::from(slots);
        let before = self.slot_seconds.unwrap_or(newest);
        self.slot_seconds = Some(before + SPEED_SMOOTHING * (newest - before));
    }
}

// === impl Machine ===

impl Machine {
    pub(super) fn worker_status(&self, worker: &Worker) -> v1::WorkerStatus {
        let member = self
            .generation
            .as_ref()
            .and_then(|generation| generation.member(&worker.name));
        let state = match worker.place {
            _ if worker.connection.is_none() => "gone",
            _ if worker.draining || worker.released => "draining",
            Place::Pool if worker.ready.is_none() => "joining",
            Place::Pool | Place::Stray => "pool",
            Place::Following { .. } => "following",
            Place::AtWork => "member",
            Place::Halted(_) | Place::Finished(_) => "halted",
        };
        v1::WorkerStatus {
            worker: worker.name.clone(),
            state: state.into(),
            slots: member.map_or(0, |member| member.slots.len() as u32),
            speed: worker.slot_seconds.map_or(0.0, |seconds| 1.0 / seconds),
            phases: Some(worker.phases),
            device_memory: worker.connection.and(worker.device_memory),
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.workers.iter().position(|worker| worker.name == name)
    }

    /// A generation is at hand: finds every worker's place in it. Looked up once, for it is asked for
    /// with every message.
    pub(super) fn set_ranks(&mut self) {
        let members = self.generation.iter().flat_map(|at_hand| &at_hand.members);
        let ranks: HashMap<(&str, u64), usize> = members
            .enumerate()
            .map(|(rank, member)| ((member.worker.as_str(), member.incarnation), rank))
            .collect();
        for worker in &mut self.workers {
            worker.rank = ranks
                .get(&(worker.name.as_str(), worker.incarnation))
                .copied();
        }
    }

    pub(super) fn is_member(&self, worker: &Worker) -> bool {
        worker.rank.is_some()
    }

    /// The members of the generation at hand, by their places among the workers.
    pub(super) fn members(&self) -> Vec<usize> {
        let all = 0..self.workers.len();
        all.filter(|index| self.is_member(&self.workers[*index]))
            .collect()
    }
}

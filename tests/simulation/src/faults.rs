//! What goes wrong, and when: drawn from the seed before anything happens.

use perennial_coordinator::machine::Event;
use perennial_session::Report;

use crate::Loss;
use crate::chance::Chance;
use crate::network::Node;
use crate::queue::{CoordinatorId, Happening, Process, SECOND, Time, WorkerId};
use crate::worker::WorkerProcess;
use crate::world::World;

/// The kinds of faults and of wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The process is killed; its machine closes its connections.
    KillWorker,
    /// The machine is gone: nobody is told.
    LoseWorker,
    /// All workers are killed at once.
    KillAllWorkers,
    PauseWorker,
    SlowWorker,
    /// The process gets SIGTERM.
    TerminateWorker,
    Join,
    Scale,
    DrainRequest,
    KillCoordinator,
    PauseCoordinator,
    /// A standby takes over though the one that rules is well.
    FalseAlarm,
    /// A second coordinator is started by mistake.
    SecondCoordinator,
    /// Two machines do not hear each other, or one does not hear the other.
    CutPair,
    /// A machine is alone.
    CutOne,
    CutHalves,
    BreakStream,
    SlowNetwork,
    StoreOutage,
    StopRequest,
}

impl Fault {
    pub const ALL: [Self; 20] = [
        Self::KillWorker,
        Self::LoseWorker,
        Self::KillAllWorkers,
        Self::PauseWorker,
        Self::SlowWorker,
        Self::TerminateWorker,
        Self::Join,
        Self::Scale,
        Self::DrainRequest,
        Self::KillCoordinator,
        Self::PauseCoordinator,
        Self::FalseAlarm,
        Self::SecondCoordinator,
        Self::CutPair,
        Self::CutOne,
        Self::CutHalves,
        Self::BreakStream,
        Self::SlowNetwork,
        Self::StoreOutage,
        Self::StopRequest,
    ];

    fn draw(chance: &mut Chance) -> Self {
        loop {
            let fault = Self::ALL[chance.below(Self::ALL.len())];
            // The gravest ones are rarer.
            let rare = matches!(fault, Self::KillAllWorkers | Self::StopRequest);
            if !rare || chance.happens(0.3) {
                return fault;
            }
        }
    }
}

/// Faults by time, and when the last one has passed.
pub fn plan(chance: &mut Chance) -> (Vec<(Time, Fault)>, Time) {
    let count = [0, 1, 2, 3, 4, 6, 8, 12][chance.below(8)];
    let mut faults = Vec::new();
    let mut last = 0;
    for _ in 0..count {
        // Now and then several come at once.
        let at = match faults.last() {
            Some((at, _)) if chance.happens(0.25) => *at + chance.milliseconds(0, 400),
            _ => chance.seconds(0.2, 28.0),
        };
        last = last.max(at);
        faults.push((at, Fault::draw(chance)));
    }
    (faults, last + 13 * SECOND)
}

impl World {
    pub fn fault(&mut self, fault: Fault) {
        self.trace(|| format!("fault: {fault:?}"));
        if self.strike(fault) {
            self.stop.disturbed = self.now;
            *self.stats.faults.entry(fault).or_default() += 1;
        }
    }

    /// Whether it could happen.
    fn strike(&mut self, fault: Fault) -> bool {
        let workers: Vec<WorkerId> = (0..self.workers.len())
            .filter(|worker| self.workers[*worker].alive)
            .collect();
        let rulers: Vec<CoordinatorId> = (0..self.coordinators.len())
            .filter(|id| self.is_ruling(*id))
            .collect();
        let coordinators: Vec<CoordinatorId> = (0..self.coordinators.len())
            .filter(|id| self.coordinators[*id].alive)
            .collect();
        let worker = self.chance.choose(&workers);
        let ruler = self.chance.choose(&rulers);
        match (fault, worker, ruler) {
            (Fault::KillWorker | Fault::LoseWorker, Some(worker), _) => {
                self.kill_worker(worker, fault == Fault::LoseWorker);
            }
            (Fault::KillAllWorkers, Some(_), _) => {
                self.is_hurt(Loss::TooMany);
                for worker in workers {
                    self.kill_worker(worker, false);
                }
            }
            (Fault::PauseWorker, Some(worker), _) if !self.workers[worker].paused => {
                self.note_hurt(worker, Loss::Silent);
                self.workers[worker].paused = true;
                self.resume_later(Process::Worker(worker));
            }
            (Fault::SlowWorker, Some(worker), _) => {
                self.workers[worker].speed = self.chance.uniform(0.1, 0.6);
                let at = self.now + self.chance.seconds(2.0, 12.0);
                self.queue.push(at, Happening::Quicken(worker));
            }
            (Fault::TerminateWorker, Some(worker), _) => {
                self.workers[worker].leaving = true;
                self.report(worker, Report::Drain);
            }
            (Fault::Join, ..) => self.queue.push(self.now, Happening::StartWorker),
            (Fault::Scale, _, Some(ruler)) if !self.coordinators[ruler].paused => {
                let wanted = 1 + self.chance.below(4);
                self.trace(|| format!("scale to {wanted}"));
                self.wanted = wanted as u32;
                self.desired = wanted.max(self.job.spec.elastic.min_workers as usize);
                self.machine_event(ruler, Event::ScaleRequested(self.desired as u32));
            }
            (Fault::DrainRequest, Some(worker), Some(ruler))
                if !self.coordinators[ruler].paused =>
            {
                let name = self.workers[worker].session.worker().to_string();
                self.workers[worker].leaving = true;
                self.machine_event(ruler, Event::DrainRequested(name));
            }
            (Fault::KillCoordinator, _, Some(ruler)) => {
                let place = self.coordinators[ruler].place;
                self.coordinator_dies(ruler, false);
                let at = self.now + self.chance.seconds(0.3, 8.0);
                let standby = self.places > 1 && self.chance.happens(0.5);
                self.queue
                    .push(at, Happening::StartCoordinator { place, standby });
            }
            (Fault::PauseCoordinator, _, Some(ruler)) if !self.coordinators[ruler].paused => {
                self.coordinators[ruler].paused = true;
                self.resume_later(Process::Coordinator(ruler));
            }
            (Fault::FalseAlarm, ..) => {
                let standbys: Vec<CoordinatorId> = coordinators
                    .into_iter()
                    .filter(|id| !self.is_ruling(*id) && !self.coordinators[*id].paused)
                    .collect();
                match self.chance.choose(&standbys) {
                    Some(standby) => self.false_alarm(standby),
                    None => return false,
                }
            }
            (Fault::SecondCoordinator, ..) => {
                let free: Vec<usize> = (0..self.places)
                    .filter(|place| {
                        coordinators
                            .iter()
                            .all(|id| self.coordinators[*id].place != *place)
                    })
                    .collect();
                match self.chance.choose(&free) {
                    Some(place) => self.start_coordinator(place, false),
                    None => return false,
                }
            }
            (Fault::CutPair | Fault::CutOne | Fault::CutHalves, ..) => {
                let mut nodes: Vec<Node> = workers
                    .iter()
                    .map(|worker| self.workers[*worker].node)
                    .collect();
                nodes.extend(coordinators.iter().map(|id| self.coordinators[*id].node));
                nodes.dedup();
                return self.cut(fault, &nodes);
            }
            (Fault::BreakStream, Some(worker), _) => match self.workers[worker].stream {
                Some(stream) => self.break_stream(stream),
                None => return false,
            },
            (Fault::SlowNetwork, ..) => {
                self.network.slow_until = self.now + self.chance.seconds(1.0, 8.0);
            }
            (Fault::StoreOutage, ..) => {
                self.store.outage_until = self.now + self.chance.seconds(0.5, 10.0);
            }
            (Fault::StopRequest, _, Some(ruler)) if !self.coordinators[ruler].paused => {
                if self.chance.happens(0.5) {
                    self.ask_to_stop(ruler);
                } else {
                    self.stop.with_next_generation = true;
                }
            }
            _ => return false,
        }
        true
    }

    fn note_hurt(&mut self, worker: WorkerId, loss: Loss) {
        if self.watch.is_member(self.workers[worker].incarnation) {
            let left = |other: &&WorkerProcess| {
                let well = other.alive && !other.paused;
                well && self.watch.is_member(other.incarnation)
            };
            let left = self.workers.iter().filter(left).count().saturating_sub(1);
            let enough = left >= self.job.spec.elastic.min_workers as usize;
            self.is_hurt(if enough { loss } else { Loss::TooMany });
        }
    }

    fn kill_worker(&mut self, worker: WorkerId, silent: bool) {
        self.note_hurt(worker, if silent { Loss::Silent } else { Loss::Closed });
        self.worker_dies(worker, silent, false);
        let at = self.now + self.chance.seconds(0.3, 6.0);
        self.queue.push(at, Happening::StartWorker);
    }

    fn resume_later(&mut self, process: Process) {
        let at = self.now + self.chance.seconds(0.1, 12.0);
        self.queue.push(at, Happening::Resume(process));
    }

    fn cut(&mut self, fault: Fault, nodes: &[Node]) -> bool {
        let Some(one) = self.chance.choose(nodes) else {
            return false;
        };
        let side: Vec<Node> = match fault {
            Fault::CutHalves => {
                let mut side = Vec::new();
                for node in nodes {
                    if self.chance.happens(0.5) {
                        side.push(*node);
                    }
                }
                side
            }
            _ => vec![one],
        };
        let others: Vec<Node> = match fault {
            Fault::CutPair => self.chance.choose(nodes).into_iter().collect(),
            _ => nodes.to_vec(),
        };
        let one_way = self.chance.happens(0.3);
        let mut ways = Vec::new();
        for from in &side {
            for to in others.iter().filter(|to| !side.contains(to)) {
                ways.push((*from, *to));
                if !one_way {
                    ways.push((*to, *from));
                }
            }
        }
        if ways.is_empty() {
            return false;
        }
        self.trace(|| format!("cut: {ways:?}"));
        let cut = self.network.cut(ways);
        let at = self.now + self.chance.seconds(0.3, 12.0);
        self.queue.push(at, Happening::Heal(cut));
        true
    }
}

//! The world: everything there is, and what happens in it, one thing after the other.

use std::collections::BTreeMap;

use perennial_plan::Spec;
use perennial_plan::spec::EvaluateSpec;

use crate::chance::Chance;
use crate::coordinator::CoordinatorProcess;
use crate::faults::{Fault, plan};
use crate::job::Job;
use crate::mesh::Mesh;
use crate::network::Network;
use crate::queue::{Happening, Process, Queue, SECOND, Time};
use crate::stop::Stop;
use crate::store::Store;
use crate::watch::Watch;
use crate::worker::WorkerProcess;
use crate::{Failure, Options, Summary};

/// Once nothing goes wrong any more, the job has so long.
const PATIENCE: Time = 300 * SECOND;

pub struct World {
    pub now: Time,
    pub chance: Chance,
    pub queue: Queue,
    pub job: Job,
    pub network: Network,
    pub store: Store,
    pub workers: Vec<WorkerProcess>,
    pub coordinators: Vec<CoordinatorProcess>,
    pub meshes: BTreeMap<u64, Mesh>,
    pub watch: Watch,
    pub stats: Summary,
    /// Addresses at which coordinators may listen.
    pub places: usize,
    /// Workers that were asked for last.
    pub wanted: u32,
    /// Worker processes that somebody keeps alive.
    pub desired: usize,
    pub stop: Stop,
    pub calm: bool,
    seed: u64,
    trace: bool,
    broken: Option<Failure>,
}

// === impl World ===

impl World {
    pub fn new(seed: u64, options: &Options) -> Self {
        let mut chance = Chance::new(seed);
        let mut spec = Spec {
            name: "simulated".into(),
            ..Spec::default()
        };
        spec.data.dir = "nowhere".into();
        spec.train.epochs = 3;
        spec.train.batch_size = 10;
        spec.train.slots = 5;
        spec.checkpoint.every_steps = [0, 3, 4][chance.below(3)];
        spec.ema.decay = [0.0, 0.99][chance.below(2)];
        let workers = 2 + chance.below(3);
        spec.elastic.min_workers = if chance.happens(0.3) { 2 } else { 1 };
        if seed % 8 == 5 {
            spec.train.epochs = 1;
            spec.evaluate = Some(EvaluateSpec {
                weights_sha256: "0f".repeat(32),
                ..EvaluateSpec::default()
            });
        }
        let stop = Stop::new(seed % 8 == 3);
        if stop.only {
            spec.train.epochs = 100;
        }
        let places = 1 + chance.below(3);
        let mut world = Self {
            now: 0,
            queue: Queue::default(),
            job: Job::new(spec),
            network: Network::default(),
            store: Store::default(),
            workers: Vec::new(),
            coordinators: Vec::new(),
            meshes: BTreeMap::new(),
            watch: Watch::default(),
            stats: Summary::default(),
            places,
            wanted: workers as u32,
            desired: workers,
            stop,
            calm: false,
            seed,
            trace: options.trace,
            broken: None,
            chance,
        };
        world.begin(workers, options);
        world
    }

    fn begin(&mut self, workers: usize, options: &Options) {
        let (faults, calm) = if options.undisturbed {
            self.calm = true;
            (Vec::new(), 0)
        } else {
            plan(&mut self.chance)
        };
        for (at, fault) in faults {
            self.queue.push(at, Happening::Fault(fault));
        }
        if self.stop.only {
            let at = self.chance.seconds(0.2, 28.0);
            self.queue.push(at, Happening::Fault(Fault::StopRequest));
        }
        self.queue.push(calm, Happening::Calm);
        self.start_coordinator(0, false);
        for place in 1..self.places {
            if self.chance.happens(0.7) {
                let at = self.chance.seconds(0.5, 2.0);
                let standby = true;
                self.queue
                    .push(at, Happening::StartCoordinator { place, standby });
            }
        }
        for _ in 0..workers {
            let at = self.chance.milliseconds(0, 900);
            self.queue.push(at, Happening::StartWorker);
        }
        self.queue.push(5 * SECOND, Happening::Supervise);
    }

    /// How often small things go wrong: 1, or 0 once it is calm.
    pub fn roughness(&self) -> f64 {
        if self.calm { 0.0 } else { 1.0 }
    }

    pub fn trace(&self, line: impl FnOnce() -> String) {
        if self.trace {
            println!("{:10.6} {}", self.now as f64 / SECOND as f64, line());
        }
    }

    pub fn violated(&mut self, what: &'static str, message: String) {
        self.trace(|| format!("BROKEN {what}: {message}"));
        let (seed, at) = (self.seed, self.now as f64 / SECOND as f64);
        self.broken.get_or_insert(Failure {
            seed,
            at,
            what,
            message,
        });
    }

    pub fn is_at_work(&self, process: Process) -> bool {
        match process {
            Process::Worker(id) => self.workers[id].alive && !self.workers[id].paused,
            Process::Coordinator(id) => {
                self.coordinators[id].alive && !self.coordinators[id].paused
            }
        }
    }

    /// Until the job is done or a rule is broken.
    pub fn run(mut self) -> Result<Summary, Failure> {
        let mut end = None;
        while let Some((at, happening)) = self.queue.pop() {
            self.now = at;
            if matches!(happening, Happening::Calm) {
                end = Some(self.now + PATIENCE);
            }
            self.stats.events += 1;
            self.happen(happening);
            if let Some(failure) = self.broken.take() {
                return Err(failure);
            }
            if self.watch.finished && self.workers.iter().all(|worker| !worker.alive) {
                break;
            }
            if self.watch.finished && self.coordinators.iter().all(|process| !process.alive) {
                break;
            }
            if end.is_some_and(|end| self.now > end) {
                let steps = self.watch.steps;
                let total = self.job.total_steps;
                let status = self.what_the_ruler_says();
                self.violated(
                    "liveness",
                    format!("the job stands at step {steps} of {total} long after the last fault: {status}"),
                );
            }
        }
        self.stats.seconds = self.now as f64 / SECOND as f64;
        self.stats.seeds = 1;
        self.stats.recomputed = self.watch.recomputed();
        self.stats.generations = self.watch.generations();
        Ok(self.stats)
    }

    /// What needs a process that is paused waits for it; what needs one that is dead does not happen.
    pub fn happen(&mut self, happening: Happening) {
        match happening.process() {
            Some(Process::Worker(id)) => {
                let worker = &mut self.workers[id];
                if !worker.alive {
                    return;
                }
                if worker.paused {
                    return worker.inbox.push(happening);
                }
            }
            Some(Process::Coordinator(id)) => {
                let coordinator = &mut self.coordinators[id];
                if !coordinator.alive {
                    return;
                }
                if coordinator.paused {
                    return coordinator.inbox.push(happening);
                }
            }
            None => {}
        }
        self.take(happening);
    }

    fn take(&mut self, happening: Happening) {
        match happening {
            Happening::WorkerTick(worker) => self.worker_tick(worker),
            Happening::CoordinatorTick(id) => self.coordinator_tick(id),
            Happening::Pump(stream, direction) => self.pump(stream, direction),
            Happening::OpenFails(stream, why) => self.open_fails(stream, why),
            Happening::SessionHears(worker, stream, packet) => {
                self.trace(|| format!("worker process {worker} hears on {stream}: {packet:?}"));
                self.session_hears(worker, stream, packet);
            }
            Happening::CoordinatorHears(id, stream, packet) => {
                self.trace(|| format!("coordinator process {id} hears on {stream}: {packet:?}"));
                self.coordinator_hears(id, stream, packet);
            }
            Happening::Told(worker, command) => self.told(worker, *command),
            Happening::Says(worker, report) => {
                self.trace(|| format!("worker process {worker} says {report:?}"));
                let event = perennial_session::machine::Event::Report(*report);
                self.session_event(worker, event);
            }
            Happening::Done(worker, token, task) => self.done(worker, token, task),
            Happening::MeshConnected(worker, generation) => {
                self.mesh_connected(worker, generation);
            }
            Happening::MeshResult(worker, generation, reduced) => {
                if self.mesh_result_arrives(worker, generation, &reduced) {
                    self.mesh_result(worker, generation, &reduced);
                }
            }
            Happening::MeshLost {
                worker,
                generation,
                rank,
                silent,
            } => self.mesh_lost(worker, generation, rank, silent),
            Happening::MeshWatch(generation) => self.mesh_watch(generation),
            Happening::StoreTakes(id, effect) => self.store_takes(id, *effect),
            Happening::StoreFindsNewest(id) => self.store_finds_newest(id),
            Happening::StorePrunes(id, newest) => self.store_prunes(id, newest),
            Happening::StoreAnswers(id, lane, event) => {
                self.store_answers(id, lane, event.map(|event| *event));
            }
            Happening::PartTaken {
                worker,
                generation,
                kind,
                replica,
            } => self.part_taken(worker, generation, kind, &replica),
            Happening::Fault(fault) => self.fault(fault),
            Happening::StopAsked(id) => self.ask_to_stop(id),
            Happening::Heal(cut) => self.heal(Some(cut)),
            Happening::Resume(process) => self.resume(process),
            Happening::Quicken(worker) => {
                self.workers[worker].speed = 1.0;
                self.stop.disturbed = self.now;
            }
            Happening::StartWorker => {
                let alive = self.workers.iter().filter(|worker| worker.alive).count();
                if !self.is_over() && alive < 6 {
                    let node = (0..)
                        .find(|node| {
                            self.workers
                                .iter()
                                .all(|worker| !worker.alive || worker.node != *node)
                        })
                        .unwrap_or(0);
                    self.start_worker(node);
                }
            }
            Happening::StartCoordinator { place, standby } => {
                self.start_coordinator(place, standby);
            }
            Happening::Supervise => {
                self.supervise();
                let rules = self.coordinators.iter().any(|process| process.alive);
                let planned = self.coordinators.len() > 64;
                if self.calm && !rules && !planned && !self.is_over() {
                    self.start_coordinator(0, false);
                }
                self.ask_again();
            }
            Happening::Calm => self.calm_down(),
        }
    }

    /// The process goes on. What came meanwhile is taken in first, or its first tick comes before that.
    fn resume(&mut self, process: Process) {
        let mut waiting = match process {
            Process::Worker(id) => {
                self.workers[id].paused = false;
                std::mem::take(&mut self.workers[id].inbox)
            }
            Process::Coordinator(id) => {
                self.coordinators[id].paused = false;
                std::mem::take(&mut self.coordinators[id].inbox)
            }
        };
        let is_tick = |happening: &Happening| {
            matches!(
                happening,
                Happening::WorkerTick(_) | Happening::CoordinatorTick(_)
            )
        };
        if let Some(tick) = waiting.iter().position(is_tick) {
            let tick = waiting.remove(tick);
            // The server looks at its inbox first; the client as chance has it.
            let at = match process {
                Process::Worker(_) => self.chance.below(waiting.len() + 1),
                Process::Coordinator(_) => waiting.len(),
            };
            waiting.insert(at, tick);
        }
        self.trace(|| format!("{process:?} goes on"));
        self.stop.disturbed = self.now;
        for happening in waiting {
            self.happen(happening);
        }
    }

    /// From here on nothing goes wrong.
    fn calm_down(&mut self) {
        self.trace(|| "calm".into());
        self.calm = true;
        self.stop.disturbed = self.now;
        self.heal(None);
        self.network.slow_until = 0;
        self.store.outage_until = 0;
        for id in 0..self.workers.len() {
            self.workers[id].speed = 1.0;
            if self.workers[id].paused {
                self.resume(Process::Worker(id));
            }
        }
        for id in 0..self.coordinators.len() {
            if self.coordinators[id].paused {
                self.resume(Process::Coordinator(id));
            }
        }
    }
}

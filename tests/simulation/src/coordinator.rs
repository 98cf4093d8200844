//! A coordinator process: the real machine, and the shell around it as the server is; or a standby.

use std::collections::VecDeque;
use std::time::Duration;

use perennial_coordinator::log::LogEntry;
use perennial_coordinator::machine::{Config, Effect, Event, Machine, Outcome};
use perennial_proto::VERSION;
use perennial_proto::rules::{SILENCE, part_kinds};
use perennial_proto::v1::Refused;

use crate::network::Node;
use crate::queue::{CoordinatorId, Direction, Happening, Packet, Process, SECOND, StreamId, Time};
use crate::store::{Appended, answer};
use crate::worker::TICK;
use crate::world::World;

/// How often a coordinator looks whether another one wrote to the log.
const LOOK: Time = SECOND;

pub struct CoordinatorProcess {
    /// Which address it listens at.
    pub place: usize,
    pub node: Node,
    pub alive: bool,
    pub paused: bool,
    pub inbox: Vec<Happening>,
    /// None: a standby.
    machine: Option<Machine>,
    writer: String,
    born: Time,
    /// Of the ruling coordinator, as a standby.
    heard: Time,
    known: usize,
    looked: Time,
    /// What the store is to do: entries of the log, and everything else, each in its order.
    lanes: [VecDeque<Effect>; 2],
    busy: [bool; 2],
}

impl World {
    pub fn start_coordinator(&mut self, place: usize, standby: bool) {
        let taken = self
            .coordinators
            .iter()
            .any(|other| other.alive && other.place == place);
        if taken || self.is_over() {
            return;
        }
        let id = self.coordinators.len();
        self.coordinators.push(CoordinatorProcess {
            place,
            node: 100 + place,
            alive: true,
            paused: false,
            inbox: Vec::new(),
            machine: None,
            writer: format!("writer-{id}"),
            born: self.now,
            heard: self.now,
            known: self.store.log.len(),
            looked: self.now,
            lanes: Default::default(),
            busy: [false; 2],
        });
        self.trace(|| {
            format!("coordinator process {id} starts at place {place}, standby: {standby}")
        });
        if !standby {
            self.rule(id);
        }
        let at = self.now + self.chance.milliseconds(1, 100);
        self.queue.push(at, Happening::CoordinatorTick(id));
    }

    /// Reads the store and begins a term.
    fn rule(&mut self, id: CoordinatorId) {
        if self.now < self.store.outage_until {
            // It ends without the store, and is started again.
            let place = self.coordinators[id].place;
            self.coordinator_dies(id, false);
            let again = Happening::StartCoordinator {
                place,
                standby: false,
            };
            return self.queue.push(self.now + 2 * SECOND, again);
        }
        let process = &self.coordinators[id];
        let config = Config {
            spec: self.job.spec.clone(),
            wanted: self.wanted,
            version: VERSION.into(),
            store_url: "store".into(),
            address: format!("coordinator-{}", process.place),
            resume: self.store.newest(&self.job.spec, self.store.steps()),
            writer: process.writer.clone(),
            log: self.store.log.clone(),
            resume_command: "perennial train --resume".into(),
            shared: false,
        };
        self.stats.terms += 1;
        match Machine::new(config, Duration::from_micros(self.now - process.born)) {
            Ok((machine, effects)) => {
                self.coordinators[id].machine = Some(machine);
                self.machine_effects(id, effects);
            }
            Err(violation) => self.violated("LOG-1", violation.to_string()),
        }
    }

    pub fn is_ruling(&self, id: CoordinatorId) -> bool {
        let process = &self.coordinators[id];
        process.alive && process.machine.is_some()
    }

    /// For messages: the status of every coordinator that believes that it rules.
    pub fn what_the_ruler_says(&self) -> String {
        let alive = self.coordinators.iter().filter(|process| process.alive);
        let machines = alive.filter_map(|process| process.machine.as_ref());
        let sentences = machines.map(|machine| {
            let status = machine.status();
            let workers: Vec<String> = status
                .workers
                .iter()
                .map(|worker| format!("{} {}", worker.worker, worker.state))
                .collect();
            format!(
                "{} ({}) with {}",
                status.phase,
                status.reason,
                workers.join(", ")
            )
        });
        sentences.collect::<Vec<_>>().join("; ")
    }

    pub fn machine_event(&mut self, id: CoordinatorId, event: Event) {
        let process = &mut self.coordinators[id];
        let now = Duration::from_micros(self.now - process.born);
        if let Some(machine) = &mut process.machine {
            let effects = machine.handle(now, event);
            self.machine_effects(id, effects);
        }
    }

    fn machine_effects(&mut self, id: CoordinatorId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(connection, message) => {
                    let stream = connection as StreamId;
                    self.send(stream, Direction::Down, Packet::Down(message));
                }
                Effect::Close(connection) => {
                    self.send(connection as StreamId, Direction::Down, Packet::End(""));
                }
                Effect::Emit(event) => {
                    self.trace(|| format!("coordinator process {id}: {event:?}"));
                }
                Effect::End(outcome) => return self.coordinator_ends(id, outcome),
                Effect::AppendLog { .. } => self.ask_store(id, 0, effect),
                other => self.ask_store(id, 1, other),
            }
        }
    }

    fn coordinator_ends(&mut self, id: CoordinatorId, outcome: Outcome) {
        self.trace(|| format!("coordinator process {id} ends: {outcome:?}"));
        let place = self.coordinators[id].place;
        match outcome {
            Outcome::Finished { weights_sha256, .. } => self.saw_finish(&weights_sha256),
            Outcome::Stopped { .. } => {
                if !self.stop.was_asked() {
                    self.violated("outcome", "stopped though nobody asked for it".into());
                }
                let at = self.now + self.chance.seconds(0.5, 4.0);
                let again = Happening::StartCoordinator {
                    place,
                    standby: false,
                };
                self.queue.push(at, again);
            }
            Outcome::Deposed { .. } => {
                self.stats.deposed += 1;
                let at = self.now + self.chance.seconds(0.3, 5.0);
                let again = Happening::StartCoordinator {
                    place,
                    standby: true,
                };
                self.queue.push(at, again);
            }
            Outcome::Failed { message } => self.violated("outcome", message),
        }
        self.coordinator_dies(id, true);
    }

    /// `orderly`: what it has said leaves.
    pub fn coordinator_dies(&mut self, id: CoordinatorId, orderly: bool) {
        let process = &mut self.coordinators[id];
        if !process.alive {
            return;
        }
        process.alive = false;
        process.inbox.clear();
        process.lanes = Default::default();
        self.leave_streams(Process::Coordinator(id), false, orderly);
    }

    pub fn coordinator_hears(&mut self, id: CoordinatorId, stream: StreamId, packet: Packet) {
        if self.coordinators[id].machine.is_none() {
            if matches!(packet, Packet::Open) {
                let refused = Refused {
                    reason: "this coordinator is a standby".into(),
                    elsewhere: true,
                };
                self.send(stream, Direction::Down, Packet::Opened);
                self.send(stream, Direction::Down, Packet::Down(refused.into()));
                self.send(stream, Direction::Down, Packet::End(""));
            }
            return;
        }
        let connection = stream as u64;
        match packet {
            Packet::Open => {
                self.send(stream, Direction::Down, Packet::Opened);
                self.machine_event(id, Event::Connected(connection));
            }
            Packet::Up(message) => self.machine_event(id, Event::Message(connection, message)),
            Packet::End(why) => {
                self.machine_event(id, Event::Disconnected(connection, why.into()));
                self.send(stream, Direction::Down, Packet::End(""));
            }
            Packet::Opened | Packet::Down(_) => {}
        }
    }

    pub fn coordinator_tick(&mut self, id: CoordinatorId) {
        self.queue
            .push(self.now + TICK, Happening::CoordinatorTick(id));
        if self.coordinators[id].machine.is_none() {
            return self.stand_by(id);
        }
        if self.now - self.coordinators[id].looked >= LOOK && self.now >= self.store.outage_until {
            self.coordinators[id].looked = self.now;
            if let Some(machine) = &self.coordinators[id].machine {
                let (position, term) = (machine.log_position(), machine.term());
                if self.store.has_later_term(position, term) {
                    return self.machine_event(id, Event::LogRaceLost);
                }
            }
        }
        self.machine_event(id, Event::Tick);
        self.check_stop(id);
    }

    fn stand_by(&mut self, id: CoordinatorId) {
        let now = self.now;
        if now < self.store.outage_until {
            return;
        }
        if self.is_over() {
            return self.coordinator_dies(id, true);
        }
        let length = self.store.log.len();
        let process = &mut self.coordinators[id];
        if std::mem::replace(&mut process.known, length) != length {
            process.heard = now;
        }
        let ruler = self.store.ruler().map(str::to_string);
        let ours = Process::Coordinator(id);
        let alive = (0..self.coordinators.len()).any(|other| {
            let theirs = Process::Coordinator(other);
            let address = format!("coordinator-{}", self.coordinators[other].place);
            ruler.as_ref() == Some(&address)
                && self.is_ruling(other)
                && self.reaches(theirs, ours)
                && self.reaches(ours, theirs)
        });
        if alive {
            self.coordinators[id].heard = now;
        }
        if u128::from(now - self.coordinators[id].heard) > SILENCE.as_micros() {
            self.trace(|| format!("coordinator process {id} takes over"));
            self.rule(id);
        }
    }

    /// A standby believes that nobody rules.
    pub fn false_alarm(&mut self, id: CoordinatorId) {
        if self.coordinators[id].machine.is_none() {
            self.rule(id);
        }
    }

    // --- the store ----------------------------------------------------------------------------------

    fn ask_store(&mut self, id: CoordinatorId, lane: usize, effect: Effect) {
        if let Effect::AppendLog { record, .. } = &effect
            && matches!(record.entry, LogEntry::Generation { .. })
        {
            self.a_generation_goes_into_the_log(id);
        }
        self.coordinators[id].lanes[lane].push_back(effect);
        self.go_on_storing(id, lane);
    }

    fn go_on_storing(&mut self, id: CoordinatorId, lane: usize) {
        let process = &mut self.coordinators[id];
        if process.busy[lane] {
            return;
        }
        let Some(effect) = process.lanes[lane].pop_front() else {
            return;
        };
        process.busy[lane] = true;
        let at = self.now + self.store_latency();
        self.queue
            .push(at, Happening::StoreTakes(id, Box::new(effect)));
    }

    fn store_latency(&mut self) -> Time {
        if self.chance.happens(0.03 * self.roughness()) {
            self.chance.seconds(0.2, 4.0)
        } else {
            self.chance.milliseconds(2, 40)
        }
    }

    pub fn store_takes(&mut self, id: CoordinatorId, effect: Effect) {
        let rough = self.roughness();
        // What a dead process had asked for may arrive or not.
        if !self.coordinators[id].alive && self.chance.happens(0.5) {
            return;
        }
        let fails = self.now < self.store.outage_until || self.chance.happens(0.03 * rough);
        let lost = self.chance.happens(0.03 * rough);
        let (lane, event) = match effect {
            Effect::AppendLog { position, record } => {
                let event = if fails {
                    Event::LogFailed("503 slow down".into())
                } else {
                    let appended = self.store.append(position, (*record).clone());
                    match appended {
                        Appended::New => self.saw_entry(position, &record),
                        Appended::Hole => self.violated(
                            "LOG-1",
                            format!("an entry is appended at {position}, past the end of the log"),
                        ),
                        Appended::Again | Appended::Taken => {}
                    }
                    let claimed = matches!(record.entry, LogEntry::Term { .. })
                        && matches!(appended, Appended::New | Appended::Again);
                    if lost {
                        Event::LogFailed("the answer did not come".into())
                    } else if claimed {
                        let at = self.now + self.store_latency();
                        return self.queue.push(at, Happening::StoreFindsNewest(id));
                    } else {
                        answer(&appended)
                    }
                };
                (0, Some(event))
            }
            Effect::CommitCheckpoint(commit) => {
                let global_step = commit.global_step;
                let failed = |message: &str| Event::CheckpointNotCommitted {
                    global_step,
                    message: message.into(),
                };
                let event = if fails {
                    failed("503 slow down")
                } else {
                    let kinds = part_kinds(&self.job.spec);
                    let logged = self.watch.most_steps;
                    let committed = self.store.commit(&self.job, &commit, kinds, logged);
                    self.trace(|| format!("checkpoint {global_step} is committed: {committed:?}"));
                    match committed {
                        Err(message) => {
                            self.violated("CK-1", message);
                            return;
                        }
                        Ok(_) if lost => failed("the answer did not come"),
                        Ok(true) => Event::CheckpointCommitted { global_step },
                        Ok(false) => failed("a part is not there any more"),
                    }
                };
                (1, Some(event))
            }
            Effect::Prune {
                newest,
                term,
                position,
            } => {
                if !fails && !self.store.has_later_term(position, term) {
                    let at = self.now + self.store_latency();
                    return self.queue.push(at, Happening::StorePrunes(id, newest));
                }
                (1, None)
            }
            Effect::WriteReport(_) => {
                let event = if fails {
                    Event::ReportFailed("503 slow down".into())
                } else {
                    Event::ReportWritten("report.html".into())
                };
                (1, Some(event))
            }
            _ => (1, None),
        };
        self.store_answers_soon(id, lane, event);
    }

    pub fn store_finds_newest(&mut self, id: CoordinatorId) {
        let fails = self.now < self.store.outage_until;
        let event = if fails {
            Event::LogFailed("503 slow down".into())
        } else {
            let machine = self.coordinators[id].machine.as_ref();
            let claim = machine.map_or(0, Machine::log_position);
            let newest = self
                .store
                .newest(&self.job.spec, self.store.steps_before(claim));
            Event::Claimed(newest.map(Box::new))
        };
        self.store_answers_soon(id, 0, Some(event));
    }

    pub fn store_prunes(&mut self, id: CoordinatorId, newest: u64) {
        // What a dead process had asked for may arrive or not.
        if self.coordinators[id].alive || self.chance.happens(0.5) {
            self.store.prune(newest);
        }
        self.store_answers_soon(id, 1, None);
    }

    fn store_answers_soon(&mut self, id: CoordinatorId, lane: usize, event: Option<Event>) {
        let at = self.now + self.store_latency();
        self.queue
            .push(at, Happening::StoreAnswers(id, lane, event.map(Box::new)));
    }

    pub fn store_answers(&mut self, id: CoordinatorId, lane: usize, event: Option<Event>) {
        self.coordinators[id].busy[lane] = false;
        self.go_on_storing(id, lane);
        if let Some(event) = event {
            self.machine_event(id, event);
        }
    }
}

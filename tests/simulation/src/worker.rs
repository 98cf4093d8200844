//! A worker process: the real session, and the shell around it as the gRPC client is.

use std::time::Duration;

use perennial_proto::VERSION;
use perennial_proto::v1::{Hello, coordinator_message::Kind};
use perennial_session::machine::{Config, Effect, Event, Session};
use perennial_session::{Command, Report};

use crate::job::NUMERICS;
use crate::network::Node;
use crate::queue::{
    Direction, Happening, MILLISECOND, Packet, Process, SECOND, StreamId, Time, WorkerId,
};
use crate::training::Training;
use crate::world::World;

pub const TICK: Time = 100 * MILLISECOND;

pub struct WorkerProcess {
    pub session: Session,
    pub incarnation: u64,
    pub node: Node,
    pub alive: bool,
    pub paused: bool,
    pub inbox: Vec<Happening>,
    /// The stream it listens to.
    pub stream: Option<StreamId>,
    /// The stream on which what it says leaves.
    outgoing: Option<StreamId>,
    pub training: Training,
    pub speed: f64,
    /// It was asked to leave, so its end is no surprise.
    pub leaving: bool,
    born: Time,
    told_at: Time,
    said_at: Time,
}

impl World {
    pub fn start_worker(&mut self, node: Node) {
        let worker = self.workers.len();
        let incarnation = self.chance.next() | 1;
        let urls = (0..self.places)
            .map(|place| format!("coordinator-{place}"))
            .collect();
        let config = Config {
            urls,
            hello: Hello {
                version: VERSION.into(),
                numerics: NUMERICS.into(),
                threads: 1,
                worker: String::new(),
                incarnation,
                job: String::new(),
            },
            patience: Duration::from_secs(60),
        };
        let (session, effects) = Session::new(config, Duration::ZERO);
        self.workers.push(WorkerProcess {
            session,
            incarnation,
            node,
            alive: true,
            paused: false,
            inbox: Vec::new(),
            stream: None,
            outgoing: None,
            training: Training::default(),
            speed: 1.0,
            leaving: false,
            born: self.now,
            told_at: 0,
            said_at: 0,
        });
        self.trace(|| format!("worker process {worker} starts on machine {node}"));
        self.session_effects(worker, effects);
        let at = self.now + self.chance.milliseconds(1, 100);
        self.queue.push(at, Happening::WorkerTick(worker));
    }

    pub fn session_event(&mut self, worker: WorkerId, event: Event) {
        let process = &mut self.workers[worker];
        let now = Duration::from_micros(self.now - process.born);
        let stale = match &event {
            Event::Received(message) => {
                message.term < process.session.term()
                    && !matches!(message.kind, Some(Kind::Refused(_)))
            }
            _ => false,
        };
        let effects = process.session.handle(now, event);
        // It may leave because there is nobody else to let it go.
        let acts = effects.iter().any(|effect| match effect {
            Effect::Deliver(Command::Exit(_)) => false,
            effect => matches!(effect, Effect::Deliver(_)),
        });
        if stale && acts {
            let message =
                format!("worker process {worker} obeyed a coordinator whose term is over");
            return self.violated("GEN-2", message);
        }
        self.session_effects(worker, effects);
    }

    fn session_effects(&mut self, worker: WorkerId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Open { url } => {
                    self.hang_up(worker);
                    let place = url.trim_start_matches("coordinator-").parse();
                    self.open(worker, place.unwrap_or(0));
                    self.workers[worker].outgoing = self.workers[worker].stream;
                }
                Effect::Send(message) => {
                    if let Some(stream) = self.workers[worker].outgoing {
                        self.send(stream, Direction::Up, Packet::Up(message));
                    }
                }
                Effect::Close => self.hang_up(worker),
                Effect::Deliver(command) => {
                    self.saw_command(worker, &command);
                    let at = self.now + self.chance.milliseconds(0, 8);
                    let at = at.max(self.workers[worker].told_at);
                    self.workers[worker].told_at = at;
                    self.queue
                        .push(at, Happening::Told(worker, Box::new(command)));
                }
                Effect::Warn(message) => {
                    self.trace(|| format!("worker process {worker} warns: {message}"));
                }
            }
        }
    }

    fn hang_up(&mut self, worker: WorkerId) {
        let process = &mut self.workers[worker];
        process.stream = None;
        if let Some(stream) = process.outgoing.take() {
            self.send(stream, Direction::Up, Packet::End(""));
        }
    }

    pub fn session_hears(&mut self, worker: WorkerId, stream: StreamId, packet: Packet) {
        let ended = matches!(packet, Packet::End(_));
        if self.workers[worker].stream == Some(stream) {
            let answered = std::mem::replace(&mut self.network.streams[stream].answered, true);
            let event = match packet {
                Packet::Opened if answered => return,
                Packet::Opened => Event::Opened,
                Packet::Down(message) => Event::Received(message),
                Packet::End(why)
                    if !answered
                        || matches!(
                            why,
                            "connection refused" | "connection timed out" | "no answer within 5 s"
                        ) =>
                {
                    self.workers[worker].stream = None;
                    Event::OpenFailed(why.into())
                }
                Packet::End(why) => {
                    self.workers[worker].stream = None;
                    Event::Closed(why.into())
                }
                Packet::Open | Packet::Up(_) => return,
            };
            self.session_event(worker, event);
        }
        if ended {
            self.send(stream, Direction::Up, Packet::End(""));
        }
    }

    pub fn worker_tick(&mut self, worker: WorkerId) {
        self.queue
            .push(self.now + TICK, Happening::WorkerTick(worker));
        self.session_event(worker, Event::Tick);
    }

    /// The training says something; the session hears it in its time.
    pub fn report(&mut self, worker: WorkerId, report: Report) {
        let at = self.now + self.chance.milliseconds(0, 5);
        let at = at.max(self.workers[worker].said_at);
        self.workers[worker].said_at = at;
        self.queue
            .push(at, Happening::Says(worker, Box::new(report)));
    }

    /// The process ends by itself.
    pub fn worker_exits(&mut self, worker: WorkerId, end: Result<(), String>) {
        self.trace(|| format!("worker process {worker} ends: {end:?}"));
        if let Err(why) = &end {
            let patience =
                why.contains("lost the coordinator") || why.contains("no coordinator answers");
            if !patience {
                self.violated("exit", format!("worker process {worker} gave up: {why}"));
            }
        }
        self.worker_dies(worker, false, true);
    }

    /// `silent`: its machine is gone with it, and nobody is told.
    pub fn worker_dies(&mut self, worker: WorkerId, silent: bool, orderly: bool) {
        let process = &mut self.workers[worker];
        if !process.alive {
            return;
        }
        process.alive = false;
        process.inbox.clear();
        self.leave_streams(Process::Worker(worker), silent, orderly);
        self.leave_meshes(worker, silent);
    }

    /// Processes of a job that is not over are replaced until there are as many as wanted.
    pub fn supervise(&mut self) {
        let alive = self.workers.iter().filter(|worker| worker.alive).count();
        if !self.is_over() {
            for _ in alive..self.desired {
                let node = self.free_node();
                self.start_worker(node);
            }
        }
        self.queue.push(self.now + 2 * SECOND, Happening::Supervise);
    }

    fn free_node(&mut self) -> Node {
        let taken = |node: &Node| {
            self.workers
                .iter()
                .any(|worker| worker.alive && worker.node == *node)
        };
        (0..).find(|node| !taken(node)).unwrap_or(0)
    }

    fn saw_command(&mut self, worker: WorkerId, command: &Command) {
        if let Command::Train(assignment) = command {
            self.saw_assignment(worker, assignment);
        }
        self.trace(|| format!("worker process {worker} is told {}", brief(command)));
    }
}

fn brief(command: &Command) -> String {
    match command {
        Command::Prepare { .. } => "to prepare".into(),
        Command::Train(assignment) => {
            let generation = &assignment.generation;
            let members: Vec<String> = generation
                .members
                .iter()
                .map(|member| format!("{} {:?}", member.worker, member.slots))
                .collect();
            format!(
                "to train: generation {} from {} with {}, rank {}, checkpoint {:?}, source {:?}, evaluate {}, write {}, finish {}",
                generation.id,
                generation.start,
                members.join(", "),
                assignment.rank,
                generation.checkpoint,
                assignment.source.as_ref().map(|source| &source.worker),
                assignment.evaluate,
                assignment.checkpoint,
                assignment.finish,
            )
        }
        other => format!("{other:?}"),
    }
}

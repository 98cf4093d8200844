//! The task that owns the queue and every connection that has greeted.

use std::collections::HashMap;
use std::time::Duration;

use perennial_proto::VERSION;
use perennial_proto::v1::{self, StatusReply, WorkerMessage};
use perennial_store::StoreError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::Status;

use super::work::{look_for_rivals, rule_job, write_log};
use super::{Answer, Came, QueueConfig, QueueEvent, desk, refuse, views};
use crate::CoordinatorError;
use crate::log::LogRecord;
use crate::machine::{ConnectionId, Event as JobInput, Outcome};
use crate::queue::{Config, Effect, End, Event, Queue, QueueEntry, Refusal, Ticket};
use crate::server::service::{Incoming, Outgoing};
use crate::server::{LOOK, TICK, writer};

/// A job that runs.
struct Running {
    inbox: UnboundedSender<Incoming>,
    task: AbortHandle,
}

/// A worker that waits, and what it greeted with.
struct Waiting {
    greeting: WorkerMessage,
    way: Outgoing,
}

/// The task that owns the queue.
pub(super) struct Front<'a> {
    config: &'a QueueConfig,
    address: &'a str,
    inbox: &'a UnboundedSender<Came>,
    events: &'a UnboundedSender<QueueEvent>,
    clock: Instant,
    entries: Option<UnboundedSender<(u64, Box<LogRecord<QueueEntry>>)>>,
    jobs: HashMap<String, Running>,
    waiting: HashMap<ConnectionId, Waiting>,
    /// Whose the other workers are.
    owners: HashMap<ConnectionId, String>,
    answers: HashMap<Ticket, (String, Answer)>,
    tickets: Ticket,
}

// === impl Front ===

impl<'a> Front<'a> {
    pub fn new(
        config: &'a QueueConfig,
        address: &'a str,
        inbox: &'a UnboundedSender<Came>,
        events: &'a UnboundedSender<QueueEvent>,
    ) -> Self {
        Self {
            config,
            address,
            inbox,
            events,
            clock: Instant::now(),
            entries: None,
            jobs: HashMap::new(),
            waiting: HashMap::new(),
            owners: HashMap::new(),
            answers: HashMap::new(),
            tickets: 0,
        }
    }

    /// Rules until another coordinator does; what that means in words.
    pub async fn rule(
        &mut self,
        log: Vec<LogRecord<QueueEntry>>,
        incoming: &mut UnboundedReceiver<Came>,
    ) -> Result<String, CoordinatorError> {
        let config = Config {
            version: VERSION.into(),
            address: self.address.to_string(),
            writer: writer(),
            log,
        };
        let store = self.config.store.queue();
        let (entries, work) = unbounded_channel();
        tokio::spawn(write_log(store.clone(), work, self.inbox.clone()));
        self.entries = Some(entries);
        let (mut queue, effects) = Queue::new(config, Duration::ZERO).map_err(StoreError::from)?;
        if let Some(deposed) = self.carry_out(&queue, effects) {
            return Ok(deposed);
        }
        let mut ticks = tokio::time::interval(TICK);
        let mut looks = tokio::time::interval(LOOK);
        loop {
            let event = tokio::select! {
                biased;
                Some(came) = incoming.recv() => match self.receive(&queue, came) {
                    Some(event) => event,
                    None => continue,
                },
                _ = ticks.tick() => Event::Tick,
                _ = looks.tick() => {
                    look_for_rivals(store.clone(), &queue, self.inbox.clone());
                    continue;
                }
            };
            let effects = queue.handle(self.clock.elapsed(), event);
            if let Some(deposed) = self.carry_out(&queue, effects) {
                return Ok(deposed);
            }
        }
    }

    /// What the queue has to know of what came.
    fn receive(&mut self, queue: &Queue, came: Came) -> Option<Event> {
        match came {
            Came::Greeted(connection, greeting, way) => {
                let Some(v1::worker_message::Kind::Hello(hello)) = greeting.kind.clone() else {
                    refuse(
                        &way,
                        "the first message of a worker must be its greeting",
                        false,
                    );
                    return None;
                };
                let greeting = *greeting;
                self.waiting.insert(connection, Waiting { greeting, way });
                Some(Event::Arrived(connection, hello))
            }
            Came::Message(connection, message) => match self.owner(connection) {
                Some(job) => {
                    let event = JobInput::Message(connection, message);
                    let _ = job.inbox.send(Incoming::Event(event));
                    None
                }
                None => Some(Event::Heard(connection)),
            },
            Came::Gone(connection, cause) => {
                if let Some(job) = self.owner(connection) {
                    let event = JobInput::Disconnected(connection, cause);
                    let _ = job.inbox.send(Incoming::Event(event));
                }
                self.owners.remove(&connection);
                self.waiting.remove(&connection);
                Some(Event::Left(connection))
            }
            Came::Wish(wish, answer) => {
                self.tickets += 1;
                let about = desk::job_of(&wish).unwrap_or_default().to_string();
                self.answers.insert(self.tickets, (about, answer));
                Some(Event::Wish(self.tickets, wish))
            }
            Came::Status(job, answer) => {
                match self.jobs.get(&job) {
                    Some(running) => self.ask_status(running, answer),
                    None => drop(answer.send(views::status(queue, &job))),
                }
                None
            }
            Came::Jobs(answer) => {
                let jobs = views::jobs(queue, self.address, &self.config.store_url);
                tokio::spawn(views::complete(
                    jobs,
                    self.ask_all(Incoming::Status),
                    answer,
                ));
                None
            }
            Came::Metrics(answer) => {
                let own = views::metrics(queue);
                tokio::spawn(views::merge(own, self.ask_all(Incoming::Metrics), answer));
                None
            }
            Came::Event(event) => {
                if let Event::JobEnded(job, _) = &event {
                    self.jobs.remove(job);
                }
                Some(event)
            }
            Came::Told(job, event) => {
                let _ = self.events.send(QueueEvent::Job { job, event });
                None
            }
        }
    }

    fn owner(&self, connection: ConnectionId) -> Option<&Running> {
        self.jobs.get(self.owners.get(&connection)?)
    }

    fn ask_status(&self, running: &Running, answer: oneshot::Sender<Result<StatusReply, Status>>) {
        let (ask, reply) = oneshot::channel();
        let _ = running.inbox.send(Incoming::Status(ask));
        tokio::spawn(async move {
            let reply = reply.await;
            let _ =
                answer.send(reply.map_err(|_| Status::unavailable("the job does not rule yet")));
        });
    }

    /// Puts a question to every job that runs.
    fn ask_all<T>(
        &self,
        question: impl Fn(oneshot::Sender<T>) -> Incoming,
    ) -> Vec<(String, oneshot::Receiver<T>)> {
        let asked = self.jobs.iter().map(|(job, running)| {
            let (ask, reply) = oneshot::channel();
            let _ = running.inbox.send(question(ask));
            (job.clone(), reply)
        });
        asked.collect()
    }

    /// A sentence when another coordinator rules.
    fn carry_out(&mut self, queue: &Queue, effects: Vec<Effect>) -> Option<String> {
        for effect in effects {
            match effect {
                Effect::AppendLog { position, record } => {
                    if let Some(entries) = &self.entries {
                        let _ = entries.send((position, record));
                    }
                }
                Effect::Answer(ticket, granted) => {
                    if let Some((job, answer)) = self.answers.remove(&ticket) {
                        let _ = answer.send(match granted {
                            Ok(()) => Ok(queue.job(&job)),
                            Err(refusal) => Err(status_of(refusal)),
                        });
                    }
                }
                Effect::Wait(connection, worker) => self.say(connection, v1::Wait { worker }),
                Effect::Beat(connection) => self.say(connection, v1::Heartbeat {}),
                Effect::TurnAway(connection, reason) => {
                    if let Some(waiting) = self.waiting.remove(&connection) {
                        refuse(&waiting.way, &reason, true);
                    }
                }
                Effect::Refuse(connection, reason) => {
                    if let Some(waiting) = self.waiting.remove(&connection) {
                        refuse(&waiting.way, &reason, false);
                    }
                }
                Effect::Dismiss(connection) => {
                    let reason = "it was drained".to_string();
                    self.say(connection, v1::Release { reason });
                    self.waiting.remove(&connection);
                }
                Effect::Close(connection) => drop(self.waiting.remove(&connection)),
                Effect::Hand {
                    connection,
                    job,
                    worker,
                } => self.hand(connection, job, worker),
                Effect::Run {
                    job,
                    workers,
                    command,
                } => self.run(job, workers, command),
                Effect::Share { job, workers } => {
                    self.tell(&job, JobInput::ScaleRequested(workers));
                }
                Effect::Stop { job, now } => self.tell(
                    &job,
                    match now {
                        true => JobInput::BreakOffRequested,
                        false => JobInput::StopRequested,
                    },
                ),
                Effect::Drain { job, worker } => {
                    self.tell(&job, JobInput::DrainRequested(worker));
                }
                Effect::Emit(entry) => drop(self.events.send(QueueEvent::Queue(entry))),
                Effect::Warn(warning) => drop(self.events.send(QueueEvent::Warning { warning })),
                Effect::Deposed(message) => return Some(message),
            }
        }
        None
    }

    fn say(&self, connection: ConnectionId, message: impl Into<v1::CoordinatorMessage>) {
        if let Some(waiting) = self.waiting.get(&connection) {
            let _ = waiting.way.send(Ok(message.into()));
        }
    }

    fn tell(&self, job: &str, event: JobInput) {
        if let Some(job) = self.jobs.get(job) {
            let _ = job.inbox.send(Incoming::Event(event));
        }
    }

    /// The job's own shell has the way to the worker from now on. Where there is none any more the worker finds
    /// its stream closed, and comes again.
    fn hand(&mut self, connection: ConnectionId, job: String, worker: String) {
        let Some(Waiting { mut greeting, way }) = self.waiting.remove(&connection) else {
            return;
        };
        if let Some(v1::worker_message::Kind::Hello(hello)) = &mut greeting.kind {
            hello.worker = worker;
        }
        if let Some(running) = self.jobs.get(&job) {
            let _ = running.inbox.send(Incoming::Connected(connection, way));
            let greeting = JobInput::Message(connection, greeting);
            let _ = running.inbox.send(Incoming::Event(greeting));
            self.owners.insert(connection, job);
        }
    }

    /// Begins to rule a job in a task of its own.
    fn run(&mut self, job: String, workers: Option<u32>, command: Option<String>) {
        let (jobs_inbox, jobs_incoming) = unbounded_channel();
        if let Some(workers) = workers {
            let event = JobInput::ScaleRequested(workers);
            let _ = jobs_inbox.send(Incoming::Event(event));
        }
        let (config, address) = (self.config.clone(), self.address.to_string());
        let (inbox, own_inbox) = (self.inbox.clone(), jobs_inbox.clone());
        let name = job.clone();
        let task = tokio::spawn(async move {
            let ruled = rule_job(
                config,
                address,
                &name,
                command,
                (own_inbox, jobs_incoming),
                inbox.clone(),
            );
            let end = match ruled.await {
                Ok(Outcome::Finished { .. }) => End::Finished,
                Ok(Outcome::Stopped { .. }) => End::Stopped,
                Ok(Outcome::Failed { message } | Outcome::Deposed { message }) => {
                    End::Failed(message)
                }
                Err(CoordinatorError::AlreadyFinished { .. }) => End::Finished,
                Err(error) => End::Failed(error.to_string()),
            };
            let _ = inbox.send(Came::Event(Event::JobEnded(name, end)));
        });
        let running = Running {
            inbox: jobs_inbox,
            task: task.abort_handle(),
        };
        self.jobs.insert(job, running);
    }

    /// Lets go of everything: workers find their streams closed and look for the coordinator that rules.
    pub fn abandon(self) {
        for running in self.jobs.into_values() {
            running.task.abort();
        }
    }
}

fn status_of(refusal: Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::Unknown(_) => Status::not_found(message),
        Refusal::Exists(_) => Status::already_exists(message),
        Refusal::Impossible(_) => Status::failed_precondition(message),
    }
}

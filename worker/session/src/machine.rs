//! The session as a pure state machine: `handle(now, event) -> effects`. No socket, no clock.
//!
//! It keeps two lives apart. The link to a coordinator comes and goes: a lost one is looked for again, at
//! all known addresses in turn, and the next coordinator is told everything that is not acknowledged. The
//! activity (idle, following, training, halted, finished) goes on meanwhile.
//!
//! Invariants:
//! * GEN-2: a message of a lower term than the highest seen has no effect, nor has a start or a halt of a
//!   generation that is not the one at hand or a later one.
//! * A report is dropped only once a coordinator has said that it is durable.

use std::collections::VecDeque;
use std::time::Duration;

use perennial_plan::invariants::Invariant;
use perennial_plan::{Generation, Spec};
use perennial_proto::rules::{HEARTBEAT, LEASE, OWN_PAUSE, control};
use perennial_proto::v1::coordinator_message::Kind as FromCoordinator;
use perennial_proto::v1::{
    self, CoordinatorMessage, Drain, EpochDone, Finished, Heartbeat, Hello, Ready, Standing,
    WorkerMessage,
};

use super::{Assignment, Command, Report, Source};

/// How long a worker that never had a coordinator knocks.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// The pause between two attempts to connect.
pub const RETRY: Duration = Duration::from_millis(250);

/// What a session needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where coordinators may be, in the order in which they are tried.
    pub urls: Vec<String>,
    /// Without a name: a coordinator gives it.
    pub hello: Hello,
    /// How long a worker that had a coordinator goes on without one.
    pub patience: Duration,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The stream to the coordinator is open.
    Opened,
    /// The stream could not be opened.
    OpenFailed(String),
    Received(CoordinatorMessage),
    /// The stream ended; empty when the coordinator closed it properly.
    Closed(String),
    /// The training has something to say.
    Report(Report),
    /// Time passes.
    Tick,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Try to open the stream and answer with [`Event::Opened`] or [`Event::OpenFailed`]. What comes of
    /// an earlier stream later is not to be told.
    Open {
        url: String,
    },
    Send(WorkerMessage),
    /// End the stream, without an answer.
    Close,
    /// Tell the training.
    Deliver(Command),
    /// Something that people should know.
    Warn(String),
}

#[derive(Debug, Clone, PartialEq)]
enum Link {
    Connecting,
    /// Until this time no new attempt is made.
    Retrying(Duration),
    Greeted,
    Welcomed,
    Ended,
}

#[derive(Debug, Clone, PartialEq)]
enum Activity {
    /// Nothing, or a replica that nobody asked for.
    Idle,
    Following(Source),
    Training,
    Halted(Standing),
    Finished(Finished),
}

/// A worker's session with the coordinators of a job.
#[derive(Debug)]
pub struct Session {
    config: Config,
    url: usize,
    link: Link,
    activity: Activity,
    /// The highest term seen.
    term: u64,
    prepared: bool,
    ready: Option<Ready>,
    /// The last generation that this worker was in, or is in.
    generation: Option<Generation>,
    rank: usize,
    /// It broke: other members may have died before they reported.
    broken: bool,
    /// Told before the training of the generation at hand has halted.
    next: Option<Box<Assignment>>,
    /// Not yet acknowledged, in the order in which it was said.
    kept: VecDeque<Report>,
    caught_up: Option<v1::CaughtUp>,
    draining: bool,
    stale_reported: bool,
    last_failure: String,
    /// Since when there is no coordinator.
    alone_since: Duration,
    last_heard: Duration,
    last_sent: Duration,
    last_tick: Duration,
}

// === impl Session ===

impl Session {
    /// A session that is about to knock at the first address, and its first effect.
    pub fn new(config: Config, now: Duration) -> (Self, Vec<Effect>) {
        let session = Self {
            url: 0,
            link: Link::Connecting,
            activity: Activity::Idle,
            term: 0,
            prepared: false,
            ready: None,
            generation: None,
            rank: 0,
            broken: false,
            next: None,
            kept: VecDeque::new(),
            caught_up: None,
            draining: false,
            stale_reported: false,
            last_failure: String::new(),
            alone_since: now,
            last_heard: now,
            last_sent: now,
            last_tick: now,
            config,
        };
        let url = session.config.urls[0].clone();
        (session, vec![Effect::Open { url }])
    }

    /// Whether the session is over.
    pub fn is_ended(&self) -> bool {
        self.link == Link::Ended
    }

    /// The highest term seen.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The name that a coordinator gave; empty before.
    pub fn worker(&self) -> &str {
        &self.config.hello.worker
    }

    /// Takes in what happened at `now` (since any fixed moment) and says what to do.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.is_ended() {
            return effects;
        }
        match event {
            Event::Opened => {
                self.link = Link::Greeted;
                self.last_heard = now;
                let hello = self.config.hello.clone();
                self.send(now, hello.into(), &mut effects);
            }
            Event::OpenFailed(cause) => self.retry(now, cause, &mut effects),
            Event::Received(message) => {
                self.last_heard = now;
                self.received(now, message, &mut effects);
            }
            Event::Closed(cause) => {
                let cause = if cause.is_empty() {
                    "it closed the connection".to_string()
                } else {
                    format!("the connection broke: {cause}")
                };
                self.retry(now, cause, &mut effects);
            }
            Event::Report(report) => self.report(now, report, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
        }
        effects
    }

    // --- the link -----------------------------------------------------------------------------------

    /// No coordinator at the address at hand: the next one is tried after a pause.
    fn retry(&mut self, now: Duration, cause: String, effects: &mut Vec<Effect>) {
        if matches!(self.link, Link::Greeted | Link::Welcomed) {
            self.alone_since = now;
        }
        if self.draining && !matches!(self.activity, Activity::Training) {
            // Nobody is there to let it go, and nothing is lost by it.
            return self.exit(Ok(()), effects);
        }
        self.last_failure = cause;
        self.link = Link::Retrying(now + RETRY);
    }

    fn open(&mut self, effects: &mut Vec<Effect>) {
        self.url = (self.url + 1) % self.config.urls.len();
        self.link = Link::Connecting;
        effects.push(Effect::Open {
            url: self.config.urls[self.url].clone(),
        });
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if now - self.last_tick > OWN_PAUSE {
            self.last_heard = now;
        }
        self.last_tick = now;
        match self.link {
            Link::Ended | Link::Connecting => {}
            Link::Retrying(until) => {
                if now - self.alone_since >= self.patience() {
                    return self.give_up(effects);
                }
                if now >= until {
                    self.open(effects);
                }
            }
            Link::Greeted | Link::Welcomed if now - self.last_heard > LEASE => {
                let silence = (now - self.last_heard).as_secs_f64();
                effects.push(Effect::Close);
                self.retry(
                    now,
                    format!("it has been silent for {silence:.1} s"),
                    effects,
                );
            }
            Link::Greeted | Link::Welcomed if now - self.last_sent >= HEARTBEAT => {
                self.send(now, Heartbeat {}.into(), effects);
            }
            Link::Greeted | Link::Welcomed => {}
        }
    }

    fn patience(&self) -> Duration {
        if self.term == 0 {
            CONNECT_PATIENCE
        } else {
            self.config.patience
        }
    }

    fn give_up(&mut self, effects: &mut Vec<Effect>) {
        let seconds = self.patience().as_secs();
        let urls = self.config.urls.join("`, `");
        let cause = &self.last_failure;
        let error = if self.term == 0 {
            format!(
                "no coordinator answers at `{urls}` for {seconds} s ({cause}); check the address, or start `perennial coordinator` there"
            )
        } else {
            format!(
                "lost the coordinator at `{urls}` for {seconds} s: {cause}; start the job again with `--resume`"
            )
        };
        self.exit(Err(error), effects);
    }

    fn send(&mut self, now: Duration, message: WorkerMessage, effects: &mut Vec<Effect>) {
        self.last_sent = now;
        effects.push(Effect::Send(WorkerMessage {
            term: self.term,
            ..message
        }));
    }

    /// As [`Session::send`], where a coordinator knows this worker; else it hears it later.
    fn say(&mut self, now: Duration, message: WorkerMessage, effects: &mut Vec<Effect>) {
        if self.link == Link::Welcomed {
            self.send(now, message, effects);
        }
    }

    fn exit(&mut self, end: Result<(), String>, effects: &mut Vec<Effect>) {
        self.link = Link::Ended;
        effects.push(Effect::Deliver(Command::Exit(end)));
        effects.push(Effect::Close);
    }

    // --- what the coordinator says ------------------------------------------------------------------

    fn received(&mut self, now: Duration, message: CoordinatorMessage, effects: &mut Vec<Effect>) {
        if !matches!(self.link, Link::Greeted | Link::Welcomed) {
            return;
        }
        // A coordinator that does not rule has no term.
        let refuses = matches!(message.kind, Some(FromCoordinator::Refused(_)));
        if message.term < self.term && !refuses {
            return self.stale(now, message.term, effects);
        }
        self.term = self.term.max(message.term);
        let Some(kind) = message.kind else {
            effects.push(Effect::Close);
            let cause = "it sent a message of a kind that this version does not know";
            return self.retry(now, cause.into(), effects);
        };
        match kind {
            FromCoordinator::Heartbeat(_) => {}
            FromCoordinator::Refused(refused) if refused.elsewhere => {
                effects.push(Effect::Close);
                // It is no coordinator of this job now, so the time without one goes on.
                let alone_since = self.alone_since;
                self.retry(now, refused.reason, effects);
                self.alone_since = alone_since;
            }
            FromCoordinator::Refused(refused) => {
                let url = &self.config.urls[self.url];
                let error = format!(
                    "the coordinator at `{url}` refused this worker: {}",
                    refused.reason
                );
                self.exit(Err(error), effects);
            }
            FromCoordinator::End(end) if end.error.is_empty() => self.exit(Ok(()), effects),
            FromCoordinator::End(end) => self.exit(Err(end.error), effects),
            FromCoordinator::Release(_) => self.exit(Ok(()), effects),
            FromCoordinator::Welcome(welcome) => self.welcome(now, welcome, effects),
            _ if self.link != Link::Welcomed => {}
            FromCoordinator::Start(start) => self.start(now, start, effects),
            FromCoordinator::Follow(follow) => self.follow(follow, effects),
            FromCoordinator::Halt(halt) => self.halt(now, halt.generation, effects),
            FromCoordinator::Regroup(regroup) => {
                let checkpoint = if regroup.checkpoint {
                    control::CHECKPOINT
                } else {
                    0
                };
                self.raise(regroup.generation, control::REGROUP | checkpoint, effects);
            }
            FromCoordinator::Stop(_) => {
                let generation = self.generation_id();
                self.raise(generation, control::STOP, effects);
            }
            FromCoordinator::Ack(ack) => {
                self.forget(ack.global_step, ack.epochs, Some(ack.checkpoint));
            }
        }
    }

    fn stale(&mut self, now: Duration, term: u64, effects: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.stale_reported, true) {
            let (number, rule) = Invariant::Gen2.describe();
            effects.push(Effect::Warn(format!(
                "a coordinator of term {term} was ignored, because term {} rules ({number}: {rule})",
                self.term
            )));
        }
        effects.push(Effect::Close);
        self.retry(now, format!("its term {term} is over"), effects);
    }

    fn welcome(&mut self, now: Duration, welcome: v1::Welcome, effects: &mut Vec<Effect>) {
        let spec = match serde_json::from_str::<Spec>(&welcome.spec_json) {
            Ok(spec) => spec,
            Err(error) => {
                effects.push(Effect::Close);
                return self.retry(now, format!("its job cannot be read: {error}"), effects);
            }
        };
        self.link = Link::Welcomed;
        self.config.hello.worker = welcome.worker;
        if !std::mem::replace(&mut self.prepared, true) {
            effects.push(Effect::Deliver(Command::Prepare {
                spec: Box::new(spec),
                store_url: welcome.store_url,
            }));
        }
        self.say_everything(now, effects);
    }

    /// What a coordinator that may know nothing of this worker must hear, in this order.
    fn say_everything(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(ready) = self.ready.clone() else {
            return;
        };
        self.say(now, ready.into(), effects);
        for report in self.kept.clone() {
            self.say(now, report.into(), effects);
        }
        match self.activity.clone() {
            Activity::Idle => self.say(now, self.unoccupied().into(), effects),
            Activity::Following(_) => {
                self.say(now, self.unoccupied().into(), effects);
                if let Some(caught_up) = self.caught_up {
                    self.say(now, caught_up.into(), effects);
                }
            }
            Activity::Training => {
                let at_work = Standing {
                    generation: self.generation_id(),
                    ..Standing::default()
                };
                self.say(now, at_work.into(), effects);
            }
            Activity::Halted(standing) => self.say(now, standing.into(), effects),
            Activity::Finished(finished) => self.say(now, finished.into(), effects),
        }
        if self.draining {
            self.say(now, Drain {}.into(), effects);
        }
    }

    /// Where a worker stands that trains in no generation.
    fn unoccupied(&self) -> Standing {
        Standing {
            generation: self.generation_id(),
            halted: true,
            empty: true,
            ..Standing::default()
        }
    }

    fn generation_id(&self) -> u64 {
        self.generation
            .as_ref()
            .map_or(0, |generation| generation.id)
    }

    fn start(&mut self, now: Duration, start: v1::Start, effects: &mut Vec<Effect>) {
        let generation = match serde_json::from_str::<Generation>(&start.generation_json) {
            Ok(generation) => generation,
            Err(error) => {
                effects.push(Effect::Close);
                return self.retry(
                    now,
                    format!("its generation cannot be read: {error}"),
                    effects,
                );
            }
        };
        if generation.id <= self.generation_id() {
            return;
        }
        let own = |member: &perennial_plan::Member| {
            member.worker == self.config.hello.worker
                && member.incarnation == self.config.hello.incarnation
        };
        let Some(rank) = generation.members.iter().position(own) else {
            return;
        };
        let assignment = Box::new(Assignment {
            generation,
            rank,
            evaluate: start.evaluate,
            checkpoint: start.checkpoint,
            finish: start.finish,
            source: start.source.map(Source::from),
        });
        if self.activity == Activity::Training {
            // Its halt was never heard of, or has not been said yet.
            let generation = self.generation_id();
            self.next = Some(assignment);
            effects.push(Effect::Deliver(Command::Break { generation }));
        } else {
            self.train(assignment, effects);
        }
    }

    fn train(&mut self, assignment: Box<Assignment>, effects: &mut Vec<Effect>) {
        self.activity = Activity::Training;
        self.broken = false;
        self.caught_up = None;
        self.rank = assignment.rank;
        self.generation = Some(assignment.generation.clone());
        effects.push(Effect::Deliver(Command::Train(assignment)));
    }

    fn follow(&mut self, follow: v1::Follow, effects: &mut Vec<Effect>) {
        let Some(source) = follow.source.map(Source::from) else {
            return;
        };
        // A member has its replica; one that was left out has an old one.
        if self.activity == Activity::Training {
            return;
        }
        let already =
            matches!(&self.activity, Activity::Following(now) if now.address == source.address);
        if already {
            return;
        }
        self.activity = Activity::Following(source.clone());
        self.caught_up = None;
        effects.push(Effect::Deliver(Command::Follow(source)));
    }

    fn halt(&mut self, now: Duration, generation: u64, effects: &mut Vec<Effect>) {
        let ours = self.generation_id();
        // One of a later generation ends this one as well: its start was never heard of.
        if generation < ours {
            return;
        }
        match self.activity.clone() {
            Activity::Training => {
                let generation = ours;
                effects.push(Effect::Deliver(Command::Break { generation }));
            }
            Activity::Halted(standing) => self.say(now, standing.into(), effects),
            Activity::Finished(finished) => self.say(now, finished.into(), effects),
            Activity::Idle | Activity::Following(_) => {
                self.say(now, self.unoccupied().into(), effects);
            }
        }
    }

    fn raise(&mut self, generation: u64, flags: u64, effects: &mut Vec<Effect>) {
        if self.activity == Activity::Training && generation == self.generation_id() {
            effects.push(Effect::Deliver(Command::Raise { generation, flags }));
        }
    }

    // --- what the training says ---------------------------------------------------------------------

    fn report(&mut self, now: Duration, report: Report, effects: &mut Vec<Effect>) {
        match report {
            Report::Ready(ready) => {
                self.ready = Some(ready);
                return self.say_everything(now, effects);
            }
            Report::StepDone(_)
            | Report::EpochDone(_)
            | Report::PartWritten(_)
            | Report::CheckpointFailed(_) => {
                self.kept.push_back(report.clone());
                if !self.is_told(&report) {
                    return;
                }
            }
            Report::Finished(finished) => {
                if self.go_on(effects) {
                    return;
                }
                self.activity = Activity::Finished(finished);
                // The member that says them as a rule may be gone by now.
                self.say_kept_evaluations(now, effects);
                return self.say(now, finished.into(), effects);
            }
            Report::Halted(standing) => {
                if standing.generation != self.generation_id() {
                    return;
                }
                self.broken = true;
                if self.go_on(effects) {
                    return;
                }
                self.activity = Activity::Halted(standing.clone());
                self.say_kept_evaluations(now, effects);
                return self.say(now, standing.into(), effects);
            }
            Report::CaughtUp(caught_up) => {
                if !matches!(self.activity, Activity::Following(_)) {
                    return;
                }
                self.caught_up = Some(caught_up);
            }
            Report::FollowFailed(_) => {
                if !matches!(self.activity, Activity::Following(_)) {
                    return;
                }
                self.activity = Activity::Idle;
            }
            Report::Failed(failed) => {
                self.say(now, failed.clone().into(), effects);
                return self.exit(Err(failed.message), effects);
            }
            Report::Drain => {
                self.draining = true;
                let unknown = self.link != Link::Welcomed;
                if unknown && !matches!(self.activity, Activity::Training) {
                    return self.exit(Ok(()), effects);
                }
            }
        }
        self.say(now, report.into(), effects);
    }

    /// Begins the generation that was announced before this one had ended.
    fn go_on(&mut self, effects: &mut Vec<Effect>) -> bool {
        match self.next.take() {
            Some(assignment) => {
                self.train(assignment, effects);
                true
            }
            None => false,
        }
    }

    /// Whether the coordinator hears it now: evaluations of others than rank 0 only when the generation
    /// has broken.
    fn is_told(&self, report: &Report) -> bool {
        !matches!(report, Report::EpochDone(_)) || self.rank == 0 || self.broken
    }

    fn say_kept_evaluations(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let evaluations: Vec<EpochDone> = self
            .kept
            .iter()
            .filter_map(|report| match report {
                Report::EpochDone(done) => Some(done.clone()),
                _ => None,
            })
            .collect();
        for done in evaluations {
            self.say(now, done.into(), effects);
        }
    }

    /// Drops what is durable.
    fn forget(&mut self, global_step: u64, epochs: u32, checkpoint: Option<u64>) {
        self.kept.retain(|report| match report {
            Report::StepDone(done) => done.global_step > global_step,
            Report::EpochDone(done) => done.epoch >= epochs,
            // The next coordinator learns from its parts that the newest checkpoint exists.
            Report::PartWritten(part) => Some(part.global_step) >= checkpoint,
            Report::CheckpointFailed(failed) => Some(failed.global_step) > checkpoint,
            _ => false,
        });
    }
}

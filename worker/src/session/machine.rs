//! The session as a pure state machine: `handle(now, event) -> effects`. No socket, no clock.
//!
//! A session goes one way: it connects, is greeted, gets ready, runs, ends. What the coordinator
//! sends out of that order ends it, and so does silence beyond the lease: a worker that cannot hear
//! its coordinator does not go on by itself.

use std::time::Duration;

use perennial_plan::{Generation, Spec};
use perennial_proto::rules::{HEARTBEAT, LEASE, OWN_PAUSE};
use perennial_proto::v1::coordinator_message::Kind as FromCoordinator;
use perennial_proto::v1::{CoordinatorMessage, Heartbeat, Hello, WorkerMessage};

use super::{Report, SessionEvent};

/// How long a worker knocks at a coordinator that is not there yet.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// The pause between two attempts to connect.
const RETRY: Duration = Duration::from_millis(250);

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
    /// Try to open the stream and answer with [`Event::Opened`] or [`Event::OpenFailed`].
    Open,
    Send(WorkerMessage),
    /// Tell the training.
    Deliver(SessionEvent),
    /// End the stream. Nothing follows.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// Until this time no new attempt is made.
    Retrying(Duration),
    Greeted,
    Welcomed,
    Ready,
    Running,
    Ended,
}

/// A worker's session with the coordinator.
#[derive(Debug)]
pub struct Session {
    url: String,
    hello: Hello,
    phase: Phase,
    began: Duration,
    last_heard: Duration,
    last_sent: Duration,
    last_tick: Duration,
}

// === impl Session ===

impl Session {
    /// A session that is about to knock at `url`, and its first effect.
    pub fn new(url: String, hello: Hello, now: Duration) -> (Self, Vec<Effect>) {
        let session = Self {
            url,
            hello,
            phase: Phase::Connecting,
            began: now,
            last_heard: now,
            last_sent: now,
            last_tick: now,
        };
        (session, vec![Effect::Open])
    }

    /// Whether the session is over.
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Takes in what happened at `now` (since any fixed moment) and says what to do.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        if self.is_ended() {
            return Vec::new();
        }
        match event {
            Event::Opened => {
                self.phase = Phase::Greeted;
                self.last_heard = now;
                let hello = self.hello.clone();
                vec![self.send(now, hello.into())]
            }
            Event::OpenFailed(cause) => self.retry_or_give_up(now, &cause),
            Event::Received(message) => {
                self.last_heard = now;
                self.received(message)
            }
            Event::Closed(cause) if cause.is_empty() => {
                self.lose("it closed the connection".to_string())
            }
            Event::Closed(cause) => self.lose(format!("the connection broke: {cause}")),
            Event::Report(report) => self.report(now, report),
            Event::Tick => self.tick(now),
        }
    }

    fn retry_or_give_up(&mut self, now: Duration, cause: &str) -> Vec<Effect> {
        if now - self.began < CONNECT_PATIENCE {
            self.phase = Phase::Retrying(now + RETRY);
            return Vec::new();
        }
        let seconds = CONNECT_PATIENCE.as_secs();
        self.end(SessionEvent::Lost(format!(
            "no coordinator answers at `{}` for {seconds} s ({cause}); check the address, or start `perennial coordinator` there",
            self.url
        )))
    }

    fn received(&mut self, message: CoordinatorMessage) -> Vec<Effect> {
        let Some(kind) = message.kind else {
            return self.lose("it sent a message of a kind that this version does not know".into());
        };
        match (self.phase, kind) {
            (_, FromCoordinator::Heartbeat(_)) => Vec::new(),
            (_, FromCoordinator::Refused(refused)) => self.end(SessionEvent::End {
                error: Some(format!(
                    "the coordinator at `{}` refused this worker: {}",
                    self.url, refused.reason
                )),
            }),
            (_, FromCoordinator::End(end)) => self.end(SessionEvent::End {
                error: (!end.error.is_empty()).then_some(end.error),
            }),
            (Phase::Greeted, FromCoordinator::Welcome(welcome)) => {
                match serde_json::from_str::<Spec>(&welcome.spec_json) {
                    Ok(spec) => {
                        self.phase = Phase::Welcomed;
                        vec![Effect::Deliver(SessionEvent::Welcome {
                            worker: welcome.worker,
                            spec: Box::new(spec),
                            store_url: welcome.store_url,
                        })]
                    }
                    Err(error) => self.lose(format!("its job cannot be read: {error}")),
                }
            }
            (Phase::Ready, FromCoordinator::Start(start)) => {
                match serde_json::from_str::<Generation>(&start.generation_json) {
                    Ok(generation) => {
                        self.phase = Phase::Running;
                        vec![Effect::Deliver(SessionEvent::Start(generation))]
                    }
                    Err(error) => self.lose(format!("its generation cannot be read: {error}")),
                }
            }
            (Phase::Running, FromCoordinator::Stop(_)) => {
                vec![Effect::Deliver(SessionEvent::StopRequested)]
            }
            (phase, kind) => self.lose(format!("it sent {} in phase {phase:?}", name(&kind))),
        }
    }

    fn report(&mut self, now: Duration, report: Report) -> Vec<Effect> {
        if matches!(report, Report::Ready(_)) && self.phase == Phase::Welcomed {
            self.phase = Phase::Ready;
        }
        vec![self.send(now, report.into())]
    }

    fn tick(&mut self, now: Duration) -> Vec<Effect> {
        if now - self.last_tick > OWN_PAUSE {
            self.last_heard = now;
        }
        self.last_tick = now;
        match self.phase {
            Phase::Connecting => Vec::new(),
            Phase::Retrying(until) if now < until => Vec::new(),
            Phase::Retrying(_) => {
                self.phase = Phase::Connecting;
                vec![Effect::Open]
            }
            _ if now - self.last_heard > LEASE => {
                let silence = (now - self.last_heard).as_secs_f64();
                self.lose(format!("it has been silent for {silence:.1} s"))
            }
            _ if now - self.last_sent >= HEARTBEAT => vec![self.send(now, Heartbeat {}.into())],
            _ => Vec::new(),
        }
    }

    fn send(&mut self, now: Duration, message: WorkerMessage) -> Effect {
        self.last_sent = now;
        Effect::Send(message)
    }

    fn lose(&mut self, what: String) -> Vec<Effect> {
        self.end(SessionEvent::Lost(format!(
            "lost the coordinator at `{}`: {what}; start the job again with `--resume`",
            self.url
        )))
    }

    fn end(&mut self, event: SessionEvent) -> Vec<Effect> {
        self.phase = Phase::Ended;
        vec![Effect::Deliver(event), Effect::Close]
    }
}

fn name(kind: &FromCoordinator) -> &'static str {
    match kind {
        FromCoordinator::Welcome(_) => "Welcome",
        FromCoordinator::Refused(_) => "Refused",
        FromCoordinator::Start(_) => "Start",
        FromCoordinator::Stop(_) => "Stop",
        FromCoordinator::End(_) => "End",
        FromCoordinator::Heartbeat(_) => "Heartbeat",
    }
}

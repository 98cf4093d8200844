//! The link to a coordinator: found, kept alive, lost, looked for again.

use std::time::Duration;

use perennial_plan::random::mix;
use perennial_proto::rules::{HEARTBEAT, LEASE, OWN_PAUSE};
use perennial_proto::v1::{Heartbeat, WorkerMessage};

use super::{Activity, Command, Effect, Link, Session};

/// How long a worker that never had a coordinator knocks.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts at one address; twice as long after each one in vain, up to [`RETRY_AT_MOST`].
pub const RETRY: Duration = Duration::from_millis(250);
pub const RETRY_AT_MOST: Duration = Duration::from_secs(1);

impl Session {
    pub(super) fn opened(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.link != Link::Connecting {
            return;
        }
        self.link = Link::Greeted;
        self.last_heard = now;
        let hello = self.config.hello.clone();
        self.send(now, hello.into(), effects);
    }

    pub(super) fn closed(&mut self, now: Duration, cause: &str, effects: &mut Vec<Effect>) {
        if matches!(self.link, Link::Retrying(_)) {
            return;
        }
        let cause = if cause.is_empty() {
            "it closed the connection".to_string()
        } else {
            format!("the connection broke: {cause}")
        };
        self.retry(now, cause, effects);
    }

    /// No coordinator at the address at hand: the next one is tried after a pause.
    pub(super) fn retry(&mut self, now: Duration, cause: String, effects: &mut Vec<Effect>) {
        // Whoever answers and does not welcome is no coordinator of this job.
        if matches!(self.link, Link::Welcomed | Link::Waiting) {
            self.alone_since = now;
        }
        if self.draining && self.activity != Activity::Training {
            // Nobody is there to let it go, and nothing is lost by it.
            return self.exit(Ok(()), effects);
        }
        self.last_failure = cause;
        self.link = Link::Retrying(now + self.pause());
        self.attempts = self.attempts.saturating_add(1);
    }

    /// How long until the next attempt. A quarter of it is by chance, so that the workers of a large job
    /// do not all come at once.
    fn pause(&self) -> Duration {
        let addresses = self.config.urls.len() as u32;
        let rounds = (self.attempts / addresses).min(8);
        let round = (RETRY * 2u32.pow(rounds)).min(RETRY_AT_MOST);
        let word = mix(self.config.hello.incarnation ^ mix(u64::from(self.attempts)));
        let chance = (word >> 40) as f64 / (1u64 << 24) as f64;
        (round / addresses).mul_f64(1.0 - 0.25 * chance)
    }

    fn open(&mut self, effects: &mut Vec<Effect>) {
        self.url = (self.url + 1) % self.config.urls.len();
        self.link = Link::Connecting;
        effects.push(Effect::Open {
            url: self.config.urls[self.url].clone(),
        });
    }

    pub(super) fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let pause = now - self.last_tick;
        if pause > OWN_PAUSE {
            // A process that did not run heard nobody, and looked for nobody.
            self.last_heard = now;
            self.alone_since = (self.alone_since + pause).min(now);
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
            Link::Greeted | Link::Waiting | Link::Welcomed if now - self.last_heard > LEASE => {
                let silence = (now - self.last_heard).as_secs_f64();
                self.leave(now, format!("it was silent for {silence:.1} s"), effects);
            }
            Link::Greeted | Link::Waiting | Link::Welcomed if now - self.last_sent >= HEARTBEAT => {
                self.send(now, Heartbeat {}.into(), effects);
            }
            Link::Greeted | Link::Waiting | Link::Welcomed => {}
        }
    }

    /// This is no coordinator to go on with: the next one is looked for.
    pub(super) fn leave(&mut self, now: Duration, why: String, effects: &mut Vec<Effect>) {
        effects.push(Effect::Close);
        self.retry(now, why, effects);
    }

    fn patience(&self) -> Duration {
        if self.prepared || self.pooled {
            self.config.patience
        } else {
            CONNECT_PATIENCE
        }
    }

    fn give_up(&mut self, effects: &mut Vec<Effect>) {
        let seconds = self.patience().as_secs();
        let urls = self.config.urls.join("`, `");
        let cause = &self.last_failure;
        let error = if self.prepared {
            format!(
                "lost the coordinator at `{urls}` for {seconds} s: {cause}; start the job again with `--resume`"
            )
        } else if self.pooled {
            format!(
                "lost the coordinator of the queue at `{urls}` for {seconds} s: {cause}; start this worker again once it is back"
            )
        } else {
            format!(
                "no coordinator answers at `{urls}` for {seconds} s ({cause}); check the address, or start `perennial coordinator` there"
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
    pub(super) fn say(
        &mut self,
        now: Duration,
        message: impl Into<WorkerMessage>,
        effects: &mut Vec<Effect>,
    ) {
        if self.link == Link::Welcomed {
            self.send(now, message.into(), effects);
        }
    }

    /// The worker's time with this job is over: from a pool it came, to the pool it goes back.
    pub(super) fn part(&mut self, end: Result<(), String>, effects: &mut Vec<Effect>) {
        if !self.pooled || self.draining {
            return self.exit(end, effects);
        }
        self.link = Link::Ended;
        let worker = self.config.hello.worker.clone();
        effects.push(Effect::Deliver(Command::Return { worker, end }));
        effects.push(Effect::Close);
    }

    pub(super) fn exit(&mut self, end: Result<(), String>, effects: &mut Vec<Effect>) {
        self.link = Link::Ended;
        effects.push(Effect::Deliver(Command::Exit(end)));
        effects.push(Effect::Close);
    }
}

//! What the coordinator says.

use std::time::Duration;

use perennial_plan::Spec;
use perennial_plan::invariants::Invariant;
use perennial_proto::rules::control;
use perennial_proto::v1::coordinator_message::Kind;
use perennial_proto::v1::{self, CoordinatorMessage};

use super::{Activity, Announced, Assignment, Command, Effect, Link, Report, Session, Source};

impl Session {
    pub(super) fn received(
        &mut self,
        now: Duration,
        message: CoordinatorMessage,
        effects: &mut Vec<Effect>,
    ) {
        if !matches!(self.link, Link::Greeted | Link::Waiting | Link::Welcomed) {
            return;
        }
        self.last_heard = now;
        // A coordinator that does not rule has no term, and a pool has none of a job.
        let elsewhere = match &message.kind {
            Some(Kind::Refused(refused)) => refused.elsewhere,
            Some(Kind::Wait(_)) => true,
            _ => false,
        };
        if message.term < self.term && !elsewhere {
            return self.stale(now, message.term, effects);
        }
        self.term = self.term.max(message.term);
        let Some(kind) = message.kind else {
            let why = "it sent a message of a kind that this version does not know";
            return self.leave(now, why.into(), effects);
        };
        match kind {
            Kind::Heartbeat(_) => {}
            Kind::Refused(refused) if refused.elsewhere => {
                self.leave(now, refused.reason, effects);
            }
            Kind::Refused(refused) => {
                let url = &self.config.urls[self.url];
                let error = format!(
                    "the coordinator at `{url}` refused this worker: {}",
                    refused.reason
                );
                self.part(Err(error), effects);
            }
            Kind::End(end) if end.error.is_empty() => self.part(Ok(()), effects),
            Kind::End(end) => self.part(Err(end.error), effects),
            // From the pool itself it is let go for good.
            Kind::Release(_) if self.link == Link::Waiting => self.exit(Ok(()), effects),
            Kind::Release(_) => self.part(Ok(()), effects),
            Kind::Welcome(welcome) if self.link != Link::Welcomed => {
                self.welcome(now, welcome, effects);
            }
            Kind::Wait(wait) => self.wait(wait, effects),
            _ if self.link != Link::Welcomed => {}
            Kind::Welcome(_) => {}
            Kind::Start(start) => self.start(now, start, effects),
            Kind::Follow(follow) => self.follow(now, follow, effects),
            Kind::Halt(halt) => self.halt(now, halt.generation, effects),
            Kind::Regroup(regroup) => {
                let checkpoint = u64::from(regroup.checkpoint) * control::CHECKPOINT;
                self.raise(regroup.generation, control::REGROUP | checkpoint, effects);
            }
            Kind::Stop(_) => {
                let next = self.next.as_ref();
                let newest = next.map(|next| next.assignment.generation.id);
                self.raise(newest.unwrap_or(self.generation), control::STOP, effects);
            }
            Kind::Ack(ack) => self.forget(&ack),
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
        self.leave(now, format!("its term {term} is over"), effects);
    }

    /// The worker is in the pool. If it has a job, that one does not run.
    fn wait(&mut self, wait: v1::Wait, effects: &mut Vec<Effect>) {
        self.pooled = true;
        if self.prepared {
            return self.part(Ok(()), effects);
        }
        self.link = Link::Waiting;
        self.attempts = 0;
        self.config.hello.worker = wait.worker;
    }

    fn welcome(&mut self, now: Duration, welcome: v1::Welcome, effects: &mut Vec<Effect>) {
        let spec = match serde_json::from_str::<Spec>(&welcome.spec_json) {
            Ok(spec) => spec,
            Err(error) => {
                let why = format!("its job cannot be read: {error}");
                return self.leave(now, why, effects);
            }
        };
        self.link = Link::Welcomed;
        self.attempts = 0;
        self.config.hello.worker = welcome.worker;
        self.config.hello.job = spec.name.clone();
        if std::mem::replace(&mut self.prepared, true) {
            self.say_everything(now, effects);
        } else {
            effects.push(Effect::Deliver(Command::Prepare {
                spec: Box::new(spec),
                store_url: welcome.store_url,
            }));
        }
    }

    // --- generations --------------------------------------------------------------------------------

    fn start(&mut self, now: Duration, start: v1::Start, effects: &mut Vec<Effect>) {
        let generation = match start.decode_generation() {
            Ok(generation) => generation,
            Err(error) => {
                let why = format!("its generation cannot be read: {error}");
                return self.leave(now, why, effects);
            }
        };
        let next = self.next.as_ref();
        let newest = next.map_or(self.generation, |next| next.assignment.generation.id);
        if generation.id <= newest {
            return;
        }
        let hello = &self.config.hello;
        let Some(rank) = generation.members.iter().position(|member| {
            member.worker == hello.worker && member.incarnation == hello.incarnation
        }) else {
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
            let generation = self.generation;
            self.next = Some(Announced {
                assignment,
                flags: 0,
                halt: false,
            });
            effects.push(Effect::Deliver(Command::Break { generation }));
        } else {
            self.train(assignment, effects);
        }
    }

    fn train(&mut self, assignment: Box<Assignment>, effects: &mut Vec<Effect>) {
        self.activity = Activity::Training;
        self.caught_up = None;
        self.rank = assignment.rank;
        self.generation = assignment.generation.id;
        // Before its first step everything is in the log; a checkpoint may still lack its parts.
        self.kept.retain(|report| {
            matches!(report, Report::PartWritten(_) | Report::CheckpointFailed(_))
        });
        effects.push(Effect::Deliver(Command::Train(assignment)));
    }

    /// Begins the generation that was announced before this one had ended.
    pub(super) fn go_on(&mut self, effects: &mut Vec<Effect>) -> bool {
        let Some(next) = self.next.take() else {
            return false;
        };
        self.train(next.assignment, effects);
        let (generation, flags) = (self.generation, next.flags);
        if flags != 0 {
            effects.push(Effect::Deliver(Command::Raise { generation, flags }));
        }
        if next.halt {
            effects.push(Effect::Deliver(Command::Break { generation }));
        }
        true
    }

    fn follow(&mut self, now: Duration, follow: v1::Follow, effects: &mut Vec<Effect>) {
        let Some(source) = follow.source.map(Source::from) else {
            return;
        };
        // A member has its replica; one that was left out has an old one.
        if self.activity == Activity::Training {
            return;
        }
        if matches!(&self.activity, Activity::Following(old) if old.address == source.address) {
            if let Some(caught_up) = self.caught_up {
                self.say(now, caught_up, effects);
            }
            return;
        }
        self.activity = Activity::Following(source.clone());
        self.caught_up = None;
        effects.push(Effect::Deliver(Command::Follow(source)));
    }

    /// A halt of a later generation, whose start was never heard of, is one of all before it.
    fn halt(&mut self, now: Duration, generation: u64, effects: &mut Vec<Effect>) {
        if generation < self.generation {
            return;
        }
        if let Some(next) = &mut self.next {
            next.halt |= next.assignment.generation.id == generation;
        }
        if self.activity == Activity::Training {
            let generation = self.generation;
            effects.push(Effect::Deliver(Command::Break { generation }));
        } else {
            self.say_standing(now, effects);
        }
    }

    fn raise(&mut self, generation: u64, flags: u64, effects: &mut Vec<Effect>) {
        if let Some(next) = &mut self.next
            && next.assignment.generation.id == generation
        {
            next.flags |= flags;
        } else if self.activity == Activity::Training && generation == self.generation {
            effects.push(Effect::Deliver(Command::Raise { generation, flags }));
        }
    }
}

//! One session and everything around it made up: two addresses, a coordinator's words, a training's words.

mod chance;
mod fencing;
mod link;
mod orders;
mod pool;
mod reports;

use std::time::Duration;

use perennial_plan::{Cursor, Generation, Member, Spec};
use perennial_proto::v1::worker_message::Kind;
use perennial_proto::v1::{
    CoordinatorMessage, EpochDone, Finished, Halt, Heartbeat, Hello, PartWritten, Ready, Standing,
    Start, StepDone, Welcome,
};

use super::{Config, Effect, Event, Session};
use crate::{Command, Report};

const A: &str = "http://a:7400";
const B: &str = "http://b:7400";
const OWN: u64 = 77;

/// A session in virtual time, with the term of the coordinator that it hears.
struct Bench {
    session: Session,
    now: Duration,
    term: u64,
}

// === impl Bench ===

impl Bench {
    /// Knocks at the first address.
    fn knocking() -> Self {
        let config = Config {
            urls: vec![A.into(), B.into()],
            hello: Hello {
                version: "1".into(),
                incarnation: OWN,
                ..Hello::default()
            },
            patience: Duration::from_secs(60),
        };
        let (session, effects) = Session::new(config, Duration::ZERO);
        assert_eq!(effects, [Effect::Open { url: A.into() }]);
        Self {
            session,
            now: Duration::ZERO,
            term: 1,
        }
    }

    /// Has greeted.
    fn greeted() -> Self {
        let mut bench = Self::knocking();
        assert_eq!(bench.event(Event::Opened).len(), 1);
        bench
    }

    /// In the pool of the coordinator of term 1, with a replica of nothing.
    fn ready() -> Self {
        let mut bench = Self::greeted();
        assert_eq!(told(&bench.hears(welcome())).len(), 1);
        assert_eq!(
            said(&bench.says(Report::Ready(Ready::default()))),
            [Kind::Ready(Ready::default())]
        );
        bench
    }

    /// At work in generation 1, with this rank of 3.
    fn training(rank: usize) -> Self {
        let mut bench = Self::ready();
        let effects = bench.hears(start(1, rank));
        assert!(matches!(told(&effects)[..], [Command::Train(_)]));
        bench
    }

    /// Stands after the first three steps.
    fn halted() -> Self {
        let mut bench = Self::training(1);
        bench.hears(Halt { generation: 1 });
        assert_eq!(said(&bench.says(Report::Halted(standing(1)))).len(), 1);
        bench
    }

    fn event(&mut self, event: Event) -> Vec<Effect> {
        self.session.handle(self.now, event)
    }

    /// From the coordinator, with its term.
    fn hears(&mut self, message: impl Into<CoordinatorMessage>) -> Vec<Effect> {
        let message = CoordinatorMessage {
            term: self.term,
            ..message.into()
        };
        self.event(Event::Received(message))
    }

    /// From the training.
    fn says(&mut self, report: Report) -> Vec<Effect> {
        self.event(Event::Report(report))
    }

    /// Lets time pass, ten ticks a second; what came of it.
    fn pass(&mut self, seconds: f64) -> Vec<Effect> {
        let until = self.now + Duration::from_secs_f64(seconds);
        let mut effects = Vec::new();
        while self.now < until {
            self.now += Duration::from_millis(100);
            effects.extend(self.event(Event::Tick));
        }
        effects
    }

    /// The same with a coordinator that shows that it lives.
    fn pass_in_company(&mut self, seconds: f64) {
        let until = self.now + Duration::from_secs_f64(seconds);
        while self.now < until {
            self.pass(1.0);
            assert_eq!(self.hears(Heartbeat {}), []);
        }
    }

    /// The connection breaks, and one to the next address is opened and greeted.
    fn moves_on(&mut self) -> Vec<Effect> {
        assert_eq!(self.event(Event::Closed("reset".into())), []);
        let opened = self.pass(1.0);
        assert!(matches!(opened[..], [Effect::Open { .. }]), "{opened:?}");
        self.event(Event::Opened)
    }

    /// The same, and that coordinator welcomes it; what the worker says to it then.
    fn returns(&mut self) -> Vec<Kind> {
        self.moves_on();
        said(&self.hears(welcome()))
    }
}

/// Messages, without heartbeats.
fn said(effects: &[Effect]) -> Vec<Kind> {
    let kinds = effects.iter().filter_map(|effect| match effect {
        Effect::Send(message) => message.kind.clone(),
        _ => None,
    });
    kinds
        .filter(|kind| !matches!(kind, Kind::Heartbeat(_)))
        .collect()
}

fn told(effects: &[Effect]) -> Vec<&Command> {
    let commands = effects.iter().filter_map(|effect| match effect {
        Effect::Deliver(command) => Some(command),
        _ => None,
    });
    commands.collect()
}

/// How the session ended, which it must have.
fn exit(effects: &[Effect]) -> Result<(), String> {
    assert_eq!(effects.last(), Some(&Effect::Close));
    match told(effects)[..] {
        [Command::Exit(end)] => end.clone(),
        _ => panic!("no exit: {effects:?}"),
    }
}

fn welcome() -> Welcome {
    Welcome {
        worker: "w1".into(),
        spec_json: serde_json::to_string(&Spec::default()).unwrap(),
        store_url: "store".into(),
    }
}

/// Generation `id` of three members, in which the worker of the bench has this rank.
fn generation(id: u64, rank: usize) -> Generation {
    let member = |place: usize| Member {
        worker: if place == rank {
            "w1".into()
        } else {
            format!("other{place}")
        },
        incarnation: OWN,
        address: format!("host:{place}"),
        slots: place as u32..place as u32 + 1,
    };
    Generation {
        id,
        members: (0..3).map(member).collect(),
        start: Cursor::default(),
        checkpoint: None,
    }
}

fn start(id: u64, rank: usize) -> Start {
    Start::new(&generation(id, rank))
}

fn standing(generation: u64) -> Standing {
    Standing {
        generation,
        step: 3,
        replica_hash: 9,
        halted: true,
        ..Standing::default()
    }
}

/// The step after which so many are applied.
fn step(global_step: u64) -> StepDone {
    StepDone {
        generation: 1,
        global_step,
        ..StepDone::default()
    }
}

fn epoch(epoch: u32) -> EpochDone {
    EpochDone {
        generation: 1,
        epoch,
        ..EpochDone::default()
    }
}

fn part(global_step: u64) -> PartWritten {
    PartWritten {
        generation: 1,
        global_step,
        ..PartWritten::default()
    }
}

fn finished() -> Finished {
    Finished {
        generation: 1,
        epoch: 2,
        ..Finished::default()
    }
}

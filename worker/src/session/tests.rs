use std::time::Duration;

use perennial_plan::{Cursor, Generation, Spec};
use perennial_proto::v1::{
    CoordinatorMessage, End, Heartbeat, Hello, Ready, Refused, Start, StepDone, Stop, Welcome,
};

use super::machine::{Effect, Event, Session};
use super::{Report, SessionEvent};

const URL: &str = "http://host:7400";

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn welcome() -> CoordinatorMessage {
    Welcome {
        worker: "w1".into(),
        spec_json: serde_json::to_string(&Spec::default()).unwrap(),
        store_url: "store".into(),
    }
    .into()
}

fn start() -> CoordinatorMessage {
    let generation = Generation::deal(
        1,
        vec![("w1".into(), "host:1".into())],
        4,
        Cursor::default(),
        None,
    );
    Start {
        generation_json: serde_json::to_string(&generation).unwrap(),
    }
    .into()
}

/// A session after the first `steps` of: opened, welcomed, ready, started.
fn session(steps: usize) -> Session {
    let (mut session, effects) = Session::new(URL.into(), Hello::default(), Duration::ZERO);
    assert_eq!(effects, [Effect::Open]);
    let events = [
        Event::Opened,
        Event::Received(welcome()),
        Event::Report(Report::Ready(Ready::default())),
        Event::Received(start()),
    ];
    for event in events.into_iter().take(steps) {
        assert_eq!(session.handle(Duration::ZERO, event).len(), 1);
    }
    session
}

fn delivered(effects: &[Effect]) -> &SessionEvent {
    match effects {
        [Effect::Deliver(event), ..] => event,
        other => panic!("nothing was delivered: {other:?}"),
    }
}

fn lost(effects: &[Effect]) -> &str {
    assert_eq!(effects.last(), Some(&Effect::Close));
    match delivered(effects) {
        SessionEvent::Lost(why) => why,
        other => panic!("not lost: {other:?}"),
    }
}

#[test]
fn a_session_greets_is_welcomed_gets_ready_runs_and_ends() {
    let (mut session, _) = Session::new(
        URL.into(),
        Hello {
            version: "1".into(),
            ..Hello::default()
        },
        Duration::ZERO,
    );
    let now = seconds(1.0);
    let greeting = Hello {
        version: "1".into(),
        ..Hello::default()
    };
    assert_eq!(
        session.handle(now, Event::Opened),
        [Effect::Send(greeting.into())]
    );
    let effects = session.handle(now, Event::Received(welcome()));
    assert_eq!(
        delivered(&effects),
        &SessionEvent::Welcome {
            worker: "w1".into(),
            spec: Box::default(),
            store_url: "store".into()
        }
    );
    let ready = Ready {
        train_samples: 7,
        ..Ready::default()
    };
    assert_eq!(
        session.handle(now, Event::Report(Report::Ready(ready.clone()))),
        [Effect::Send(ready.into())]
    );
    let effects = session.handle(now, Event::Received(start()));
    assert!(matches!(delivered(&effects), SessionEvent::Start(generation) if generation.id == 1));
    let step = StepDone {
        step: 3,
        ..StepDone::default()
    };
    assert_eq!(
        session.handle(now, Event::Report(Report::StepDone(step))),
        [Effect::Send(step.into())]
    );
    let effects = session.handle(now, Event::Received(Stop {}.into()));
    assert_eq!(delivered(&effects), &SessionEvent::StopRequested);
    let end = End {
        error: String::new(),
    };
    assert_eq!(
        session.handle(now, Event::Received(end.into())),
        [
            Effect::Deliver(SessionEvent::End { error: None }),
            Effect::Close
        ]
    );
    assert!(session.is_ended());
}

#[test]
fn a_worker_may_start_before_its_coordinator() {
    let mut session = session(0);
    let refused = || Event::OpenFailed("connection refused".into());
    assert_eq!(session.handle(seconds(0.1), refused()), []);
    assert_eq!(session.handle(seconds(0.2), Event::Tick), []);
    assert_eq!(session.handle(seconds(0.4), Event::Tick), [Effect::Open]);
    assert_eq!(
        session.handle(seconds(0.5), Event::Tick),
        [],
        "one attempt at a time"
    );
    assert_eq!(session.handle(seconds(9.9), refused()), []);
    assert_eq!(session.handle(seconds(10.2), Event::Tick), [Effect::Open]);
    let effects = session.handle(seconds(10.3), refused());
    let why = lost(&effects);
    assert!(
        why.starts_with(
            "no coordinator answers at `http://host:7400` for 10 s (connection refused); "
        ),
        "{why}"
    );
    assert_eq!(session.handle(seconds(99.0), Event::Tick), []);
}

#[test]
fn in_every_phase_a_closed_stream_is_a_lost_coordinator() {
    for steps in 1..=4 {
        let effects = session(steps).handle(seconds(1.0), Event::Closed("reset".into()));
        assert_eq!(
            lost(&effects),
            "lost the coordinator at `http://host:7400`: the connection broke: reset; start the job again with `--resume`"
        );
        let effects = session(steps).handle(seconds(1.0), Event::Closed(String::new()));
        assert!(lost(&effects).contains("it closed the connection"));
    }
}

/// Ticks ten times a second until `until`; returns what the last tick did.
fn pass_until(session: &mut Session, now: &mut f64, until: f64) -> Vec<Effect> {
    let mut effects = Vec::new();
    while *now < until {
        *now += 0.1;
        effects = session.handle(seconds(*now), Event::Tick);
    }
    effects
}

#[test]
fn in_every_phase_silence_beyond_the_lease_is_a_lost_coordinator_and_heartbeats_hold_it() {
    for steps in 1..=4 {
        let (mut session, mut now) = (session(steps), 0.0);
        pass_until(&mut session, &mut now, 4.45);
        let heard = Event::Received(Heartbeat {}.into());
        assert_eq!(session.handle(seconds(4.5), heard), []);
        pass_until(&mut session, &mut now, 9.45);
        assert!(!session.is_ended());
        let effects = pass_until(&mut session, &mut now, 9.55);
        assert!(
            lost(&effects).contains("it has been silent for 5.1 s"),
            "{effects:?}"
        );
    }
}

#[test]
fn a_worker_that_was_paused_itself_does_not_blame_the_coordinator() {
    let (mut session, mut now) = (session(4), 0.0);
    pass_until(&mut session, &mut now, 1.0);
    session.handle(seconds(60.0), Event::Tick);
    assert!(!session.is_ended());
    let end = End {
        error: "worker `w1` has been silent for 5.1 s".into(),
    };
    let effects = session.handle(seconds(60.0), Event::Received(end.into()));
    assert!(matches!(
        delivered(&effects),
        SessionEvent::End { error: Some(_) }
    ));
}

#[test]
fn a_heartbeat_goes_out_only_after_a_second_without_another_message() {
    let mut session = session(4);
    session.handle(
        seconds(0.9),
        Event::Report(Report::StepDone(StepDone::default())),
    );
    assert_eq!(session.handle(seconds(1.5), Event::Tick), []);
    assert_eq!(
        session.handle(seconds(1.9), Event::Tick),
        [Effect::Send(Heartbeat {}.into())]
    );
}

#[test]
fn in_every_phase_a_refusal_and_an_end_with_an_error_reach_the_training() {
    for steps in 1..=4 {
        let refused = Refused {
            reason: "job has its 2 workers".into(),
        };
        let effects = session(steps).handle(seconds(1.0), Event::Received(refused.into()));
        let expected =
            "the coordinator at `http://host:7400` refused this worker: job has its 2 workers";
        assert_eq!(
            delivered(&effects),
            &SessionEvent::End {
                error: Some(expected.into())
            }
        );
        let end = End {
            error: "worker `w2` is gone".into(),
        };
        let effects = session(steps).handle(seconds(1.0), Event::Received(end.into()));
        assert_eq!(
            delivered(&effects),
            &SessionEvent::End {
                error: Some("worker `w2` is gone".into())
            }
        );
    }
}

#[test]
fn what_comes_out_of_order_ends_the_session_and_says_so() {
    for (steps, message, said) in [
        (1, start(), "it sent Start in phase Greeted"),
        (2, start(), "it sent Start in phase Welcomed"),
        (2, welcome(), "it sent Welcome in phase Welcomed"),
        (3, Stop {}.into(), "it sent Stop in phase Ready"),
        (4, start(), "it sent Start in phase Running"),
    ] {
        let effects = session(steps).handle(seconds(1.0), Event::Received(message));
        assert!(lost(&effects).contains(said), "{effects:?}");
    }
}

#[test]
fn what_cannot_be_read_ends_the_session() {
    let welcome = Welcome {
        spec_json: r#"{"nmae": 1}"#.into(),
        ..Welcome::default()
    };
    let effects = session(1).handle(seconds(1.0), Event::Received(welcome.into()));
    assert!(lost(&effects).contains("its job cannot be read: unknown field `nmae`"));
    let start = Start {
        generation_json: "{".into(),
    };
    let effects = session(3).handle(seconds(1.0), Event::Received(start.into()));
    assert!(lost(&effects).contains("its generation cannot be read"));
    let effects = session(3).handle(
        seconds(1.0),
        Event::Received(CoordinatorMessage { kind: None }),
    );
    assert!(lost(&effects).contains("does not know"));
}

#[test]
fn nothing_moves_a_session_that_has_ended() {
    let mut session = session(4);
    session.handle(seconds(1.0), Event::Closed(String::new()));
    for event in [
        Event::Opened,
        Event::Received(welcome()),
        Event::Report(Report::failed("late")),
        Event::Closed("again".into()),
        Event::Tick,
    ] {
        assert_eq!(session.handle(seconds(60.0), event), []);
    }
}

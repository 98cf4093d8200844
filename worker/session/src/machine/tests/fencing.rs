use perennial_proto::rules::HEARTBEAT;
use perennial_proto::v1::{
    Ack, End, Follow, Heartbeat, Refused, Regroup, Release, Source, Stop, WorkerMessage,
};

use super::*;

/// Everything that a coordinator can say to a member of generation 1 that would have an effect.
fn orders() -> Vec<CoordinatorMessage> {
    vec![
        start(2, 0).into(),
        Halt { generation: 1 }.into(),
        Regroup {
            generation: 1,
            checkpoint: false,
        }
        .into(),
        Follow {
            source: Some(Source::default()),
        }
        .into(),
        Ack {
            global_step: 100,
            ..Ack::default()
        }
        .into(),
        Stop {}.into(),
        End::default().into(),
        Release::default().into(),
        Refused::default().into(),
        Heartbeat {}.into(),
    ]
}

fn terms(effects: &[Effect]) -> Vec<u64> {
    let terms = effects.iter().filter_map(|effect| match effect {
        Effect::Send(message) => Some(message.term),
        _ => None,
    });
    terms.collect()
}

#[test]
fn the_highest_term_seen_is_in_every_message() {
    let mut bench = Bench::knocking();
    assert_eq!(terms(&bench.event(Event::Opened)), [0]);
    bench.term = 4;
    bench.hears(welcome());
    assert_eq!(terms(&bench.says(Report::Ready(Ready::default()))), [4]);
    bench.term = 6;
    bench.hears(Heartbeat {});
    assert_eq!(terms(&bench.pass(HEARTBEAT.as_secs_f64())), [6]);
    assert_eq!(terms(&bench.moves_on()), [6], "a greeting too");
    assert_eq!(bench.session.term(), 6);
}

#[test]
fn nothing_that_a_coordinator_of_a_lower_term_says_has_an_effect() {
    for message in orders() {
        let mut bench = Bench::training(0);
        bench.says(Report::StepDone(step(1)));
        bench.term = 5;
        bench.hears(Heartbeat {});
        bench.term = 4;
        let effects = bench.hears(message.clone());
        assert!(told(&effects).is_empty(), "{message:?}: {effects:?}");
        assert_eq!(effects.last(), Some(&Effect::Close), "{message:?}");
        assert_eq!(bench.pass(1.0), [Effect::Open { url: B.into() }]);
        bench.event(Event::Opened);
        bench.term = 5;
        let said = said(&bench.hears(welcome()));
        assert!(
            said.contains(&Kind::StepDone(step(1))),
            "{message:?}: it is kept"
        );
    }
}

#[test]
fn a_coordinator_whose_term_is_over_is_not_obeyed_from_its_first_word_on() {
    let mut bench = Bench::training(0);
    bench.term = 5;
    bench.hears(Heartbeat {});
    bench.moves_on();
    bench.term = 4;
    let effects = bench.hears(welcome());
    assert!(said(&effects).is_empty() && told(&effects).is_empty());
    assert_eq!(effects.last(), Some(&Effect::Close));
}

#[test]
fn why_a_coordinator_is_ignored_is_said_once() {
    let mut bench = Bench::training(0);
    bench.term = 5;
    bench.hears(Heartbeat {});
    let mut warnings = Vec::new();
    for _ in 0..3 {
        bench.term = 4;
        warnings.extend(
            bench
                .hears(Heartbeat {})
                .into_iter()
                .filter_map(|effect| match effect {
                    Effect::Warn(message) => Some(message),
                    _ => None,
                }),
        );
        bench.pass(1.0);
        bench.event(Event::Opened);
    }
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    assert!(
        warning.starts_with("a coordinator of term 4 was ignored, because term 5 rules (GEN-2: "),
        "{warning}"
    );
}

#[test]
fn a_coordinator_without_a_term_may_send_a_worker_elsewhere_and_no_more() {
    let refused = |elsewhere| Refused {
        reason: "a standby".into(),
        elsewhere,
    };
    for elsewhere in [true, false] {
        let mut bench = Bench::training(0);
        bench.moves_on();
        bench.term = 0;
        let effects = bench.hears(refused(elsewhere));
        let warned = effects.len() == 2;
        assert_eq!(warned, !elsewhere);
        assert!(!bench.session.is_ended());
        assert_eq!(effects.last(), Some(&Effect::Close));
        assert_eq!(bench.pass(1.0), [Effect::Open { url: A.into() }]);
    }
}

#[test]
fn a_start_of_a_generation_that_is_not_later_has_no_effect() {
    let mut bench = Bench::training(0);
    bench.says(Report::Halted(standing(1)));
    assert_eq!(told(&bench.hears(start(3, 0))).len(), 1);
    bench.says(Report::Halted(standing(3)));
    for id in [1, 2, 3] {
        assert_eq!(bench.hears(start(id, 0)), []);
    }
}

#[test]
fn a_generation_of_another_process_of_the_same_name_has_no_effect() {
    let mut bench = Bench::ready();
    let mut other = generation(1, 0);
    other.members[0].incarnation = OWN + 1;
    let effects = bench.hears(Start::new(&other));
    assert_eq!(effects, []);
}

#[test]
fn what_concerns_an_earlier_generation_has_no_effect() {
    let mut bench = Bench::training(0);
    bench.says(Report::Halted(standing(1)));
    bench.hears(start(3, 0));
    for generation in [1, 2] {
        assert_eq!(bench.hears(Halt { generation }), []);
        let regroup = Regroup {
            generation,
            checkpoint: true,
        };
        assert_eq!(bench.hears(regroup), []);
    }
    assert_eq!(bench.says(Report::Halted(standing(1))), []);
    assert_eq!(bench.says(Report::Finished(finished())), []);
}

#[test]
fn before_the_welcome_nothing_but_an_end_has_an_effect() {
    for message in [
        start(1, 0).into(),
        Halt { generation: 1 }.into(),
        Stop {}.into(),
        CoordinatorMessage::from(Follow {
            source: Some(Source::default()),
        }),
    ] {
        assert_eq!(Bench::greeted().hears(message), []);
    }
    assert_eq!(exit(&Bench::greeted().hears(End::default())), Ok(()));
}

#[test]
fn a_second_welcome_on_a_stream_has_no_effect() {
    let mut bench = Bench::training(0);
    bench.says(Report::StepDone(step(1)));
    assert_eq!(bench.hears(welcome()), []);
}

#[test]
fn what_comes_from_a_stream_that_was_given_up_has_no_effect() {
    let mut bench = Bench::training(0);
    bench.event(Event::Closed("reset".into()));
    for message in orders() {
        assert_eq!(bench.hears(message), []);
    }
    assert_eq!(bench.event(Event::Opened), Vec::<Effect>::new());
    let heartbeat = WorkerMessage::from(Heartbeat {});
    assert!(!bench.pass(1.0).contains(&Effect::Send(heartbeat)));
}

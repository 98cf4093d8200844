//! Any sequence of events, sensible or not.

use perennial_proto::v1::{
    Ack, CaughtUp, CheckpointFailed, DeviceMemory, End, Follow, FollowFailed, Heartbeat, Refused,
    Regroup, Release, Source, Stop,
};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn order() -> impl Strategy<Value = CoordinatorMessage> {
    let id = || 0..5u64;
    let started = (id(), 0..3usize).prop_map(|(id, rank)| start(id, rank).into());
    let regroup = (id(), any::<bool>()).prop_map(|(generation, checkpoint)| {
        Regroup {
            generation,
            checkpoint,
        }
        .into()
    });
    let ack = (0..9u64, 0..3u32, 0..9u64).prop_map(|(global_step, epochs, checkpoint)| {
        Ack {
            global_step,
            epochs,
            checkpoint,
        }
        .into()
    });
    let rest = vec![
        welcome().into(),
        Welcome::default().into(),
        Start::default().into(),
        Stop {}.into(),
        Heartbeat {}.into(),
        Follow { source: None }.into(),
        Follow {
            source: Some(Source::default()),
        }
        .into(),
        Refused {
            elsewhere: true,
            ..Refused::default()
        }
        .into(),
        CoordinatorMessage::default(),
    ];
    let last = vec![
        Refused::default().into(),
        Release::default().into(),
        End::default().into(),
    ];
    let kind = prop_oneof![
        4 => started,
        2 => id().prop_map(|generation| Halt { generation }.into()),
        2 => regroup,
        2 => ack,
        8 => select(rest),
        1 => select::<CoordinatorMessage>(last),
    ];
    (kind, 0..5u64).prop_map(|(kind, term)| CoordinatorMessage { term, ..kind })
}

fn report() -> impl Strategy<Value = Report> {
    let plain = vec![
        Report::Ready(Ready::default()),
        Report::EpochDone(epoch(0)),
        Report::EpochDone(epoch(1)),
        Report::PartWritten(part(4)),
        Report::CheckpointFailed(CheckpointFailed::default()),
        Report::Finished(finished()),
        Report::CaughtUp(CaughtUp::default()),
        Report::FollowFailed(FollowFailed::default()),
        Report::DeviceMemory(DeviceMemory::default()),
        Report::Drain,
    ];
    prop_oneof![
        4 => (0..9u64).prop_map(|number| Report::StepDone(step(number))),
        4 => (0..5u64).prop_map(|generation| Report::Halted(standing(generation))),
        4 => select(plain),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Opened),
        1 => Just(Event::OpenFailed("refused".into())),
        1 => Just(Event::Closed("reset".into())),
        8 => order().prop_map(Event::Received),
        4 => report().prop_map(Event::Report),
        4 => Just(Event::Tick),
    ]
}

/// What a shell and a training may count on, whatever happens.
fn check(events: &[(u64, Event)]) -> Result<(), TestCaseError> {
    let mut bench = Bench::knocking();
    let (mut term, mut open, mut newest, mut working) = (0, true, 0, false);
    let mut seen = 0;
    for (milliseconds, event) in events {
        bench.now += Duration::from_millis(*milliseconds);
        let was_over = bench.session.is_ended();
        if let Event::Received(message) = event {
            seen = seen.max(message.term);
        }
        match event {
            Event::Report(Report::Halted(standing)) => working &= standing.generation != newest,
            Event::Report(Report::Finished(finished)) => working &= finished.generation != newest,
            Event::OpenFailed(_) | Event::Closed(_) => open = false,
            _ => {}
        }
        for effect in bench.event(event.clone()) {
            prop_assert!(!was_over, "nothing moves a session that is over");
            match effect {
                Effect::Send(message) => {
                    prop_assert!(message.term >= term, "{message:?} after term {term}");
                    prop_assert!(message.term <= seen, "nobody spoke of this term");
                    prop_assert!(open, "said to nobody: {message:?}");
                    term = message.term;
                }
                Effect::Deliver(Command::Train(assignment)) => {
                    let id = assignment.generation.id;
                    prop_assert!(id > newest, "generation {id} after {newest}");
                    prop_assert!(!working, "generation {id} before {newest} had halted");
                    (newest, working) = (id, true);
                }
                Effect::Close => open = false,
                Effect::Open { .. } => open = true,
                Effect::Deliver(_) | Effect::Warn(_) => {}
            }
        }
        let ended = bench.session.is_ended();
        prop_assert!(!ended || !open, "an ended session holds no stream");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_makes_a_session_panic_or_go_back_to_a_lower_term(
        events in prop::collection::vec((0..3000u64, event()), 1..120)
    ) {
        check(&events)?;
    }
}

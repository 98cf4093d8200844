use perennial_proto::rules::control;
use perennial_proto::v1::{CaughtUp, End, Follow, FollowFailed, Regroup, Release, Source, Stop};

use super::*;
use crate::Assignment;

fn source(worker: &str) -> Source {
    Source {
        worker: worker.into(),
        address: format!("{worker}:9"),
        global_step: 5,
        replica_hash: 6,
    }
}

fn follow(worker: &str) -> Follow {
    Follow {
        source: Some(source(worker)),
    }
}

fn breaks(generation: u64) -> Command {
    Command::Break { generation }
}

#[test]
fn a_start_is_a_place_in_a_generation_and_what_is_to_be_done_first() {
    let mut bench = Bench::ready();
    let effects = bench.hears(Start {
        evaluate: true,
        checkpoint: true,
        finish: true,
        source: Some(source("w9")),
        ..start(1, 2)
    });
    let expected = Assignment {
        generation: generation(1, 2),
        rank: 2,
        evaluate: true,
        checkpoint: true,
        finish: true,
        source: Some(source("w9").into()),
    };
    assert_eq!(told(&effects), [&Command::Train(Box::new(expected))]);
}

#[test]
fn a_halt_breaks_the_generation_off_and_is_answered_however_often_it_comes() {
    let mut bench = Bench::training(0);
    let halt = Halt { generation: 1 };
    assert_eq!(told(&bench.hears(halt)), [&breaks(1)]);
    let stands = || vec![Kind::Standing(standing(1))];
    assert_eq!(said(&bench.says(Report::Halted(standing(1)))), stands());
    let effects = bench.hears(halt);
    assert_eq!(said(&effects), stands());
    assert!(told(&effects).is_empty());
    // The same of a member that is done.
    let mut bench = Bench::training(0);
    let ends = || vec![Kind::Finished(finished())];
    assert_eq!(said(&bench.says(Report::Finished(finished()))), ends());
    assert_eq!(said(&bench.hears(halt)), ends());
}

#[test]
fn a_halt_of_a_generation_that_was_never_heard_of_is_answered_with_where_the_worker_stands() {
    let halt = Halt { generation: 7 };
    assert_eq!(told(&Bench::training(0).hears(halt)), [&breaks(1)]);
    assert_eq!(
        said(&Bench::halted().hears(halt)),
        [Kind::Standing(standing(1))]
    );
    let nowhere = Standing {
        halted: true,
        empty: true,
        ..Standing::default()
    };
    assert_eq!(said(&Bench::ready().hears(halt)), [Kind::Standing(nowhere)]);
}

#[test]
fn a_regroup_and_a_stop_raise_the_flags_on_which_members_agree() {
    for (checkpoint, flags) in [
        (false, control::REGROUP),
        (true, control::REGROUP | control::CHECKPOINT),
    ] {
        let effects = Bench::training(0).hears(Regroup {
            generation: 1,
            checkpoint,
        });
        let raise = Command::Raise {
            generation: 1,
            flags,
        };
        assert_eq!(told(&effects), [&raise]);
    }
    let raise = Command::Raise {
        generation: 1,
        flags: control::STOP,
    };
    assert_eq!(told(&Bench::training(0).hears(Stop {})), [&raise]);
    assert_eq!(Bench::halted().hears(Stop {}), [], "nobody sums");
}

#[test]
fn a_generation_that_comes_before_the_halt_was_said_begins_after_it() {
    let mut bench = Bench::training(0);
    assert_eq!(told(&bench.hears(start(2, 1))), [&breaks(1)]);
    let effects = bench.says(Report::Halted(standing(1)));
    assert!(said(&effects).is_empty(), "generation 1 is of no interest");
    let [Command::Train(assignment)] = told(&effects)[..] else {
        panic!("{effects:?}");
    };
    assert_eq!((assignment.generation.id, assignment.rank), (2, 1));
}

#[test]
fn what_is_asked_of_a_generation_before_it_begins_is_told_when_it_does() {
    let mut bench = Bench::training(0);
    bench.hears(start(2, 1));
    assert_eq!(bench.hears(start(2, 1)), [], "it was announced already");
    assert_eq!(bench.hears(Stop {}), []);
    let regroup = Regroup {
        generation: 2,
        checkpoint: false,
    };
    assert_eq!(bench.hears(regroup), []);
    bench.hears(Halt { generation: 2 });
    let effects = bench.says(Report::Finished(finished()));
    let raise = Command::Raise {
        generation: 2,
        flags: control::STOP | control::REGROUP,
    };
    assert_eq!(told(&effects)[1..], [&raise, &breaks(2)]);
}

#[test]
fn a_worker_in_the_pool_copies_from_where_it_is_told_and_says_once_that_it_is_there() {
    let mut bench = Bench::ready();
    let effects = bench.hears(follow("w8"));
    assert_eq!(told(&effects), [&Command::Follow(source("w8").into())]);
    let there = CaughtUp {
        global_step: 5,
        replica_hash: 6,
    };
    assert_eq!(
        said(&bench.says(Report::CaughtUp(there))),
        [Kind::CaughtUp(there)]
    );
    // It goes on where it is asked the same again.
    let effects = bench.hears(follow("w8"));
    assert_eq!(said(&effects), [Kind::CaughtUp(there)]);
    assert!(told(&effects).is_empty());
    // Another one takes its place.
    let effects = bench.hears(follow("w9"));
    assert_eq!(told(&effects), [&Command::Follow(source("w9").into())]);
    let failed = |source: &str| FollowFailed {
        source: source.into(),
        message: "it is gone".into(),
    };
    assert_eq!(bench.says(Report::FollowFailed(failed("w8"))), []);
    assert_eq!(
        said(&bench.says(Report::FollowFailed(failed("w9")))),
        [Kind::FollowFailed(failed("w9"))]
    );
    assert_eq!(bench.says(Report::CaughtUp(there)), [], "it follows nobody");
}

#[test]
fn a_member_at_work_copies_from_nobody() {
    let mut bench = Bench::training(0);
    assert_eq!(bench.hears(follow("w8")), []);
    assert_eq!(Bench::ready().hears(Follow { source: None }), []);
    // One that was left out of the next generation does.
    assert_eq!(told(&Bench::halted().hears(follow("w8"))).len(), 1);
}

#[test]
fn an_end_and_a_release_end_the_session() {
    let release = Release {
        reason: "not needed".into(),
    };
    assert_eq!(exit(&Bench::training(0).hears(release)), Ok(()));
    let end = |error: &str| End {
        error: error.into(),
    };
    assert_eq!(exit(&Bench::training(0).hears(end(""))), Ok(()));
    assert_eq!(
        exit(&Bench::training(0).hears(end("the disk is full"))),
        Err("the disk is full".into())
    );
}

#[test]
fn a_coordinator_that_cannot_be_understood_is_left_for_the_next_one() {
    let welcome = Welcome {
        spec_json: r#"{"nmae": 1}"#.into(),
        ..Welcome::default()
    };
    let start = Start {
        generation: "{".into(),
        ..Start::default()
    };
    let nothing = CoordinatorMessage::default();
    for (mut bench, message) in [
        (Bench::greeted(), welcome.into()),
        (Bench::ready(), CoordinatorMessage::from(start)),
        (Bench::ready(), nothing),
    ] {
        assert_eq!(bench.hears(message), [Effect::Close]);
        assert_eq!(bench.pass(1.0), [Effect::Open { url: B.into() }]);
    }
}

//! A worker in the pool of a queue, which serves one job after the other.

use perennial_proto::v1::{End, Failed, Refused, Release, Wait};

use super::*;

fn wait() -> Wait {
    Wait {
        worker: "w7".into(),
    }
}

/// In the pool, under a name.
fn waiting() -> Bench {
    let mut bench = Bench::greeted();
    bench.term = 0;
    assert_eq!(bench.hears(wait()), []);
    bench
}

/// Of a job whose coordinator is of term 3, and at work.
fn at_work() -> Bench {
    let mut bench = waiting();
    bench.term = 3;
    assert_eq!(told(&bench.hears(welcome())).len(), 1);
    bench.says(Report::Ready(Ready::default()));
    bench.hears(start(1, 1));
    bench
}

/// How its time with a job was over, after which it comes back to the pool.
fn returned(effects: &[Effect]) -> Result<(), String> {
    assert_eq!(effects.last(), Some(&Effect::Close));
    match told(effects)[..] {
        [Command::Return { end, .. }] => end.clone(),
        _ => panic!("it does not come back: {effects:?}"),
    }
}

#[test]
fn a_worker_waits_in_the_pool_for_as_long_as_it_takes_and_is_welcomed_to_a_job() {
    let mut bench = waiting();
    assert_eq!(bench.session.worker(), "w7");
    bench.pass_in_company(3600.0);
    bench.term = 3;
    let effects = bench.hears(welcome());
    assert!(matches!(told(&effects)[..], [Command::Prepare { .. }]));
    assert_eq!(bench.session.term(), 3);
}

#[test]
fn whichever_way_its_time_with_a_job_is_over_it_comes_back_to_the_pool() {
    let release = Release {
        reason: "others want it".into(),
    };
    assert_eq!(returned(&at_work().hears(release)), Ok(()));
    let error = String::new();
    assert_eq!(returned(&at_work().hears(End { error })), Ok(()));
    let error = "the data differs".to_string();
    let end = End {
        error: error.clone(),
    };
    assert_eq!(returned(&at_work().hears(end)), Err(error));
    let failed = Failed {
        message: "no pictures".into(),
        fatal: true,
    };
    let effects = at_work().says(Report::Failed(failed.clone()));
    assert_eq!(said(&effects), [Kind::Failed(failed)]);
    assert_eq!(returned(&effects), Err("no pictures".into()));
    let refused = Refused {
        reason: "other numerics".into(),
        elsewhere: false,
    };
    assert!(returned(&waiting().hears(refused)).is_err());
}

#[test]
fn a_worker_whose_job_does_not_run_any_more_hears_it_whatever_the_term() {
    let mut bench = at_work();
    bench.moves_on();
    bench.term = 0;
    assert_eq!(returned(&bench.hears(wait())), Ok(()));
}

#[test]
fn it_leaves_for_good_when_the_pool_lets_it_go_or_it_wants_to() {
    let release = || Release {
        reason: "it was drained".into(),
    };
    assert_eq!(exit(&waiting().hears(release())), Ok(()));
    assert_eq!(exit(&waiting().says(Report::Drain)), Ok(()));
    let mut bench = at_work();
    assert_eq!(said(&bench.says(Report::Drain)).len(), 1);
    assert_eq!(exit(&bench.hears(release())), Ok(()));
}

#[test]
fn without_a_coordinator_it_knocks_for_its_patience_after_any_time_in_the_pool() {
    let mut bench = waiting();
    bench.pass_in_company(3600.0);
    assert_eq!(bench.event(Event::Closed("reset".into())), []);
    let mut seconds = 0;
    let end = loop {
        let effects = bench.pass(1.0);
        seconds += 1;
        if bench.session.is_ended() {
            break exit(&effects);
        }
        if matches!(effects[..], [Effect::Open { .. }, ..]) {
            bench.event(Event::OpenFailed("refused".into()));
        }
    };
    assert!((60..=61).contains(&seconds), "{seconds}");
    assert!(end.unwrap_err().contains("start this worker again"));
}

use std::time::Duration;

use perennial_proto::rules::{HEARTBEAT, LEASE};
use perennial_proto::v1::{Heartbeat, Refused};

use super::*;
use crate::machine::{RETRY, RETRY_AT_MOST};

fn refused(elsewhere: bool) -> Refused {
    Refused {
        reason: "not here".into(),
        elsewhere,
    }
}

/// The times and addresses of the attempts in so many seconds, none of which comes to anything.
fn attempts(bench: &mut Bench, seconds: f64) -> Vec<(Duration, String)> {
    let until = bench.now + Duration::from_secs_f64(seconds);
    let mut attempts = Vec::new();
    while bench.now < until {
        bench.now += Duration::from_millis(5);
        for effect in bench.event(Event::Tick) {
            let Effect::Open { url } = effect else {
                panic!("{effect:?}");
            };
            attempts.push((bench.now, url));
            bench.event(Event::OpenFailed("connection refused".into()));
        }
    }
    attempts
}

#[test]
fn a_worker_greets_is_welcomed_prepares_and_is_ready() {
    let mut bench = Bench::knocking();
    let hello = Hello {
        version: "1".into(),
        incarnation: OWN,
        ..Hello::default()
    };
    assert_eq!(said(&bench.event(Event::Opened)), [Kind::Hello(hello)]);
    assert_eq!(
        told(&bench.hears(welcome())),
        [&Command::Prepare {
            spec: Box::default(),
            store_url: "store".into()
        }]
    );
    assert_eq!(bench.session.worker(), "w1");
    let ready = Ready {
        train_samples: 7,
        ..Ready::default()
    };
    let effects = bench.says(Report::Ready(ready.clone()));
    assert_eq!(said(&effects), [Kind::Ready(ready)]);
}

#[test]
fn a_worker_may_start_before_its_coordinator_and_knocks_for_ten_seconds() {
    let mut bench = Bench::knocking();
    bench.event(Event::OpenFailed("connection refused".into()));
    let tried = attempts(&mut bench, 9.9);
    assert!(tried.len() > 10);
    let effects = bench.pass(0.2);
    assert_eq!(
        exit(&effects).unwrap_err(),
        "no coordinator answers at `http://a:7400`, `http://b:7400` for 10 s (connection refused); check the address, or start `perennial coordinator` there"
    );
}

#[test]
fn a_lost_coordinator_is_looked_for_at_all_addresses_in_turn_with_growing_pauses() {
    let mut bench = Bench::training(0);
    bench.event(Event::Closed("reset".into()));
    let lost_at = bench.now;
    let tried = attempts(&mut bench, 10.0);
    let turns = tried.iter().map(|(_, url)| url.as_str());
    let expected = [B, A].into_iter().cycle().take(tried.len());
    assert!(turns.eq(expected), "{tried:?}");
    let mut before = lost_at;
    for (attempt, (at, _)) in tried.iter().enumerate() {
        let round = (RETRY * 2u32.pow(attempt as u32 / 2)).min(RETRY_AT_MOST);
        let pause = *at - before;
        // A quarter by chance, and the distance between two ticks.
        assert!(pause >= round * 3 / 8, "{attempt}: {pause:?}");
        assert!(
            pause <= round / 2 + Duration::from_millis(10),
            "{attempt}: {pause:?}"
        );
        before = *at;
    }
    // Whoever is welcomed begins with short pauses again.
    bench.pass(1.0);
    bench.event(Event::Opened);
    bench.hears(welcome());
    bench.event(Event::Closed("reset".into()));
    let lost_at = bench.now;
    let again = attempts(&mut bench, 1.0);
    assert!(again[0].0 - lost_at < RETRY);
}

#[test]
fn the_workers_of_a_job_do_not_all_come_back_at_the_same_moment() {
    let first_attempt = |incarnation: u64| {
        let mut bench = Bench::knocking();
        bench.session.config.hello.incarnation = incarnation;
        bench.event(Event::OpenFailed("connection refused".into()));
        attempts(&mut bench, 1.0)[0].0
    };
    let times: std::collections::BTreeSet<Duration> = (0..100).map(first_attempt).collect();
    assert!(times.len() > 3, "{times:?}");
}

#[test]
fn silence_beyond_the_lease_is_a_lost_coordinator_and_heartbeats_hold_it() {
    for mut bench in [Bench::greeted(), Bench::ready(), Bench::training(0)] {
        bench.pass(LEASE.as_secs_f64() - 0.1);
        assert_eq!(bench.hears(Heartbeat {}), []);
        let effects = bench.pass(LEASE.as_secs_f64());
        assert!(!effects.contains(&Effect::Close));
        let mut effects = bench.pass(0.2);
        assert!(effects.contains(&Effect::Close), "{effects:?}");
        effects.extend(bench.pass(0.5));
        assert!(told(&effects).is_empty());
        assert_eq!(effects.last(), Some(&Effect::Open { url: B.into() }));
    }
}

#[test]
fn a_worker_that_was_paused_itself_does_not_blame_the_coordinator() {
    let mut bench = Bench::training(0);
    bench.pass(1.0);
    bench.now += Duration::from_secs(30);
    assert!(!bench.event(Event::Tick).contains(&Effect::Close));
    assert_eq!(bench.hears(Heartbeat {}), []);
}

#[test]
fn a_heartbeat_goes_out_only_when_no_other_message_did() {
    let mut bench = Bench::training(0);
    let almost = HEARTBEAT.as_secs_f64() - 0.1;
    assert_eq!(bench.pass(almost), []);
    bench.says(Report::StepDone(step(1)));
    assert_eq!(bench.pass(almost), []);
    let effects = bench.pass(0.1);
    let heartbeat = perennial_proto::v1::WorkerMessage {
        term: 1,
        ..Heartbeat {}.into()
    };
    assert_eq!(effects, [Effect::Send(heartbeat)]);
}

#[test]
fn a_coordinator_that_is_gone_for_longer_than_the_patience_ends_the_session_with_one_sentence() {
    let mut bench = Bench::training(0);
    bench.pass_in_company(100.0);
    bench.event(Event::Closed("connection reset".into()));
    bench.event(Event::Tick);
    let tried = attempts(&mut bench, 59.9);
    assert!(tried.len() > 60);
    let effects = bench.pass(0.2);
    assert_eq!(
        exit(&effects).unwrap_err(),
        "lost the coordinator at `http://a:7400`, `http://b:7400` for 60 s: connection refused; start the job again with `--resume`"
    );
    for event in [
        Event::Opened,
        Event::Closed("again".into()),
        Event::Report(Report::Drain),
        Event::Tick,
    ] {
        assert_eq!(
            bench.event(event),
            [],
            "nothing moves a session that is over"
        );
    }
}

#[test]
fn the_time_in_which_the_worker_itself_did_not_run_takes_nothing_from_its_patience() {
    let mut bench = Bench::training(0);
    bench.event(Event::Closed("connection reset".into()));
    attempts(&mut bench, 30.0);
    bench.now += Duration::from_secs(3600);
    attempts(&mut bench, 30.0);
    assert!(!bench.session.is_ended(), "a laptop that was closed");
    let effects = bench.pass(0.1);
    assert!(exit(&effects).unwrap_err().contains("for 60 s"));
}

#[test]
fn refused_elsewhere_goes_to_the_next_address_and_any_other_refusal_ends_the_session() {
    let mut bench = Bench::greeted();
    assert_eq!(bench.hears(refused(true)), [Effect::Close]);
    assert_eq!(bench.pass(1.0), [Effect::Open { url: B.into() }]);
    bench.event(Event::Opened);
    assert_eq!(
        exit(&bench.hears(refused(false))).unwrap_err(),
        "the coordinator at `http://b:7400` refused this worker: not here"
    );
}

#[test]
fn a_coordinator_that_is_deposed_after_a_long_reign_leaves_the_worker_its_whole_patience() {
    let mut bench = Bench::training(0);
    bench.pass_in_company(1000.0);
    assert_eq!(bench.hears(refused(true)), [Effect::Close]);
    attempts(&mut bench, 59.0);
    assert!(!bench.session.is_ended());
}

#[test]
fn whoever_answers_but_never_welcomes_does_not_renew_the_patience() {
    let answers: [fn(&mut Bench); 3] = [
        |bench| drop(bench.event(Event::Closed(String::new()))),
        |bench| drop(bench.hears(refused(true))),
        |bench| drop(bench.hears(Welcome::default())),
    ];
    for answer in answers {
        let mut bench = Bench::training(0);
        bench.event(Event::Closed("reset".into()));
        while bench.now < Duration::from_secs(59) {
            if bench.pass(0.1).is_empty() {
                continue;
            }
            bench.event(Event::Opened);
            answer(&mut bench);
        }
        assert!(!bench.session.is_ended());
        let effects = bench.pass(2.0);
        let mut effects = effects;
        if !bench.session.is_ended() {
            bench.event(Event::OpenFailed("late".into()));
            effects = bench.pass(2.0);
        }
        assert!(exit(&effects).unwrap_err().contains("for 60 s"));
    }
}

#[test]
fn the_last_failure_is_the_cause_that_is_named() {
    let mut bench = Bench::greeted();
    bench.event(Event::Closed(String::new()));
    let effects = bench.pass(1.0);
    assert_eq!(effects.len(), 1);
    assert_eq!(bench.pass(10.0), []);
    bench.event(Event::Opened);
    bench.event(Event::Closed("reset".into()));
    let why = exit(&bench.pass(0.1)).unwrap_err();
    assert!(why.contains("(the connection broke: reset)"), "{why}");
}

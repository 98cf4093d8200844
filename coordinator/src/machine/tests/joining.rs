//! Who is taken, and when the first generation begins.

use perennial_plan::spec::Precision;
use perennial_proto::rules::BF16_TILES;
use perennial_proto::v1::coordinator_message::Kind;
use perennial_proto::v1::{self, Hello, Ready};

use super::bench::Bench;
use super::facts::{config, cursor, hello, ready, unoccupied};
use crate::machine::{Config, Outcome};

#[test]
fn a_worker_of_another_job_is_sent_elsewhere() {
    let mut bench = Bench::running(1);
    let other = Hello {
        job: "maples".into(),
        ..hello(2)
    };
    bench.greet(2, other);
    let refused = bench.refusal(2);
    assert!(refused.elsewhere);
    assert!(refused.reason.contains("`maples`") && refused.reason.contains("`seedlings`"));
    let own = Hello {
        job: "seedlings".into(),
        ..hello(3)
    };
    bench.greet(3, own);
    assert!(matches!(bench.sent(3)[0], Kind::Welcome(_)));
}

#[test]
fn a_worker_is_welcomed_with_its_name_the_job_and_the_store() {
    let mut bench = Bench::new(config(2));
    bench.greet(1, hello(1));
    bench.greet(2, hello(2));
    let Some(Kind::Welcome(welcome)) = bench.last_sent(2) else {
        panic!("{:?}", bench.sent(2));
    };
    assert_eq!(
        (welcome.worker.as_str(), welcome.store_url.as_str()),
        ("w2", "store")
    );
    assert!(welcome.spec_json.contains("seedlings"));
}

#[test]
fn a_worker_of_another_version_is_refused_and_the_job_goes_on_waiting() {
    let mut bench = Bench::new(config(1));
    let other = Hello {
        version: "0.9.0".into(),
        ..hello(1)
    };
    bench.greet(1, other);
    let refused = bench.refusal(1);
    assert!(refused.reason.contains("`0.9.0`") && refused.reason.contains("`1.0.0`"));
    assert!(!refused.elsewhere);
    bench.join(2);
    assert_eq!(bench.members(), ["w1"]);
}

#[test]
fn a_worker_whose_arithmetic_differs_is_refused_by_the_first_coordinator_and_by_the_next() {
    let mut bench = Bench::running(1);
    let other = |worker| Hello {
        numerics: "cuda".into(),
        ..hello(worker)
    };
    bench.greet(2, other(2));
    assert!(bench.refusal(2).reason.contains("`cuda`"));
    let mut next = bench.successor();
    next.greet(3, other(3));
    assert!(next.refusal(3).reason.contains("the job so far with `cpu`"));
}

#[test]
fn tiles_for_bf16_make_two_classes_of_workers_in_a_job_in_bf16_alone() {
    for (precision, refused) in [
        (Precision::F32, false),
        (Precision::F16, false),
        (Precision::Bf16, true),
    ] {
        let mut config = config(2);
        config.spec.train.precision = precision;
        let mut bench = Bench::new(config);
        bench.join(1);
        let with_tiles = Hello {
            numerics: format!("cpu{BF16_TILES}"),
            ..hello(2)
        };
        bench.greet(2, with_tiles);
        if refused {
            let reason = bench.refusal(2).reason;
            let [ours, theirs] = ["`cpu, bf16 in tiles`", "`cpu, bf16`"];
            assert!(reason.contains(ours) && reason.contains(theirs), "{reason}");
        } else {
            assert!(matches!(bench.last_sent(2), Some(Kind::Welcome(_))));
        }
    }
}

#[test]
fn what_was_computed_in_one_precision_is_not_gone_on_with_in_another() {
    let in_precision = |precision, log| {
        let mut config = Config { log, ..config(1) };
        config.spec.train.precision = precision;
        Bench::new(config)
    };
    for (before, after, classes) in [
        (Precision::F32, Precision::Bf16, ["`cpu`", "`cpu, bf16`"]),
        (Precision::Bf16, Precision::F32, ["`cpu, bf16`", "`cpu`"]),
        (
            Precision::Bf16,
            Precision::F16,
            ["`cpu, bf16`", "`cpu, f16`"],
        ),
    ] {
        let mut bench = in_precision(before, Vec::new());
        bench.join(1);
        assert_eq!(bench.members(), ["w1"]);
        let mut next = in_precision(after, bench.log.clone());
        next.greet(2, hello(2));
        let reason = next.refusal(2).reason;
        let [theirs, ours] = classes;
        assert!(
            reason.contains(&format!("this worker computes with {ours}")),
            "{reason}"
        );
        assert!(
            reason.contains(&format!("the job so far with {theirs}")),
            "{reason}"
        );
    }
}

#[test]
fn workers_that_see_different_data_before_the_first_generation_end_the_run_which_names_both() {
    let mut bench = Bench::new(config(2));
    bench.join(1);
    bench.greet(2, hello(2));
    let other = Ready {
        data_fingerprint: "xyz".into(),
        ..ready(2)
    };
    bench.say(2, other);
    let failure = bench.failure();
    assert!(
        failure.contains("`w1` and `w2`") && failure.contains("`xyz`"),
        "{failure}"
    );
}

#[test]
fn once_the_job_runs_a_worker_with_other_data_is_sent_away_and_the_job_goes_on() {
    let mut bench = Bench::running(1);
    bench.greet(2, hello(2));
    let other = Ready {
        data_fingerprint: "xyz".into(),
        ..ready(2)
    };
    bench.say(2, other);
    let Some(Kind::End(end)) = bench.last_sent(2) else {
        panic!("{:?}", bench.sent(2));
    };
    assert!(
        end.error.contains("do not see the same data"),
        "{}",
        end.error
    );
    assert_eq!(bench.outcome(), None);
    bench.step(cursor(0, 0));
    assert_eq!(bench.machine.status().global_step, 1);
}

#[test]
fn who_does_not_greet_first_is_refused_and_who_never_greets_is_dropped() {
    let mut bench = Bench::new(config(1));
    bench.event(crate::machine::Event::Connected(1));
    bench.say(1, ready(1));
    assert!(bench.refusal(1).reason.contains("greeting"));
    bench.event(crate::machine::Event::Connected(2));
    bench.pass(6.0, &[2]);
    assert!(bench.effects.contains(&crate::machine::Effect::Close(2)));
}

#[test]
fn the_first_generation_waits_for_the_wanted_number_and_no_longer_than_ten_seconds_after_the_last()
{
    let mut bench = Bench::new(config(3));
    bench.join(1);
    bench.pass(8.0, &[]);
    bench.join(2);
    bench.pass(9.0, &[]);
    assert_eq!(bench.start(1), None);
    bench.pass(2.0, &[]);
    assert_eq!(bench.members(), ["w1", "w2"]);
}

#[test]
fn nothing_starts_before_the_log_has_the_generation() {
    let mut bench = Bench::new(config(1));
    bench.log_answers = false;
    bench.join(1);
    bench.pass(3.0, &[]);
    assert_eq!(bench.start(1), None);
    bench.release_the_log();
    assert!(bench.start(1).is_some());
}

#[test]
fn under_the_minimum_the_job_waits_and_says_so_and_goes_on_by_itself() {
    let mut config = config(2);
    config.spec.elastic.min_workers = 2;
    let mut bench = Bench::running_with(config, 2);
    bench.step(cursor(0, 0));
    bench.lose(2);
    bench.say(1, super::facts::halted(1, cursor(0, 1)));
    bench.pass(30.0, &[]);
    assert_eq!(bench.generation().id, 1);
    assert_eq!(
        bench.waiting().last(),
        Some(&"1 of at least 2 workers are ready; waiting for more")
    );
    bench.join(3);
    assert_eq!(bench.members(), ["w1", "w3"]);
    assert_eq!(bench.generation().start, cursor(0, 1));
}

#[test]
fn no_more_than_the_wanted_number_are_members() {
    let mut bench = Bench::running(2);
    bench.join(3);
    bench.pass(20.0, &[]);
    assert_eq!(bench.members(), ["w1", "w2"]);
    let told = bench.sent(3);
    assert!(
        !told.iter().any(|kind| matches!(kind, Kind::Follow(_))),
        "{told:?}"
    );
}

#[test]
fn a_worker_that_fails_leaves_the_others_at_work_unless_they_would_meet_the_same() {
    let mut bench = Bench::running(2);
    bench.say(
        2,
        v1::Failed {
            message: "no memory".into(),
            fatal: false,
        },
    );
    assert!(bench.is_told_to_halt(1));
    bench.say(1, super::facts::halted(1, cursor(0, 0)));
    assert_eq!(bench.members(), ["w1"]);
    bench.say(
        1,
        v1::Failed {
            message: "a broken picture".into(),
            fatal: true,
        },
    );
    assert!(
        bench
            .failure()
            .contains("worker `w1` failed: a broken picture")
    );
    assert!(matches!(bench.outcome(), Some(Outcome::Failed { .. })));
}

#[test]
fn a_name_is_given_once_even_if_its_first_bearer_is_gone() {
    let mut bench = Bench::new(config(3));
    bench.join(1);
    bench.lose(1);
    bench.join(2);
    bench.say(2, unoccupied(0));
    let names: Vec<String> = bench
        .machine
        .status()
        .workers
        .into_iter()
        .map(|worker| worker.worker)
        .collect();
    assert_eq!(names, ["w2"]);
}

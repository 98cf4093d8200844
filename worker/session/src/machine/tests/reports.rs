use perennial_proto::v1::{
    Ack, CaughtUp, CheckpointFailed, DeviceMemory, Drain, Failed, Follow, Source,
};

use super::*;

fn steps(range: std::ops::RangeInclusive<u64>) -> Vec<Kind> {
    range.map(|number| Kind::StepDone(step(number))).collect()
}

fn at_work() -> Kind {
    Kind::Standing(Standing {
        generation: 1,
        ..Standing::default()
    })
}

/// What a worker says on a new stream, without its readiness.
fn after_ready(said: Vec<Kind>) -> Vec<Kind> {
    assert_eq!(said[0], Kind::Ready(Ready::default()));
    said[1..].to_vec()
}

#[test]
fn reports_are_kept_and_said_again_on_each_stream_in_order_until_they_are_acknowledged() {
    let mut bench = Bench::training(0);
    for number in 1..=4 {
        let effects = bench.says(Report::StepDone(step(number)));
        assert_eq!(said(&effects), steps(number..=number));
    }
    let expected = [steps(1..=4), vec![at_work()]].concat();
    assert_eq!(after_ready(bench.returns()), expected);
    assert_eq!(after_ready(bench.returns()), expected, "once on each");
    bench.hears(Ack {
        global_step: 3,
        ..Ack::default()
    });
    let expected = [steps(4..=4), vec![at_work()]].concat();
    assert_eq!(after_ready(bench.returns()), expected);
}

#[test]
fn without_a_coordinator_the_training_goes_on_and_what_it_says_is_kept() {
    let mut bench = Bench::training(0);
    bench.event(Event::Closed("reset".into()));
    for number in 1..=3 {
        assert_eq!(bench.says(Report::StepDone(step(number))), []);
    }
    assert_eq!(bench.pass(1.0), [Effect::Open { url: B.into() }]);
    assert_eq!(bench.says(Report::PartWritten(part(3))), []);
    bench.event(Event::Opened);
    assert_eq!(
        bench.says(Report::StepDone(step(4))),
        [],
        "not before the welcome"
    );
    let kept = [
        steps(1..=3),
        vec![Kind::PartWritten(part(3))],
        steps(4..=4),
        vec![at_work()],
    ];
    assert_eq!(after_ready(said(&bench.hears(welcome()))), kept.concat());
}

#[test]
fn each_kind_of_report_has_its_own_acknowledgement() {
    let mut bench = Bench::training(0);
    let failed = CheckpointFailed {
        generation: 1,
        global_step: 6,
        ..CheckpointFailed::default()
    };
    for report in [
        Report::StepDone(step(1)),
        Report::EpochDone(epoch(0)),
        Report::EpochDone(epoch(1)),
        Report::PartWritten(part(3)),
        Report::PartWritten(part(4)),
        Report::PartWritten(part(6)),
        Report::CheckpointFailed(failed.clone()),
    ] {
        bench.says(report);
    }
    bench.hears(Ack {
        global_step: 1,
        epochs: 1,
        checkpoint: 4,
    });
    let expected = [
        Kind::EpochDone(epoch(1)),
        // The newest checkpoint: the next coordinator may not know it yet.
        Kind::PartWritten(part(4)),
        Kind::PartWritten(part(6)),
        Kind::CheckpointFailed(failed),
        at_work(),
    ];
    assert_eq!(after_ready(bench.returns()), expected);
}

#[test]
fn a_later_generation_begins_only_when_the_steps_before_it_are_durable() {
    let mut bench = Bench::training(0);
    bench.says(Report::StepDone(step(1)));
    bench.says(Report::EpochDone(epoch(0)));
    bench.says(Report::PartWritten(part(1)));
    bench.says(Report::Halted(standing(1)));
    bench.hears(start(2, 0));
    let at_work = Kind::Standing(Standing {
        generation: 2,
        ..Standing::default()
    });
    assert_eq!(
        after_ready(bench.returns()),
        [Kind::PartWritten(part(1)), at_work],
        "the checkpoint may still lack this part"
    );
}

#[test]
fn an_evaluation_is_told_by_rank_0_and_by_all_once_that_one_may_be_gone() {
    let evaluation = || Report::EpochDone(epoch(0));
    let told = || Kind::EpochDone(epoch(0));
    assert_eq!(said(&Bench::training(0).says(evaluation())), [told()]);
    let other = || {
        let mut bench = Bench::training(1);
        assert_eq!(bench.says(evaluation()), []);
        bench
    };
    assert_eq!(after_ready(other().returns()), [told(), at_work()]);
    let effects = other().says(Report::Halted(standing(1)));
    assert_eq!(said(&effects), [told(), Kind::Standing(standing(1))]);
    let effects = other().says(Report::Finished(finished()));
    assert_eq!(said(&effects), [told(), Kind::Finished(finished())]);
    // Rank 0 has said it already.
    let mut bench = Bench::training(0);
    bench.says(evaluation());
    assert_eq!(said(&bench.says(Report::Halted(standing(1)))).len(), 1);
}

#[test]
fn where_a_worker_stands_is_said_on_every_new_stream() {
    assert_eq!(after_ready(Bench::training(0).returns()), [at_work()]);
    let stands = Kind::Standing(standing(1));
    assert_eq!(after_ready(Bench::halted().returns()), [stands]);
    let mut done = Bench::training(0);
    done.says(Report::Finished(finished()));
    assert_eq!(after_ready(done.returns()), [Kind::Finished(finished())]);
    let nowhere = Kind::Standing(Standing {
        halted: true,
        empty: true,
        ..Standing::default()
    });
    assert_eq!(
        after_ready(Bench::ready().returns()),
        std::slice::from_ref(&nowhere)
    );
    let mut following = Bench::ready();
    following.hears(Follow {
        source: Some(Source::default()),
    });
    let there = CaughtUp::default();
    following.says(Report::CaughtUp(there));
    let expected = [nowhere, Kind::CaughtUp(there)];
    assert_eq!(after_ready(following.returns()), expected);
}

#[test]
fn a_worker_that_still_prepares_says_nothing_on_a_new_stream_and_prepares_once() {
    let mut bench = Bench::greeted();
    bench.hears(welcome());
    bench.moves_on();
    assert_eq!(bench.hears(welcome()), []);
    let effects = bench.says(Report::Ready(Ready::default()));
    assert_eq!(said(&effects), [Kind::Ready(Ready::default())]);
}

#[test]
fn a_worker_keeps_its_name_and_its_incarnation_on_a_new_stream() {
    let mut bench = Bench::training(0);
    let hello = Hello {
        version: "1".into(),
        worker: "w1".into(),
        incarnation: OWN,
        job: Spec::default().name,
        ..Hello::default()
    };
    assert_eq!(said(&bench.moves_on()), [Kind::Hello(hello)]);
}

#[test]
fn what_a_gpu_holds_is_said_to_the_coordinator_at_hand_and_not_again_to_the_next_one() {
    let memory = DeviceMemory {
        used: 1,
        total: 3,
        peak: 2,
    };
    let mut bench = Bench::training(0);
    let effects = bench.says(Report::DeviceMemory(memory));
    assert_eq!(said(&effects), [Kind::DeviceMemory(memory)]);
    assert_eq!(after_ready(bench.returns()), [at_work()]);
    let mut alone = Bench::knocking();
    assert_eq!(alone.says(Report::DeviceMemory(memory)), []);
}

#[test]
fn a_drain_is_asked_once_on_each_stream() {
    let mut bench = Bench::training(0);
    assert_eq!(said(&bench.says(Report::Drain)), [Kind::Drain(Drain {})]);
    assert_eq!(bench.says(Report::Drain), []);
    assert_eq!(
        after_ready(bench.returns()),
        [at_work(), Kind::Drain(Drain {})]
    );
}

#[test]
fn a_worker_that_is_to_leave_goes_at_once_where_nobody_waits_for_it() {
    let mut alone = Bench::knocking();
    assert_eq!(exit(&alone.says(Report::Drain)), Ok(()));
    let mut pooled = Bench::ready();
    assert_eq!(said(&pooled.says(Report::Drain)).len(), 1);
    assert_eq!(exit(&pooled.event(Event::Closed("reset".into()))), Ok(()));
    // A member goes on: the others need its share of the step.
    let mut member = Bench::training(0);
    member.event(Event::Closed("reset".into()));
    assert_eq!(member.says(Report::Drain), []);
    assert!(!member.session.is_ended());
}

#[test]
fn a_worker_that_fails_says_why_and_exits() {
    let mut bench = Bench::training(0);
    let failed = Failed {
        message: "the disk is full".into(),
        fatal: false,
    };
    let effects = bench.says(Report::Failed(failed.clone()));
    assert_eq!(said(&effects), [Kind::Failed(failed)]);
    assert_eq!(exit(&effects), Err("the disk is full".into()));
}

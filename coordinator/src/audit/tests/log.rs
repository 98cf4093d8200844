//! Doctored logs.

use super::job::{root, step, stored};
use super::*;

#[test]
fn a_job_with_deaths_and_a_second_coordinator_is_sound() {
    let audit = Audit::of(&stored());
    assert_eq!(audit.findings, []);
    let account = &audit.account;
    assert_eq!(
        (account.log_entries, account.terms, account.generations),
        (14, 2, 3)
    );
    assert_eq!(
        (account.epochs, account.steps, account.planned_steps),
        (2, 6, 6)
    );
    assert_eq!(account.samples_applied, 20);
    assert_eq!(account.steps_confirmed_by_all, 6);
    assert_eq!(account.steps_recomputed, 2);
    assert_eq!(account.ended.as_deref(), Some("finished"));
    assert_eq!(account.ledger_root, Some(root(6)));
    assert_eq!(audit.replica_hash(6), Some(0x1005));
}

#[test]
fn a_job_under_way_is_sound_as_far_as_it_goes() {
    for entries in 0..14 {
        let mut stored = stored();
        stored.log.truncate(entries);
        stored.manifests.clear();
        stored.reports.clear();
        assert_eq!(
            Audit::of(&stored).findings,
            [],
            "the first {entries} entries"
        );
    }
}

#[test]
fn steps_that_a_broken_generation_left_count_as_confirmed_by_survivors() {
    let mut stored = stored();
    stored.log.truncate(8);
    stored.manifests.clear();
    stored.reports.clear();
    let account = Audit::of(&stored).account;
    assert_eq!(
        (
            account.steps_confirmed_by_all,
            account.steps_confirmed_by_survivors
        ),
        (4, 1)
    );
}

#[test]
fn a_missing_entry_is_named_and_what_is_lost_with_it() {
    let missing = |stored: &mut Stored| stored.log[11].content = Err("it is missing".into());
    finds(
        missing,
        &[
            ("log/11", "it is missing"),
            ("log", "epoch 1 misses 2 of its 10 samples"),
            ("checkpoint/6", "the log has only the first 5 steps"),
            ("report/6", "none, as steps before are missing"),
        ],
    );
    finds(
        |stored| stored.log[4].content = Err("it is missing".into()),
        &[
            ("log/4", "it is missing"),
            ("checkpoint/3", "its history has epoch 1, the log does not"),
            ("checkpoint/3", "its `metric` is 0.5"),
            ("checkpoint/6", "its history has epoch 1, the log does not"),
            ("report/6", "it has epoch 1, the log does not"),
        ],
    );
}

#[test]
fn a_log_that_lost_its_end_is_behind_its_checkpoints() {
    finds(
        |stored| stored.log.truncate(11),
        &[
            (
                "checkpoint/6",
                "it is of step 6, but the log has only the first 5 steps",
            ),
            ("report/6", "its ledger root is"),
            ("report/6", "it has epoch 2, the log does not"),
        ],
    );
}

#[test]
fn a_changed_number_of_a_step_breaks_the_root_of_the_first_checkpoint_after_it() {
    finds(
        |stored| steps_at(stored, 11)[0].replica_hash ^= 1,
        &ROOTS_OF_6,
    );
    finds(
        |stored| steps_at(stored, 11)[0].learning_rate *= 2.0,
        &with_roots(&[(
            "log/12",
            "`learning_rate` 0.001, its steps in the log give 0.002",
        )]),
    );
    finds(
        |stored| steps_at(stored, 11)[0].loss_sum = 5.2,
        &with_roots(&[("log/12", "the record of epoch 2 has `train_loss`")]),
    );
}

#[test]
fn a_changed_step_before_two_checkpoints_breaks_both() {
    finds(
        |stored| steps_at(stored, 3)[0].replica_hash ^= 1,
        &[
            ("checkpoint/3", "one of steps 1 to 3 in the log"),
            ("checkpoint/6", "one of steps 1 to 6 in the log"),
            ("report/6", "its ledger root is"),
        ],
    );
}

#[test]
fn a_step_that_is_missing_twice_there_or_swapped_is_named() {
    finds(
        |stored| drop(steps_at(stored, 2).remove(1)),
        &[
            (
                "log/3",
                "epoch 0 step 2 is applied where epoch 0 step 1 is next",
            ),
            ("log", "epoch 0 misses 4 of its 10 samples"),
            ("checkpoint/3", "the log has only the first 1 steps"),
            ("checkpoint/6", "the log has only the first 1 steps"),
            ("report/6", "its ledger root is"),
        ],
    );
    finds(
        |stored| {
            let again = steps_at(stored, 2)[0].clone();
            steps_at(stored, 2).insert(1, again);
        },
        &[
            (
                "log/2",
                "epoch 0 step 0 is applied a second time, where epoch 0 step 1 is next",
            ),
            ("log", "epoch 0 applied 4 of its 10 samples more than once"),
        ],
    );
    finds(
        |stored| steps_at(stored, 2).swap(0, 1),
        &[
            (
                "log/2",
                "epoch 0 step 1 is applied where epoch 0 step 0 is next",
            ),
            (
                "log/2",
                "epoch 0 step 0 is applied where epoch 0 step 2 is next",
            ),
        ],
    );
}

#[test]
fn a_step_with_other_samples_than_planned_is_named() {
    finds(
        |stored| steps_at(stored, 11)[0].samples = 3,
        &with_roots(&[
            ("log/11", "epoch 1 step 2 applied 3 samples, the plan has 2"),
            ("log/12", "`train_loss`"),
            ("log/12", "`train_top1`"),
        ]),
    );
}

#[test]
fn slots_that_nobody_or_two_hold_are_named_with_the_samples() {
    finds(
        |stored| generation_at(stored, 9).members[1].slots = 2..3,
        &[
            ("log/9", "generation 3 deals slot 1 to nobody"),
            ("log", "epoch 1 misses 3 of its 10 samples"),
        ],
    );
    finds(
        |stored| generation_at(stored, 9).members[1].slots = 0..3,
        &[
            ("log/9", "generation 3 deals slot 0 to `w3` and `w4`"),
            ("log", "epoch 1 applied 5 of its 10 samples more than once"),
        ],
    );
}

#[test]
fn a_step_that_members_did_not_confirm_is_named_unless_the_generation_broke_there() {
    finds(
        |stored| steps_at(stored, 2)[0].confirmed = vec![1],
        &[(
            "log/2",
            "the replica after epoch 0 step 0 was confirmed by 1 of 2 members of generation 1, which went on",
        )],
    );
    finds(
        |stored| steps_at(stored, 10)[0].confirmed = vec![0, 0],
        &[("log/10", "epoch 1 step 0 was confirmed by the ranks [0, 0]")],
    );
    finds(
        |stored| steps_at(stored, 10)[0].confirmed = vec![0, 2],
        &[(
            "log/10",
            "epoch 1 step 0 was confirmed by the ranks [0, 2], where generation 3 has 2 members",
        )],
    );
    finds(
        |stored| steps_at(stored, 10)[0].confirmed.clear(),
        &[("log/10", "epoch 1 step 0 was confirmed by the ranks []")],
    );
}

#[test]
fn a_step_that_came_out_otherwise_when_it_was_applied_again_is_named() {
    finds(
        |stored| steps_at(stored, 10)[1].replica_hash = 7,
        &[(
            "log/10",
            "epoch 1 step 1 was applied again with another replica hash: 0000000000000007, at position 7 it was 0000000000001004",
        )],
    );
}

#[test]
fn generations_out_of_turn_are_named() {
    finds(
        |stored| generation_at(stored, 6).id = 4,
        &[
            ("log/6", "generation 4 begins where generation 2 is next"),
            (
                "log/7",
                "epoch 1 step 1 is of generation 2, where generation 4 is in force",
            ),
            ("log/9", "generation 3 begins where generation 5 is next"),
        ],
    );
    finds(
        |stored| generation_at(stored, 6).start.step = 2,
        &[
            (
                "log/6",
                "generation 2 begins at epoch 1 step 2 where epoch 1 step 1 is next",
            ),
            (
                "log/7",
                "epoch 1 step 1 is applied where epoch 1 step 2 is next",
            ),
        ],
    );
    finds(
        |stored| generation_at(stored, 9).checkpoint = Some(4),
        &[(
            "log/9",
            "which is after 3 steps, from the checkpoint of step 4",
        )],
    );
    finds(
        |stored| generation_at(stored, 9).checkpoint = None,
        &[(
            "log/9",
            "generation 3 begins at epoch 1 step 0 where epoch 1 step 2 is next",
        )],
    );
}

#[test]
fn entries_by_others_than_the_ruler_are_named() {
    finds(
        |stored| entry(stored, 3).writer = "somebody".into(),
        &[(
            "log/3",
            "the entry is of term 1 by `somebody`, where term 1 by `c1` rules",
        )],
    );
    finds(
        |stored| entry(stored, 10).term = 1,
        &[(
            "log/10",
            "the entry is of term 1 by `c2`, where term 2 by `c2` rules",
        )],
    );
    finds(
        |stored| entry(stored, 8).term = 1,
        &[
            ("log/8", "term 1 begins after term 1"),
            (
                "log/9",
                "the entry is of term 2 by `c2`, where term 1 by `c2` rules",
            ),
        ],
    );
}

#[test]
fn data_that_changes_under_way_is_named() {
    finds(
        |stored| {
            if let LogEntry::Generation { data, .. } = &mut entry(stored, 9).entry {
                data.fingerprint = "g".into();
            }
        },
        &[("log/9", "all steps are of the same data")],
    );
}

#[test]
fn an_epoch_that_was_not_evaluated_on_all_or_says_otherwise_is_named() {
    finds(
        |stored| {
            if let LogEntry::Epoch { evaluations, .. } = &mut entry(stored, 4).entry {
                evaluations.raw.samples = 1;
            }
        },
        &[(
            "log/4",
            "epoch 1 was evaluated on 1 samples with 2 answers, the data has 2",
        )],
    );
    finds(
        |stored| {
            if let LogEntry::Epoch { record, .. } = &mut entry(stored, 12).entry {
                record.val_top1 = 0.9;
            }
        },
        &[
            (
                "log/12",
                "the record of epoch 2 has `val_top1` 0.9, its evaluation gives 0.5",
            ),
            (
                "checkpoint/6",
                "`val_top1` 0.5 for epoch 2, the log has 0.9",
            ),
            ("report/6", "`val_top1` 0.5 for epoch 2, the log has 0.9"),
        ],
    );
    finds(
        |stored| entry(stored, 4).entry = LogEntry::Scale { wanted: 2 },
        &[
            (
                "log/5",
                "epoch 1 step 0 is applied before epoch 1 was closed",
            ),
            ("checkpoint/3", "the log does not"),
            (
                "checkpoint/3",
                "its `metric` is 0.5, the last evaluation in the log gives none",
            ),
            ("checkpoint/6", "the log does not"),
            ("report/6", "the log does not"),
        ],
    );
}

#[test]
fn an_end_that_comes_too_early_is_named() {
    finds(
        |stored| {
            if let LogEntry::Ended { global_step, .. } = &mut entry(stored, 13).entry {
                *global_step = 5;
            }
        },
        &[
            (
                "log/13",
                "the run finished after 5 steps, the log has 6 before",
            ),
            (
                "log/13",
                "the run finished after 5 of 6 steps and 2 of 2 epochs",
            ),
        ],
    );
}

#[test]
fn numbers_beyond_all_bounds_are_named_in_bounded_time_and_memory() {
    finds(
        |stored| generation_at(stored, 9).members[1].slots.end = u32::MAX,
        &[(
            "log/9",
            "generation 3 deals slots 1..4294967295 to `w4`, where the job has 3",
        )],
    );
    finds(
        |stored| {
            stored.log.truncate(10);
            stored.manifests.clear();
            stored.reports.clear();
            let generation = generation_at(stored, 9);
            (generation.start.epoch, generation.checkpoint) = (u32::MAX, None);
        },
        &[
            (
                "log/9",
                "generation 3 begins at epoch 4294967295 step 0 where epoch 1 step 2 is next",
            ),
            ("log", "epoch 1 misses 2 of its 10 samples"),
        ],
    );
    finds(
        |stored| {
            stored.log.truncate(2);
            stored.manifests.clear();
            stored.reports.clear();
            if let LogEntry::Generation { data, .. } = &mut entry(stored, 1).entry {
                data.train_samples = u64::MAX;
            }
        },
        &[("log", "the data has 18446744073709551615 training samples")],
    );
}

#[test]
fn steps_of_no_generation_or_outside_the_plan_are_named() {
    finds(
        |stored| {
            stored.log.remove(1);
            stored.log.truncate(2);
            stored.manifests.clear();
            stored.reports.clear();
        },
        &[
            (
                "log/2",
                "epoch 0 step 0 is not in the plan of 2 epochs with 0 steps each",
            ),
            (
                "log/2",
                "epoch 0 step 1 is not in the plan of 2 epochs with 0 steps each",
            ),
        ],
    );
    finds(
        |stored| {
            let late = step(3, 2, 0, &[0, 1]);
            entry(stored, 13).entry = LogEntry::Steps { steps: vec![late] };
        },
        &[(
            "log/13",
            "epoch 2 step 0 is not in the plan of 2 epochs with 3 steps each",
        )],
    );
    finds(
        |stored| {
            stored.log.swap(12, 13);
            stored.log.swap(11, 12);
            stored.manifests.clear();
            stored.reports.clear();
        },
        &[
            (
                "log/13",
                "the run finished after 6 steps, the log has 5 before",
            ),
            (
                "log/13",
                "the run finished after 6 of 6 steps and 1 of 2 epochs",
            ),
            (
                "log/11",
                "epoch 1 step 2 is of generation 3, where none is in force",
            ),
        ],
    );
    finds(
        |stored| steps_at(stored, 11)[0].top1 = 3,
        &[
            (
                "log/11",
                "epoch 1 step 2 counts 3 first and 2 fifth guesses right of 2 samples",
            ),
            ("log/12", "`train_top1` 0.3"),
            ROOTS_OF_6[0],
            ROOTS_OF_6[1],
        ],
    );
    finds(
        |stored| generation_at(stored, 9).members[0].worker = "w4".into(),
        &[("log/9", "generation 3 has a member twice")],
    );
    finds(
        |stored| entry(stored, 0).entry = LogEntry::Scale { wanted: 1 },
        &[("log/0", "the log begins with an entry of term 1")],
    );
}

#[test]
fn an_epoch_that_is_closed_without_its_steps_or_again_with_others_is_named() {
    finds(
        |stored| drop(stored.log.remove(11)),
        &[
            (
                "log/12",
                "the record of epoch 2 stands where epoch 1 step 2 is next",
            ),
            ("log", "epoch 1 misses 2 of its 10 samples"),
            (
                "checkpoint/6",
                "the log has only the first 5 steps without a gap",
            ),
            ("report/6", "its ledger root is"),
        ],
    );
    finds(
        |stored| {
            let mut again = stored.log[9].clone();
            let mut closed = stored.log[12].clone();
            let Ok(LogEntry::Epoch { record, .. }) =
                closed.content.as_mut().map(|record| &mut record.entry)
            else {
                panic!("an epoch");
            };
            record.learning_rate = f64::NAN;
            record.grad_norm = f64::NAN;
            (again.path, closed.path) = ("log/again".into(), "log/closed".into());
            let steps = stored.log[10..12].to_vec();
            stored.log.insert(13, again);
            stored.log.splice(14..14, steps);
            stored.log.insert(16, closed);
            generation_at(stored, 13).id = 4;
            for position in [14, 15] {
                let steps = steps_at(stored, position);
                steps.iter_mut().for_each(|step| step.generation = 4);
            }
            if let LogEntry::Epoch { record, .. } = &mut entry(stored, 12).entry {
                record.val_top5 = 0.5;
            }
            if let LogEntry::Epoch { evaluations, .. } = &mut entry(stored, 12).entry {
                evaluations.raw.top5 = 0.5;
            }
        },
        &[
            (
                "log/closed",
                "epoch 2 was closed again with another `val_top5`: 1, before it was 0.5",
            ),
            ("checkpoint/6", "`val_top5` 1 for epoch 2, the log has 0.5"),
            ("report/6", "`val_top5` 1 for epoch 2, the log has 0.5"),
        ],
    );
}

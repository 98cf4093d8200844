//! A sound job, doctored in every way.

pub(crate) mod job;
mod kept;
mod log;

use perennial_plan::Generation;
use perennial_plan::ledger::StepRecord;
use perennial_store::Manifest;

use super::{Audit, Stored};
use crate::log::{LogEntry, LogRecord};
use job::stored;

fn entry(stored: &mut Stored, position: usize) -> &mut LogRecord {
    stored.log[position].content.as_mut().unwrap()
}

fn steps_at(stored: &mut Stored, position: usize) -> &mut Vec<StepRecord> {
    match &mut entry(stored, position).entry {
        LogEntry::Steps { steps } => steps,
        other => panic!("no steps: {other:?}"),
    }
}

fn generation_at(stored: &mut Stored, position: usize) -> &mut Generation {
    match &mut entry(stored, position).entry {
        LogEntry::Generation { generation, .. } => generation,
        other => panic!("no generation: {other:?}"),
    }
}

fn manifest_of(stored: &mut Stored, index: usize) -> &mut Manifest {
    stored.manifests[index].content.as_mut().unwrap()
}

/// Asserts that exactly these are found in the doctored job: the object, and a piece of the sentence.
#[track_caller]
fn finds(doctor: impl FnOnce(&mut Stored), expected: &[(&str, &str)]) {
    let mut stored = stored();
    doctor(&mut stored);
    let findings = Audit::of(&stored).findings;
    let fits = findings.len() == expected.len()
        && findings
            .iter()
            .zip(expected)
            .all(|(finding, (object, message))| {
                finding.object == *object && finding.message.contains(message)
            });
    assert!(fits, "found {findings:#?}\nexpected {expected:#?}");
}

/// What a changed ledger also breaks: the manifest of step 6 and the report.
const ROOTS_OF_6: [(&str, &str); 2] = [
    (
        "checkpoint/6",
        "one of steps 4 to 6 in the log, or the manifest, was changed",
    ),
    ("report/6", "its ledger root is"),
];

fn with_roots<'a>(first: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    first.iter().copied().chain(ROOTS_OF_6).collect()
}

#[test]
fn everything_that_is_wrong_is_listed_not_only_the_first() {
    finds(
        |stored| {
            stored.log[0].content = Err("it is missing".into());
            steps_at(stored, 2)[0].confirmed = vec![1];
            steps_at(stored, 10)[1].replica_hash = 7;
            stored.manifests[0].content = Err("it cannot be used: no".into());
            manifest_of(stored, 1).numerics = "m".into();
        },
        &[
            ("log/0", "it is missing"),
            ("log/2", "confirmed by 1 of 2"),
            ("log/10", "another replica hash"),
            ("checkpoint/3", "it cannot be used"),
            ("checkpoint/6", "numerics class"),
        ],
    );
}

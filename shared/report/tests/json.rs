//! What is written is read back.

mod common;

use perennial_report::{Report, Weights};
use serde_json::Value;

fn message(json: &str) -> String {
    Report::from_json(json).unwrap_err().to_string()
}

#[test]
fn a_report_survives_being_written_and_read() {
    let report = common::report();
    assert_eq!(Report::from_json(&report.to_json_pretty()).unwrap(), report);
}

#[test]
fn the_names_in_the_json_stay_what_they_are() {
    let json: Value = serde_json::from_str(&common::report().to_json_pretty()).unwrap();
    for pointer in [
        "/format_version",
        "/job",
        "/created",
        "/epochs/2/val_top1",
        "/epochs/0/images_per_second",
        "/raw/confusion/0/0",
        "/ema/top5",
        "/ema/mistakes/0/confidence",
        "/weights_sha256",
        "/data/classes/2",
        "/model/parameters",
        "/spec/train/epochs",
        "/raw_classification/accuracy",
        "/ema_classification/classes/0/f1_score",
        "/ema_classification/macro_avg/precision",
    ] {
        assert!(
            json.pointer(pointer).is_some_and(|value| !value.is_null()),
            "{pointer} is missing"
        );
    }
}

#[test]
fn a_run_that_diverged_still_has_a_report() {
    let mut report = common::report();
    report.raw.loss = f64::NAN;
    report.epochs[1].train_loss = f64::INFINITY;
    report.epochs[2].ema_loss = Some(f64::NAN);
    let json = report.to_json_pretty();
    let read = Report::from_json(&json).unwrap();
    assert!(read.raw.loss.is_nan());
    assert!(read.epochs[1].train_loss.is_nan());
    assert_eq!(read.epochs[2].ema_loss, None);
    assert_eq!(read.to_json_pretty(), json);
}

#[test]
fn a_report_of_another_version_is_refused_by_its_number() {
    let json = common::report()
        .to_json_pretty()
        .replace("\"format_version\": 1", "\"format_version\": 7");
    assert!(
        message(&json).contains("`format_version` is `7`"),
        "{}",
        message(&json)
    );
}

#[test]
fn what_is_not_a_report_is_refused_with_the_place() {
    let json = common::report().to_json_pretty();
    assert!(message(&json[..json.len() / 2]).contains("line "));
    assert!(message("{}").contains("format_version"));
    assert!(message(&json.replace("\"job\"", "\"jab\"")).contains("missing field `job`"));
}

#[test]
fn a_report_that_contradicts_itself_is_refused_with_the_field() {
    type Change = fn(&mut Report);
    let changes: [(&str, Change); 5] = [
        ("raw.confusion", |r| r.raw.confusion.truncate(2)),
        ("raw.confusion", |r| r.raw.confusion[1].push(0)),
        ("raw.samples", |r| r.raw.samples = 41),
        ("ema.samples", |r| {
            r.ema.as_mut().unwrap().confusion[0][0] = u64::MAX
        }),
        ("ema.mistakes", |r| {
            r.ema.as_mut().unwrap().mistakes[0].predicted = 3
        }),
    ];
    for (field, change) in changes {
        let mut report = common::report();
        change(&mut report);
        let error = message(&report.to_json_pretty());
        assert!(
            error.starts_with(&format!("report: `{field}` is ")),
            "{error}"
        );
    }
}

#[test]
fn the_report_leads_with_the_better_weights() {
    let mut report = common::report();
    assert_eq!(report.reported().0, Weights::Ema);
    assert_eq!(report.best_epoch().unwrap().epoch, 3);
    report.epochs[0].val_top1 = 0.9;
    report.raw.top1 = 0.9;
    assert_eq!(report.reported().0, Weights::Raw);
    assert_eq!(report.best_epoch().unwrap().epoch, 1);
    report.raw.top1 = f64::NAN;
    assert_eq!(report.reported().0, Weights::Ema);
    report.ema = None;
    assert_eq!(report.reported().0, Weights::Raw);
    report
        .epochs
        .iter_mut()
        .for_each(|record| record.val_top1 = f64::NAN);
    assert_eq!(report.best_epoch(), None);
}

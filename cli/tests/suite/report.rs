use perennial_report::{DataSummary, Evaluation, FORMAT_VERSION, ModelSummary, Report};

use crate::support::{Kept, names, run, spec};

fn report(global_step: u64) -> Report {
    Report {
        format_version: FORMAT_VERSION,
        job: "tiny".into(),
        program_version: "0".into(),
        created: "2026-01-02T03:04:05Z".into(),
        command: None,
        finished: true,
        epochs_done: 1,
        global_step,
        model: ModelSummary {
            name: "casvit_xs".into(),
            parameters: 3,
            weights: None,
        },
        data: DataSummary {
            dir: "/pictures".into(),
            fingerprint: "f".into(),
            classes: vec!["maple".into(), "oak".into()],
            train_samples: 6,
            val_samples: 4,
            skipped: 0,
        },
        raw: Evaluation {
            samples: 4,
            loss: 0.5,
            top1: 0.75,
            top5: 1.0,
            k: 2,
            confusion: vec![vec![2, 0], vec![1, 1]],
            mistakes: Vec::new(),
        },
        ema: None,
        weights_sha256: None,
        ema_sha256: None,
        ledger_root: None,
        numerics: "test".into(),
        workers: 1,
        generations: 1,
        epochs: Vec::new(),
        spec: serde_json::to_value(spec()).unwrap(),
    }
}

fn kept() -> Kept {
    let kept = Kept::empty();
    for step in [10, 20] {
        let json = report(step).to_json_pretty();
        kept.block_on(kept.job.create_report(step, "json", json))
            .unwrap();
    }
    kept
}

#[test]
fn a_report_is_shown_in_each_format() {
    let kept = kept();
    let expected = report(20);
    assert_eq!(
        kept.run("report tiny").ok().trim_end(),
        expected.to_text().trim_end()
    );
    assert_eq!(
        kept.run("report tiny --format html").ok().trim_end(),
        expected.to_html().trim_end()
    );
    let json = kept.run("report tiny --format json --step 10").ok();
    assert_eq!(Report::from_json(&json).unwrap(), report(10));
    let line = kept.run("report tiny --json").ok();
    assert_eq!(line.lines().count(), 1);
    assert_eq!(Report::from_json(&line).unwrap(), expected);
}

#[test]
fn a_report_goes_to_a_new_file() {
    let kept = kept();
    let line = "report tiny --format html --out report.html";
    assert_eq!(kept.run(line).ok(), "");
    let html = std::fs::read_to_string(kept.folder.path().join("report.html")).unwrap();
    assert_eq!(html, report(20).to_html());
    assert_eq!(
        kept.run(line).refused(1),
        "`report.html` exists already and is not overwritten"
    );
    assert_eq!(names(kept.folder.path()), ["report.html", "store"]);
}

#[test]
fn a_report_that_is_not_there_is_said_to_be_missing() {
    assert_eq!(
        kept().run("report tiny --step 15").refused(1),
        "job `tiny` has no report of step 15: it has 10, 20"
    );
    let sentence = Kept::empty().run("report tiny").refused(1);
    assert!(
        sentence.starts_with("job `tiny` has no report yet: "),
        "{sentence}"
    );
}

#[test]
fn a_report_that_is_damaged_is_named() {
    let kept = Kept::empty();
    kept.block_on(kept.job.create_report(10, "json", "{"))
        .unwrap();
    let sentence = kept.run("report tiny").refused(1);
    assert!(
        sentence.starts_with("report of step 10 of job `tiny`: "),
        "{sentence}"
    );
}

#[test]
fn reports_of_several_jobs_are_put_side_by_side() {
    let kept = kept();
    let folder = kept.folder.path();
    let line = ["report", "tiny", "--store", "store", "--compare", "tiny"];
    let table = run(folder, &line).ok();
    let head = table.lines().next().unwrap();
    assert_eq!(
        head.split_whitespace().collect::<Vec<_>>(),
        ["tiny", "tiny"]
    );
    let steps = table
        .lines()
        .find(|line| line.starts_with("steps"))
        .unwrap();
    assert_eq!(
        steps.split_whitespace().collect::<Vec<_>>(),
        ["steps", "20", "20"]
    );
    let json = run(folder, &[&line[..], &["--json"]].concat()).json();
    assert_eq!(json["jobs"], serde_json::json!(["tiny", "tiny"]));
    let line = ["report", "tiny", "--store", "store", "--compare", "other"];
    let sentence = run(folder, &line).refused(1);
    assert!(sentence.contains("no job `other`"), "{sentence}");
}

//! What is logged to stderr.

use serde_json::Value;

use crate::support::{command, ran, workshop};

#[test]
fn each_line_of_a_structured_log_says_whose_it_is() {
    let folder = workshop();
    let mut train = command(folder.path());
    train.args(["train", "job.toml", "--workers", "2", "--threads", "1"]);
    // Retention has something to say.
    train.args(["--set", "checkpoint.every_steps=1"]);
    train.args([
        "--set",
        "checkpoint.keep_last=1",
        "--set",
        "checkpoint.keep_best=0",
    ]);
    let train = train.env("PERENNIAL_LOG", "debug");
    let ran = ran(train.env("PERENNIAL_LOG_FORMAT", "json").output().unwrap());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<Value> = (ran.stderr.lines())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let keys = [
        "timestamp",
        "level",
        "target",
        "message",
        "job",
        "generation",
        "member",
    ];
    for line in &lines {
        let line = line.as_object().unwrap();
        assert!(keys.iter().all(|key| line.contains_key(*key)), "{line:?}");
    }
    for member in ["w1", "w2"] {
        let mut of_member = lines.iter().filter(|line| line["member"] == member);
        let told = of_member.any(|line| line["job"] == "tiny" && line["generation"] == 1);
        assert!(told, "nothing of {member} in {}", ran.stderr);
    }
    let coordinator = |line: &Value| {
        let target = line["target"].as_str().unwrap();
        target.starts_with("perennial_coordinator") && line["job"] == "tiny"
    };
    assert!(lines.iter().any(coordinator), "{}", ran.stderr);
}

#[test]
fn a_log_format_that_does_not_exist_is_refused() {
    let folder = workshop();
    let mut status = command(folder.path());
    let status = status.arg("status").env("PERENNIAL_LOG_FORMAT", "xml");
    let expected = "variable `PERENNIAL_LOG_FORMAT` is `xml`, but must be `text` or `json`";
    assert_eq!(ran(status.output().unwrap()).refused(2), expected);
}

//! Wrong words: one sentence with what is wrong and what to do.

use crate::support::{Kept, run, trained, workshop, write};

/// The sentences of these command lines in `folder`, each of which has to have those words.
#[track_caller]
fn assert_told(folder: &std::path::Path, wrong: &[(&str, &[&str])]) {
    for (line, words) in wrong {
        let line: Vec<&str> = line.split(' ').collect();
        let ran = run(folder, &line);
        assert!(matches!(ran.code, Some(1 | 2)), "{line:?}: {ran:?}");
        let first = ran.stderr.lines().next().unwrap_or_default();
        for word in *words {
            assert!(first.contains(word), "`{word}` is not in: {first}");
        }
    }
}

#[test]
fn what_does_not_fit_a_job_that_is_over_is_told_with_what_would() {
    let folder = trained();
    write(folder.path(), "start.pth", "no weights");
    assert_told(
        folder.path(),
        &[
            ("logs tiny --worker w9", &["no worker `w9`", "w1"]),
            ("stop tiny", &["job `tiny` is finished", "perennial status"]),
            ("scale tiny 2", &["job `tiny` is finished"]),
            ("report --compare tiny", &["`tiny` is one job"]),
            ("report --compare tiny other", &["no job `other`"]),
            (
                "curves tiny --out curves.bmp",
                &["`.bmp`", ".svg", "--format"],
            ),
            ("report tiny --out no/report.txt", &["no folder `no`"]),
            (
                "train job.toml --set name=other --set model.weights=start.pth",
                &["`start.pth`"],
            ),
            (
                "submit job.toml --dry-run --set model.weights=start.pth",
                &["`start.pth`"],
            ),
            ("status other", &["it has tiny"]),
        ],
    );
}

#[test]
fn a_word_that_no_command_takes_is_told_with_what_it_takes() {
    let folder = workshop();
    assert_told(
        folder.path(),
        &[
            ("priority tiny high", &["'high'", "a whole number"]),
            ("scale tiny 99999999999", &["99999999999"]),
            ("train job.toml --set nothing=1", &["`nothing`", "`train`"]),
            ("train job.toml --set ema.off=1", &["`ema` has `decay`"]),
            ("status --store s3://", &["s3://bucket/prefix"]),
            (
                "certs issue nowhere worker",
                &["perennial certs init nowhere"],
            ),
            (
                "coordinator --listen nowhere --store store",
                &["`nowhere`", "HOST:PORT"],
            ),
        ],
    );
}

#[test]
fn a_job_without_workers_has_logs_of_none() {
    let kept = Kept::empty();
    let sentence = kept.run("logs tiny --worker w1").refused(1);
    assert!(sentence.contains("it has had none yet"), "{sentence}");
}

//! What is wrong with a job file or the command line: one sentence, exit status 2, nothing written.

use std::path::Path;

use crate::support::{command, names, ran, run, workshop, write};

fn refuses(folder: &Path, job: &str, arguments: &[&str], expected: &str) {
    write(folder, "bad.toml", job);
    let before = names(folder);
    let mut line = vec!["train", "bad.toml"];
    line.extend(arguments);
    let sentence = run(folder, &line).refused(2);
    assert_eq!(sentence, expected);
    assert_eq!(names(folder), before, "nothing is written");
}

#[test]
fn a_mistake_in_the_job_file_is_told_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let data = "[data]\ndir = \"x\"\n";
    for (job, arguments, expected) in [
        (
            "[train]\nepoch = 3\n",
            &[][..],
            "unknown key `train.epoch` in `bad.toml`: did you mean `train.epochs`?",
        ),
        (
            "[train]\nepochs = \"three\"\n",
            &[],
            "`train.epochs` in `bad.toml` has a wrong value: \
             found string \"three\", expected a whole number, not negative",
        ),
        (
            data,
            &["--set", "train.epochs=0"],
            "job file: `train.epochs` is 0, but must be at least 1",
        ),
        (
            "",
            &[],
            "job file: `data.dir` is \"\", but must be a folder of pictures or a pack; set it there or with --data",
        ),
        (
            data,
            &["--set", "model.name=resnet"],
            "job file: `model.name` is \"resnet\", but must be casvit_xs, casvit_s, casvit_m or casvit_t",
        ),
        (
            data,
            &["--set", "train"],
            "`--set train` is not an assignment: write it as `--set section.key=value`",
        ),
    ] {
        refuses(folder.path(), job, arguments, expected);
    }
}

#[test]
fn a_variable_of_the_environment_is_a_setting_like_any_other() {
    let folder = workshop();
    let output = command(folder.path())
        .args(["train", "job.toml"])
        .env("PERENNIAL_TRAIN__BATCH_SIZE", "some")
        .output()
        .unwrap();
    assert_eq!(
        ran(output).refused(2),
        "`train.batch_size` in environment variable `PERENNIAL_TRAIN__BATCH_SIZE` has a wrong value: \
         found string \"some\", expected a whole number, not negative"
    );
}

#[test]
fn a_job_file_that_is_not_there_or_not_toml_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let sentence = run(folder.path(), &["train", "no.toml"]).refused(2);
    assert!(
        sentence.starts_with("cannot read job file `no.toml`: "),
        "{sentence}"
    );
    write(folder.path(), "bad.toml", "name = tiny\n");
    let sentence = run(folder.path(), &["train", "bad.toml"]).refused(2);
    assert!(
        sentence.starts_with("job file `bad.toml` is not TOML: line 1: "),
        "{sentence}"
    );
}

#[test]
fn a_wrong_command_line_is_status_2_and_help_and_version_are_0() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["dance"][..],
        &["train"],
        &["train", "job.toml", "--workers", "0"],
        &["checkpoint", "export", "tiny"],
        &[
            "checkpoint",
            "export",
            "tiny",
            "--out",
            "x",
            "--best",
            "--step",
            "3",
        ],
        &[],
    ] {
        let ran = run(folder.path(), arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}");
        assert_eq!(ran.stdout, "");
    }
    assert!(run(folder.path(), &["--help"]).ok().contains("checkpoint"));
    let version = run(folder.path(), &["--version"]).ok();
    assert_eq!(
        version,
        format!("perennial {}\n", env!("CARGO_PKG_VERSION"))
    );
}

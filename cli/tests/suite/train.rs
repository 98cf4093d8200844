//! What `train` refuses before it starts anything.

use crate::support::{names, run, workshop, write};

#[test]
fn a_data_folder_that_cannot_be_used_is_named_and_nothing_is_written() {
    let folder = workshop();
    let root = folder.path().canonicalize().unwrap();
    let root = root.display();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    std::fs::create_dir_all(folder.path().join("one/oak")).unwrap();
    for name in ["a", "b", "c"] {
        write(folder.path(), &format!("one/oak/{name}.png"), "x");
    }
    let before = names(folder.path());
    for (data, expected) in [
        (
            "nowhere",
            format!("data folder `{root}/nowhere` is not there"),
        ),
        ("empty", format!("no pictures in `{root}/empty`: ")),
        ("one", format!("only one class, `oak`, in `{root}/one`: ")),
    ] {
        let sentence = run(folder.path(), &["train", "job.toml", "--data", data]).refused(1);
        assert!(sentence.starts_with(&expected), "{sentence}");
        assert_eq!(names(folder.path()), before);
    }
}

#[test]
fn a_number_of_workers_that_the_job_does_not_allow_is_refused() {
    let folder = workshop();
    let set = [
        "--set",
        "elastic.min_workers=2",
        "--set",
        "elastic.max_workers=3",
    ];
    for (workers, expected) in [
        (
            "1",
            "1 workers are fewer than `elastic.min_workers`, which is 2",
        ),
        (
            "4",
            "4 workers are more than `elastic.max_workers`, which is 3",
        ),
    ] {
        let mut line = vec!["train", "job.toml", "--workers", workers];
        line.extend(set);
        assert_eq!(run(folder.path(), &line).refused(1), expected);
    }
    assert_eq!(names(folder.path()), ["job.toml", "pictures"]);
}

#[test]
fn a_reduction_that_workers_on_a_cpu_cannot_do_is_refused() {
    let folder = workshop();
    let line = ["train", "job.toml", "--set", "train.reduction=fast"];
    assert_eq!(
        run(folder.path(), &line).refused(1),
        "job file: `train.reduction` is \"fast\", which only sums over NCCL between GPUs can be; \
         these workers sum over TCP, which is \"exact\": set it to that"
    );
    assert_eq!(names(folder.path()), ["job.toml", "pictures"]);
}

#[test]
fn a_store_that_is_a_file_or_cannot_be_reached_is_named() {
    let folder = workshop();
    let sentence = run(folder.path(), &["train", "job.toml", "--store", "job.toml"]).refused(1);
    assert!(sentence.contains("job.toml"), "{sentence}");
    let sentence = run(
        folder.path(),
        &["train", "job.toml", "--store", "ftp://x/y"],
    )
    .refused(1);
    assert!(sentence.contains("ftp://x/y"), "{sentence}");
    assert_eq!(names(folder.path()), ["job.toml", "pictures"]);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_gpu_is_refused_by_a_program_that_was_built_without_them() {
    let folder = workshop();
    let line = ["train", "job.toml", "--device", "cuda:0"];
    assert_eq!(
        run(folder.path(), &line).refused(1),
        "`cuda:0` needs a program built for GPUs: `cargo build --release --features cuda`; this one computes on `cpu`"
    );
    assert_eq!(names(folder.path()), ["job.toml", "pictures"]);
    let sentence = run(folder.path(), &["doctor"]).ok();
    assert!(
        sentence.contains("not built in: `cargo build --release --features cuda`"),
        "{sentence}"
    );
}

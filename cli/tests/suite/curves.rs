//! `curves`, and event files of a training.

use std::path::Path;

use perennial_report::events::{Event, What};
use prost::Message;
use serde_json::Value;

use crate::support::{Kept, names, run, train, workshop};

/// The steps of every tag in the only, or the last, event file of the folder.
fn tags(folder: &Path) -> Vec<(String, i64)> {
    let name = names(folder).pop().unwrap();
    let bytes = std::fs::read(folder.join(name)).unwrap();
    let (mut rest, mut tags) = (bytes.as_slice(), Vec::new());
    while let [a, b, c, d, e, f, g, h, ..] = *rest {
        let length = u64::from_le_bytes([a, b, c, d, e, f, g, h]) as usize;
        let event = Event::decode(&rest[12..][..length]).unwrap();
        if let Some(What::Summary(summary)) = event.what {
            let values = summary.value.into_iter();
            tags.extend(values.map(|value| (value.tag, event.step)));
        }
        rest = &rest[16 + length..];
    }
    tags
}

#[test]
fn the_curves_of_a_job_are_text_lines_of_json_an_image_or_events() {
    let folder = workshop();
    let folder = folder.path();
    train(
        folder,
        &["--tensorboard", "live", "--set", "train.epochs=2"],
    );
    let perennial = |line: &str| run(folder, &line.split(' ').collect::<Vec<_>>());

    let text = perennial("curves tiny").ok();
    for word in [
        "tiny",
        "Loss",
        "Top-1",
        "Top-3",
        "Learning rate",
        "validation",
        "epoch",
    ] {
        assert!(text.contains(word), "{word} is missing in {text}");
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );

    let json = perennial("curves tiny --json").ok();
    let records: Vec<Value> = json
        .lines()
        .map(|it| serde_json::from_str(it).unwrap())
        .collect();
    assert_eq!(records.len(), 2);
    for (epoch, record) in (1..).zip(&records) {
        assert_eq!(
            (&record["event"], &record["epoch"]),
            (&"epoch".into(), &epoch.into())
        );
        assert!(
            record["val_loss"].is_f64() && record["ema_top1"].is_f64(),
            "{record}"
        );
    }
    assert_eq!(json, perennial("curves tiny --format json").ok());

    perennial("curves tiny --out curves.svg").ok();
    let image = std::fs::read_to_string(folder.join("curves.svg")).unwrap();
    assert!(
        image.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""),
        "{image}"
    );
    assert_eq!(image.matches("class=\"title\"").count(), 4, "{image}");
    assert!(
        perennial("curves tiny --out curves.svg")
            .refused(1)
            .contains("exists already")
    );

    perennial("curves tiny --out curves.png").ok();
    let image = std::fs::read(folder.join("curves.png")).unwrap();
    assert!(image.starts_with(b"\x89PNG\r\n"), "{} bytes", image.len());
    let refused = perennial("curves tiny --format png").refused(1);
    assert!(refused.contains("--out"), "{refused}");

    let answer = perennial("curves tiny --tensorboard stored --json").json();
    let (steps, epochs) = (answer["steps"].as_i64().unwrap(), answer["epochs"].as_i64());
    assert_eq!(epochs, Some(2));
    let stored = tags(&folder.join("stored/tiny"));
    for (tag, count) in [
        ("train/loss", steps),
        ("train/top1", steps),
        ("train/learning_rate", steps),
        ("train/grad_norm", steps),
        ("train/images_per_second", steps),
        ("validation/loss", 2),
        ("validation/top1", 2),
        ("validation/top5", 2),
        ("ema/loss", 2),
        ("ema/top1", 2),
        ("ema/top5", 2),
    ] {
        let of_tag = stored.iter().filter(|(name, _)| name == tag);
        let found: Vec<i64> = of_tag.map(|(_, step)| *step).collect();
        assert_eq!(found.len() as i64, count, "{tag}: {found:?}");
        assert!(
            found.is_sorted() && found.ends_with(&[steps]),
            "{tag}: {found:?}"
        );
    }
    assert_eq!(
        tags(&folder.join("live/tiny")),
        stored,
        "written as it trained"
    );
    perennial("curves tiny --tensorboard stored").ok();
    assert_eq!(
        names(&folder.join("stored/tiny")).len(),
        2,
        "nothing is written over"
    );
}

#[test]
fn a_job_without_an_epoch_has_no_curves_and_says_so() {
    let kept = Kept::empty();
    assert_eq!(
        kept.run("curves tiny").refused(1),
        "job `tiny` has no curves yet: its first epoch is not done"
    );
    assert_eq!(
        kept.run("curves tiny --tensorboard runs").refused(1),
        "job `tiny` has not taken a step yet"
    );
    assert_eq!(names(kept.folder.path()), ["store"]);
}

#[test]
fn a_folder_that_cannot_be_written_for_tensorboard_does_not_stop_the_training() {
    let folder = workshop();
    let line = [
        "train",
        "job.toml",
        "--threads",
        "1",
        "--tensorboard",
        "job.toml",
    ];
    let ran = run(folder.path(), &line);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("finished"), "{ran:?}");
    let warnings: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(warnings.len(), 1, "said once: {ran:?}");
    assert!(
        warnings[0].contains("no more is written for TensorBoard: cannot make the folder"),
        "{ran:?}"
    );
}

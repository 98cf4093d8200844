use crate::support::{names, run, workshop, write};

#[test]
fn a_split_puts_every_picture_on_one_side_and_leaves_the_source() {
    let folder = workshop();
    let answer = run(
        folder.path(),
        &["data", "split", "pictures", "sides", "--stratify", "--json"],
    )
    .json();
    assert_eq!((&answer["train"], &answer["val"]), (&21.into(), &9.into()));
    let classes = names(&folder.path().join("pictures"));
    assert_eq!(classes, names(&folder.path().join("sides/train")));
    for class in &classes {
        let count = |dir: &str| names(&folder.path().join(dir).join(class)).len();
        assert_eq!(count("pictures"), 10);
        assert_eq!((count("sides/train"), count("sides/val")), (7, 3));
    }

    let text = run(folder.path(), &["data", "split", "pictures", "again"]).ok();
    let last = text.lines().last().unwrap();
    assert_eq!(last, "30 pictures in again");
    assert!(text.contains("all             21    9"), "{text}");
}

#[test]
fn a_split_that_cannot_be_leaves_the_destination_as_it_was() {
    let folder = workshop();
    std::fs::create_dir(folder.path().join("used")).unwrap();
    write(folder.path(), "used/note.txt", "mine");
    let sentence = run(folder.path(), &["data", "split", "pictures", "used"]).refused(1);
    assert_eq!(
        sentence,
        "folder `used` is not empty: name a new or an empty one"
    );
    assert_eq!(names(&folder.path().join("used")), ["note.txt"]);

    let sentence = run(folder.path(), &["data", "split", "nowhere", "new"]).refused(1);
    assert_eq!(sentence, "data folder `nowhere` is not there");
    assert!(!folder.path().join("new").exists());

    for share in ["0", "1", "NaN", "half"] {
        let ran = run(
            folder.path(),
            &["data", "split", "pictures", "new", "--val", share],
        );
        assert_eq!(ran.code, Some(2));
        assert!(
            ran.stderr
                .contains("must be between 0 and 1, both excluded"),
            "{ran:?}"
        );
    }
    assert!(!folder.path().join("new").exists());
}

#[test]
fn statistics_are_ready_for_the_job_file() {
    let folder = workshop();
    let text = run(folder.path(), &["data", "stats", "pictures"]).ok();
    let table: toml::Table = text.parse().unwrap();
    let json = run(folder.path(), &["data", "stats", "pictures", "--json"]).json();
    for key in ["mean", "std"] {
        for channel in 0..3 {
            let written = table[key][channel].as_float().unwrap();
            let exact = json["over_all_pixels"][key][channel].as_f64().unwrap();
            assert!((0.0..1.0).contains(&exact));
            assert!((written - exact).abs() < 1e-6);
        }
    }
    assert_eq!(json["pictures"], 30);
    assert_ne!(
        json["over_all_pixels"]["std"],
        json["mean_over_pictures"]["std"]
    );
}

#[test]
fn statistics_of_a_split_folder_leave_out_what_validates() {
    let folder = workshop();
    run(folder.path(), &["data", "split", "pictures", "sides"]).ok();
    let json = run(folder.path(), &["data", "stats", "sides", "--json"]).json();
    assert_eq!(json["pictures"], 21);
}

#[test]
fn a_broken_picture_is_named() {
    let folder = workshop();
    let classes = names(&folder.path().join("pictures"));
    let broken = format!("pictures/{}/0003.png", classes[0]);
    write(folder.path(), &broken, "not a picture");
    let sentence = run(folder.path(), &["data", "stats", "pictures"]).refused(1);
    assert!(
        sentence.starts_with(&format!("picture `{broken}` cannot be used: ")),
        "{sentence}"
    );
}

#[test]
fn drawing_refuses_what_it_cannot_draw_and_a_used_folder() {
    let folder = workshop();
    let sentence = run(folder.path(), &["data", "synth", "new", "--size", "5"]).refused(1);
    assert!(sentence.contains("5 pixels"), "{sentence}");
    assert!(!folder.path().join("new").exists());
    let sentence = run(folder.path(), &["data", "synth", "pictures"]).refused(1);
    assert!(sentence.contains("`pictures` is not empty"), "{sentence}");
}

#[test]
fn a_pack_is_told_by_its_sides_and_packing_again_changes_nothing() {
    let folder = workshop();
    let classes = names(&folder.path().join("pictures"));
    let broken = format!("pictures/{}/0003.png", classes[0]);
    write(folder.path(), &broken, "not a picture");
    let line = ["data", "pack", "pictures", "packed", "--val", "0.2"];
    let answer = run(folder.path(), &[&line[..], &["--json"]].concat()).json();
    assert_eq!(
        (&answer["pictures"], &answer["classes"]),
        (&30.into(), &3.into())
    );
    assert_eq!(answer["val"]["pictures"], 6);
    assert_eq!(answer["found"], 0);
    assert_eq!(answer["broken"][0]["path"], broken["pictures/".len()..]);
    let objects = names(&folder.path().join("packed"));
    let expected = [
        "PACK.json",
        "train-000000.idx",
        "train-000000.tar",
        "val-000000.idx",
        "val-000000.tar",
    ];
    assert_eq!(objects, expected);

    let text = run(folder.path(), &line).ok();
    assert!(text.contains("train        24       1"), "{text}");
    assert!(text.contains("2 shards of them there already"), "{text}");
    assert!(text.contains("in no shard: `"), "{text}");
    assert!(
        text.contains("30 pictures of 3 classes in packed, index "),
        "{text}"
    );
    assert_eq!(names(&folder.path().join("packed")), objects);
}

#[test]
fn a_pack_that_cannot_be_made_or_taken_apart_is_refused() {
    let folder = workshop();
    run(folder.path(), &["data", "pack", "pictures", "packed"]).ok();
    let pack = |dir: &str, url: &str| run(folder.path(), &["data", "pack", dir, url]).refused(1);
    assert_eq!(
        pack("packed", "again"),
        "`packed` is a pack: name the folder that it was made of"
    );
    assert_eq!(
        pack("nowhere", "again"),
        "data folder `nowhere` is not there"
    );
    assert!(pack("pictures", "pictures/deep").contains("inside of the source"));
    run(
        folder.path(),
        &[
            "data",
            "synth",
            "others",
            "--per-class",
            "2",
            "--size",
            "32",
        ],
    )
    .ok();
    let sentence = pack("others", "packed");
    assert!(
        sentence.contains("`packed` holds a complete pack of other pictures"),
        "{sentence}"
    );
    let sentence = run(folder.path(), &["data", "split", "packed", "sides"]).refused(1);
    assert_eq!(
        sentence,
        "`packed` is a pack: name the folder that it was made of"
    );
    assert!(!folder.path().join("sides").exists());
    assert!(!folder.path().join("again").exists());
    // One that was interrupted says so.
    std::fs::remove_file(folder.path().join("packed/PACK.json")).unwrap();
    let sentence = run(folder.path(), &["data", "stats", "packed"]).refused(1);
    assert!(
        sentence.starts_with("no pack at `packed`: `PACK.json` is not there"),
        "{sentence}"
    );
}

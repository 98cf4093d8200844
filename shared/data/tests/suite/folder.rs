use std::fs;
use std::path::Path;

use perennial_data::split::train_test_split;
use perennial_data::{DataError, DataSet, Side, split_folder};
use perennial_plan::spec::{DataSpec, OnBadImage};

use crate::support::{noise, picture_folder, relatives, save};

fn spec(dir: &Path) -> DataSpec {
    DataSpec {
        dir: dir.to_str().unwrap().to_string(),
        ..DataSpec::default()
    }
}

fn refusal(dir: &Path) -> String {
    let message = DataSet::open(&spec(dir)).unwrap_err().to_string();
    assert!(
        message.contains(dir.to_str().unwrap()),
        "the path is named: {message}"
    );
    message
}

#[test]
fn a_folder_is_listed_by_class_and_name_in_byte_order() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for name in [
        "b/2.JPG",
        "b/10.png",
        "b/a.WebP",
        "B/x.gif",
        "B/.hidden.png",
        "B/notes.txt",
    ] {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    fs::create_dir_all(root.join(".cache")).unwrap();
    fs::create_dir_all(root.join("nothing")).unwrap();
    fs::create_dir_all(root.join("b/deeper.png")).unwrap();

    let data = DataSet::open(&spec(root)).unwrap();
    assert_eq!(data.classes, ["B", "b"]);
    assert_eq!(data.empty_folders, ["nothing"]);
    let (train, val) = (relatives(&data, Side::Train), relatives(&data, Side::Val));
    assert!(train.is_sorted_by(|a, b| a < b));
    let mut names = [train, val].concat();
    names.sort_unstable();
    assert_eq!(names, ["B/x.gif", "b/10.png", "b/2.JPG", "b/a.WebP"]);
}

#[test]
fn a_folder_is_split_as_scikit_learn_splits_the_sorted_list() {
    let dir = tempfile::tempdir().unwrap();
    picture_folder(dir.path(), &["a", "b", "c"], 13);
    let data = DataSet::open(&spec(dir.path())).unwrap();
    let mut expected = train_test_split(39, 0.3, 42).unwrap().test;
    expected.sort_unstable();
    let found: Vec<usize> = data
        .val
        .iter()
        .map(|sample| {
            let relative = data.relative(sample).unwrap();
            let number = relative[2..5].parse::<usize>().unwrap();
            sample.class as usize * 13 + number
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(data.len(), 39);
    let counts = data.class_counts(Side::Train);
    assert_eq!(counts.iter().sum::<usize>(), data.train.len());
}

#[test]
fn a_folder_split_on_disk_is_the_same_data_set() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("all"), dir.path().join("split"));
    picture_folder(&from, &["a", "b", "c"], 10);
    for stratify in [false, true] {
        let to = to.join(stratify.to_string());
        let summary = split_folder(&from, &to, 0.3, 7, stratify).unwrap();
        let unsplit = DataSet::open(&DataSpec {
            split_seed: 7,
            stratify,
            ..spec(&from)
        })
        .unwrap();
        let split = DataSet::open(&spec(&to)).unwrap();
        let prints = [&split, &unsplit].map(|data| data.fingerprint().unwrap());
        assert_eq!(prints[0], prints[1]);
        assert_eq!(summary.train, split.class_counts(Side::Train));
        assert_eq!(summary.val, split.class_counts(Side::Val));
        for sample in split.train.iter().chain(&split.val) {
            let original = fs::read(from.join(split.relative(sample).unwrap())).unwrap();
            assert_eq!(fs::read(split.path(sample)).unwrap(), original);
        }
    }
    assert_eq!(
        DataSet::open(&spec(&from)).unwrap().len(),
        30,
        "never moved"
    );
}

#[test]
fn the_fingerprint_sees_name_size_and_side() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for name in [
        "train/a/1.png",
        "train/a/2.png",
        "train/b/1.png",
        "val/a/3.png",
        "val/b/2.png",
    ] {
        save(&root.join(name), &noise(8, 8));
    }
    let print = || {
        let data = DataSet::open(&spec(root)).unwrap();
        data.fingerprint().unwrap()
    };
    let mut seen = vec![print()];
    fs::rename(root.join("train/a/2.png"), root.join("val/a/2.png")).unwrap();
    seen.push(print());
    fs::rename(root.join("val/a/2.png"), root.join("val/a/4.png")).unwrap();
    seen.push(print());
    save(&root.join("val/a/4.png"), &noise(9, 8));
    seen.push(print());
    assert_eq!(seen[0].len(), 64);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_folder_that_is_no_data_set_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    assert!(refusal(&root.join("nowhere")).contains("is not there"));
    assert!(refusal(root).contains("no pictures"));
    save(&root.join("loose.png"), &noise(8, 8));
    assert!(refusal(root).contains("one folder a class"));
    picture_folder(root, &["only"], 4);
    assert!(refusal(root).contains("only one class, `only`"));
    save(&root.join("train/a/1.png"), &noise(8, 8));
    assert!(refusal(root).contains("no `val` folder"));
    fs::create_dir_all(root.join("val")).unwrap();
    assert!(refusal(root).contains("no pictures"));
    save(&root.join("val/stranger/1.png"), &noise(8, 8));
    assert!(refusal(root).contains("class `stranger`"));
}

#[test]
fn splitting_never_writes_where_something_is() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("all");
    picture_folder(&from, &["a", "b"], 4);
    let split = |to: &Path| split_folder(&from, to, 0.3, 42, false);

    let used = dir.path().join("used");
    fs::create_dir_all(&used).unwrap();
    fs::write(used.join("precious.txt"), "mine").unwrap();
    assert!(matches!(split(&used), Err(DataError::NotEmpty(_))));
    assert_eq!(fs::read_dir(&used).unwrap().count(), 1);

    for inside in [
        from.clone(),
        from.join("a/new"),
        from.join("../all/new/deep"),
    ] {
        let refused = split(&inside);
        assert!(
            matches!(
                refused,
                Err(DataError::Inside { .. } | DataError::NotEmpty(_))
            ),
            "{refused:?}"
        );
    }
    assert!(!from.join("new").exists());
    let again = dir.path().join("fresh");
    split(&again).unwrap();
    assert!(matches!(
        split_folder(&again, &dir.path().join("other"), 0.3, 42, false),
        Err(DataError::AlreadySplit { .. })
    ));
}

#[test]
fn a_bad_picture_is_named_or_left_out() {
    let dir = tempfile::tempdir().unwrap();
    picture_folder(dir.path(), &["a", "b"], 10);
    let clean = DataSet::open(&spec(dir.path())).unwrap();
    fs::write(dir.path().join("a/003.png"), "").unwrap();
    fs::write(dir.path().join("b/001.png"), "not a picture at all").unwrap();
    save(&dir.path().join("b/007.png"), &noise(400, 400));
    let opened = DataSet::open(&spec(dir.path())).unwrap();
    let limit = 100_000;

    let error = opened
        .clone()
        .verify(OnBadImage::Fail, limit, |_, _, _| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains(".png` cannot be used: "), "{error}");

    let mut data = opened.clone();
    let mut skipped = data.verify(OnBadImage::Skip, limit, |_, _, _| {}).unwrap();
    skipped.sort_by(|a, b| a.relative.cmp(&b.relative));
    let named: Vec<&str> = skipped.iter().map(|s| s.relative.as_str()).collect();
    assert_eq!(named, ["a/003.png", "b/001.png", "b/007.png"]);
    assert!(skipped[0].reason.contains("empty"));
    assert!(skipped[2].reason.contains("400x400"));
    assert_eq!((data.skipped, data.len()), (3, 17));
    for side in [Side::Train, Side::Val] {
        let clean = relatives(&clean, side);
        for relative in relatives(&data, side) {
            assert!(clean.contains(&relative), "{relative} keeps its side");
        }
    }
    let print = |data: &DataSet| data.fingerprint().unwrap();
    assert_ne!(print(&data), print(&opened));
}

use std::fs;

use perennial_data::synth::{MAX_CLASSES, draw, synth};
use perennial_data::{DataError, DataSet, Pipeline};
use perennial_plan::Spec;

#[test]
fn a_drawn_folder_is_a_data_set_with_one_class_a_species() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("drawn");
    let names = synth(&root, 12, 4, 48, 0).unwrap();
    assert!(names.is_sorted());
    let mut spec = Spec::default();
    spec.data.dir = root.to_str().unwrap().to_string();
    let (pipeline, skipped) = Pipeline::open(&spec).unwrap();
    assert!(skipped.is_empty());
    assert_eq!(pipeline.data().classes, names);
    assert_eq!(pipeline.data().len(), 48);
}

#[test]
fn the_same_seed_draws_the_same_files_and_a_longer_run_begins_like_a_shorter_one() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, per_class, seed| {
        let root = dir.path().join(name);
        synth(&root, 3, per_class, 32, seed).unwrap();
        let spec = Spec::default().data;
        let spec = perennial_plan::spec::DataSpec {
            dir: root.to_str().unwrap().to_string(),
            ..spec
        };
        let data = DataSet::open(&spec).unwrap();
        let mut files: Vec<_> = data
            .train
            .iter()
            .chain(&data.val)
            .map(|sample| {
                let file = fs::read(data.path(sample)).unwrap();
                (data.relative(sample).unwrap(), file)
            })
            .collect();
        files.sort();
        files
    };
    let first = run("first", 3, 5);
    assert_eq!(run("second", 3, 5), first);
    assert_ne!(run("other", 3, 6), first);
    let longer = run("longer", 4, 5);
    assert!(first.iter().all(|file| longer.contains(file)));
}

#[test]
fn plants_are_green_and_soil_is_brown() {
    for class in 0..12 {
        let picture = draw(class, 0, 96, 1);
        let green = picture
            .pixels
            .chunks_exact(3)
            .filter(|pixel| pixel[1] > pixel[0] && pixel[1] > pixel[2])
            .count() as f64
            / (96.0 * 96.0);
        assert!((0.01..0.6).contains(&green), "class {class}: {green}");
        let corner = &picture.pixels[..3];
        assert!(corner[0] >= corner[2], "class {class}: {corner:?}");
    }
}

#[test]
fn more_than_twelve_classes_have_names_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("many");
    let mut names = synth(&root, MAX_CLASSES, 1, 16, 0).unwrap();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), MAX_CLASSES);
}

#[test]
fn nothing_is_drawn_where_something_is_or_for_impossible_wishes() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine.txt"), "mine").unwrap();
    let used = synth(dir.path(), 2, 2, 32, 0);
    assert!(matches!(used, Err(DataError::NotEmpty(_))));
    let new = dir.path().join("new");
    assert!(synth(&new, 0, 1, 32, 0).is_err());
    assert!(synth(&new, MAX_CLASSES + 1, 1, 32, 0).is_err());
    assert!(synth(&new, 2, 1, 4, 0).is_err());
    assert!(!new.exists());
}
